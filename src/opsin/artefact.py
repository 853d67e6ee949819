"""The folder that a Classifier is saved as.

    model.safetensors   weights and buffers
    opsin.json          everything else, and the digests of the other files
    README.md           the model card
    config.json         what timm, and the Hub with it, need to build the network, where they can

Loading executes no code from it; it holds no pickle, clock, path or host.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from . import errors, models, preprocessing
from .classifier import Classifier
from .models import NetworkSpec, bridge

FORMAT = 1
OTHER_TASKS = 2  # the format of multi-label and regression, which a reader of the first would take for classes
WEIGHTS, DESCRIPTION, CARD = "model.safetensors", "opsin.json", "README.md"
HUB = "config.json"  # not for every network, and never read by us


def save(clf: Classifier, folder: Path) -> None:
    """Write `clf` as an artefact, all of it or nothing: beside its place first, then renamed.

    Raises:
        CallError: when `folder` exists and is not an artefact.
        MachineError: when it cannot be written.
    """
    if folder.exists() and not (folder / DESCRIPTION).is_file():
        raise errors.CallError("model folder", expected="a new folder or a model to replace", received=folder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in clf.network.state_dict().items()}
    files = {WEIGHTS: safetensors.torch.save(tensors), CARD: _bytes(card(clf))}
    if clf.spec and not bridge.why_not_rebuilt(clf.spec):
        files[HUB] = _bytes(json.dumps(bridge.hub_config(clf.spec, clf.preprocessing, clf.classes), indent=1) + "\n")
    digests = {name: _digest(data) for name, data in files.items()}
    files[DESCRIPTION] = _signed({**_describe(clf), "files": digests})
    with errors.writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = folder.parent / f".{folder.name}-{secrets.token_hex(4)}"
        beside.mkdir()  # who may read it is up to the user's umask, which a temporary folder does not ask
        try:
            for name, data in files.items():
                _write(beside / name, data)
            _swap(beside, folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; the old one goes when the new one stands, and comes back if it cannot."""
    if not folder.exists():
        new.replace(folder)
        return
    old = new.with_name(new.name + "-old")
    folder.replace(old)
    try:
        new.replace(folder)
    except BaseException:
        old.replace(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # a class may be named after a folder whose name is no UTF-8


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _signed(description: dict[str, Any]) -> bytes:
    """The description as JSON with its own digest, which is that of the same bytes with the digest left out."""
    text = _bytes(json.dumps({**description, "digest": ""}, indent=1, ensure_ascii=False) + "\n")
    return text.replace(_UNSIGNED, _UNSIGNED[:-1] + _digest(text).encode() + b'"')


_UNSIGNED = b'\n "digest": ""'  # only the file's own level is indented by one


def _is_intact(data: bytes, digest: object) -> bool:
    signed = _UNSIGNED[:-1] + str(digest).encode() + b'"'
    return data.count(signed) == 1 and _digest(data.replace(signed, _UNSIGNED)) == digest


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())


def _describe(clf: Classifier) -> dict[str, Any]:
    return {
        "format": FORMAT if clf.task == "single-label" else OTHER_TASKS,
        "network": clf.spec.to_dict() if clf.spec else None,
        "preprocessing": clf.preprocessing.to_dict(),
        "classes": list(clf.classes),
        "task": clf.task,
        "temperature": clf.temperature,
        "thresholds": dict(clf.thresholds),
        "unsure_below": clf.unsure_below,
        "facts": dict(clf.facts),
    } | ({"scale": clf.scale} if clf.scale else {})


def load(folder: str | Path, *, network: nn.Module | None = None) -> Classifier:
    """The Classifier that `save` wrote.

    Args:
        folder: the artefact.
        network: the module to fill, where the artefact holds the weights of a user's own.

    Raises:
        ModelError: when there is none, a byte has changed, the format is newer, or the weights do not fit.
    """
    folder = Path(folder)
    described = _read_description(folder)
    data = {name: _checked(folder / name, digest) for name, digest in described["files"].items()}
    spec = NetworkSpec.from_dict(described["network"]) if described["network"] else None
    built = network if network is not None else _built(spec, folder)
    try:
        built.load_state_dict(safetensors.torch.load(data[WEIGHTS]))
    except (RuntimeError, SafetensorError) as error:
        raise errors.ModelError(f"{folder}: the weights do not fit the network", received=str(error)) from error
    return Classifier(
        built,
        spec if network is None else None,
        preprocessing.from_dict(described["preprocessing"]),
        tuple(described["classes"]),
        described["task"],
        described["temperature"],
        described["thresholds"],
        described["facts"],
        described.get("unsure_below", 0.0),
        tuple((mean, deviation) for mean, deviation in described.get("scale", ())),
    )


def _read_description(folder: Path) -> dict[str, Any]:
    try:
        data = (folder / DESCRIPTION).read_bytes()
        described = json.loads(data.decode("utf-8", "surrogateescape"))
        version, names = described["format"], set(described["files"])
    except OSError:
        raise errors.ModelError(f"{folder} is not a model", expected=f"a folder with {DESCRIPTION}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise errors.ModelError(f"{folder / DESCRIPTION} is damaged", received=str(error)) from error
    if version not in (FORMAT, OTHER_TASKS):
        raise errors.ModelError(
            f"{folder}: format {version}",
            expected=f"format {FORMAT} or {OTHER_TASKS}",
            do="Load it with the version of opsin that made it",
        )
    if names - {HUB} != {WEIGHTS, CARD} or _missing(described):
        raise errors.ModelError(f"{folder / DESCRIPTION} is damaged", expected=_KEYS, received=sorted(described))
    if not _is_intact(data, described["digest"]):
        raise _changed(folder / DESCRIPTION)
    return described  # type: ignore[no-any-return]


_KEYS = ("network", "preprocessing", "classes", "task", "temperature", "thresholds", "facts", "files", "digest")


def _missing(described: dict[str, Any]) -> list[str]:
    return [key for key in _KEYS if key not in described]


def _checked(file: Path, digest: str) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise errors.ModelError(f"{file} cannot be read", received=error.strerror or str(error)) from error
    if _digest(data) != digest:
        raise _changed(file)
    return data


def _changed(file: Path) -> errors.ModelError:
    return errors.ModelError(
        f"{file} has changed since it was saved",
        expected="the bytes whose digest it was saved with",
        do="Copy the model again, or train it again",
    )


def _built(spec: NetworkSpec | None, folder: Path) -> nn.Module:
    if spec is None:
        raise errors.ModelError(
            f"{folder} holds the weights of a network of your own",
            do="Load it with opsin.load(folder, network=YourModule()): a model never carries code",
        )
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and then replaced: nobody's draws move
        return models.build(spec)


_MAKES = {
    "single-label": "Tells {} classes apart",
    "multi-label": "Says which of {} labels a picture has",
    "regression": "Estimates, in the unit of its training values",
}


def card(clf: Classifier) -> str:
    """The model card as Markdown: what it answers, how good that is, and what it was made from."""
    facts = clf.facts
    lines = [
        "---",
        "library_name: opsin",
        f"pipeline_tag: {'image-feature-extraction' if clf.task == 'regression' else 'image-classification'}",
        *([f"license: {facts['licence']}"] if facts.get("licence") else []),
        "---",
        "",
        f"# {facts.get('name', 'An opsin classifier')}",
        "",
        f"{_MAKES[clf.task].format(len(clf.classes))}: {', '.join(clf.classes[:50])}"
        f"{' …' if len(clf.classes) > 50 else ''}.",
        "",
        f"Network: {clf.spec.name if clf.spec else 'its maker’s own module'}, {clf.preprocessing.size} px, "
        f"{clf.preprocessing.fit}{f', after {clf.preprocessing.pipeline}' if clf.preprocessing.pipeline else ''}.",
        "",
    ]
    for split, scores in facts.get("scores", {}).items():
        lines += [f"## Scores on {split} ({scores['n']} pictures)", "", "| | value | 95 % interval |", "|---|---|---|"]
        for name, score in scores["overall"].items():
            interval = "none" if score["low"] is None else f"{score['low']:.4f} to {score['high']:.4f}"
            lines.append(f"| {name} | {score['value']:.4f} | {interval} |")
        lines.append("")
    lines += [
        "## Use",
        "",
        "```python",
        "import opsin",
        'clf = opsin.load("this folder")',
        'opsin.predict(clf, "a.jpg")',
        "```",
        "",
        _for_timm(clf),
        "",
    ]
    if facts.get("fingerprint"):
        lines += [f"Data fingerprint: `{facts['fingerprint']}`. Everything else is in `{DESCRIPTION}`.", ""]
    return "\n".join(lines)


def _for_timm(clf: Classifier) -> str:
    if why := bridge.why_not_rebuilt(clf.spec):
        return f"timm cannot load it, so there is no {HUB}: {why}."
    return (
        'The network alone, without preprocessing: `timm.create_model("local-dir:this folder", pretrained=True)`, or '
        "`hf-hub:` and its name on the Hub."
    )
