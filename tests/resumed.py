"""What runs leave, and how tests cut them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np

import opsin
from opsin.vocabulary import Dataset, Event
from tiny import HOW, digests, net, recipe


def cut(data: Dataset, folder: Path, events: int, *, resume: bool = False, **changes: object) -> list[Event]:
    """Break off after so many events."""
    where = {"resume": folder} if resume else {"out": folder}
    stream = opsin.events(data, recipe(**changes), network=net(data), how=HOW, **where)
    told = list(islice(stream, events))
    stream.close()
    return told


def results(folder: Path) -> dict[str, object]:
    """All that must not depend on what happened on the way."""
    logits = {}
    for file in sorted((folder / "logits").iterdir()):
        with np.load(file) as found:
            logits[file.name] = {name: found[name].tolist() for name in found}
    return {
        "model": digests(folder / "model"),
        "scores": (folder / "scores.json").read_bytes(),
        "logits": logits,
        "recipe": (folder / "recipe.toml").read_bytes(),
        "split": (folder / "split.csv").read_bytes(),
    }


def recorded(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def lasting(folder: Path) -> list[dict]:
    """What is recorded, without what tells of going on, of checkpoints and of seconds."""
    texts = ("going on", "measured")
    return [
        event
        for event in recorded(folder)
        if event["kind"] != "checkpoint" and not (event["kind"] == "start" and event["step"])
        if not event["values"].get("text", "").startswith(texts)
    ]


def steps(folder: Path) -> list[int]:
    return [event["step"] for event in recorded(folder) if event["kind"] == "step"]
