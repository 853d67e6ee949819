"""How the pages are built: Sphinx with MyST, the API from the docstrings. Nothing is fetched from the network."""

import opsin

project = "opsin"
author = "the opsin authors"
copyright = author
version = release = opsin.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"npt.ArrayLike": "ArrayLike"}
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}

napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "alabaster"
html_theme_options = {"description": "Pictures to a classifier", "page_width": "1100px", "sidebar_width": "220px"}
html_show_sourcelink = False

# Docstrings are written to be read in the source: `code` in single backticks, drawings indented below a line of text.
default_role = "code"


def as_rst(app, what, name, obj, options, lines):
    """Indented drawings become literal blocks, and `|…|` of mathematics is no substitution."""
    shown, literal, last = [], False, ""
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        if line.strip() and not indented:
            literal = False
        if indented and not literal and number and not lines[number - 1].strip() and last[:1] not in ("", " ", "-"):
            literal = True
            shown += ["::", ""]
        if line.strip():
            last = line
        shown.append(line if literal else _without_bars(line))
    lines[:] = shown


def _without_bars(line):
    parts = line.split("`")
    parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
    return "`".join(parts)


def setup(app):
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon, at 500
