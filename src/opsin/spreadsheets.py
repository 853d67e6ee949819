"""Text in CSV files that no spreadsheet takes for a formula (owasp.org/www-community/attacks/CSV_Injection)."""

from __future__ import annotations

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def guarded(text: str) -> str:
    """The text with a "'" before it where it begins like a formula, or with a "'" of its own, so that it can be undone.

    >>> guarded("=1+1"), bare(guarded("=1+1")), bare(guarded("'a")), bare("'a")
    ("'=1+1", '=1+1', "'a", "'a")
    """
    return "'" + text if text.startswith(_FORMULA) else text


def bare(text: str) -> str:
    """What `guarded` was given."""
    return text[1:] if text[:1] == "'" and text[1:].startswith(_FORMULA) else text
