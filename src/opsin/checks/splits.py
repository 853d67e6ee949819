"""What stands in two splits, and how the splits are made up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from .. import duplicates
from ..duplicates import Pair
from ..errors import some
from ..vocabulary import SPLITS, Finding, Severity
from .looks import FACTS
from .subject import Subject, plural, share, together

FEW = 10  # pictures of a class, below which its score says little
UNEVEN = 10  # times the smallest class's pictures
MOVED = 0.2  # Kolmogorov and Smirnov's distance from which train and test differ by enough to be told
TELLS = 1e-4  # probability that such a distance is chance


def copies(subject: Subject) -> list[Finding]:
    """The same bytes or pixels, within and across splits."""
    exact = [pair for pair in subject.pairs if pair.kind != "near"]
    return _twice(subject, exact, together(exact), "copies", "exact copies")


def near(subject: Subject) -> list[Finding]:
    """The same picture after an editor had it: encoded anew, resized, mirrored, cropped a little, brightened.

    What is like one of several copies is like all of them.
    """
    edited = {key for pair in subject.pairs if pair.kind == "near" for key in (pair.first, pair.second)}
    groups = [group for group in together(subject.pairs) if not edited.isdisjoint(group)]
    found = _twice(subject, subject.pairs, groups, "near", "near-duplicates")
    return [*_unseen(len(subject.looks.data) if subject.looks else 0), *found]


def _unseen(pictures: int) -> list[Finding]:
    """What is not looked at, where there are too many pictures for all pairs."""
    if pictures <= duplicates.MOST:
        return []
    text = f"near-duplicates were looked for among the first {duplicates.MOST:,} of {pictures:,} pictures only"
    return [Finding("near", "note", text, "those of the others are not known", "look at the data in parts")]


def _twice(
    subject: Subject, pairs: Sequence[Pair], groups: Sequence[tuple[str, ...]], kind: str, called: str
) -> list[Finding]:
    """What is told of groups of records that show one picture, each of which `pairs` join."""
    likeness = {
        pair.second: f"like {pair.first}: {pair.kind} {pair.similarity:.2f}{', mirrored' * pair.mirrored}"
        for pair in pairs
    }
    divided = {group: len({subject.split_of[key] for key in group}) > 1 for group in groups}
    found = []
    for tell, apart in ((_across, True), (_within, False)):
        if chosen := tuple(group for group in groups if divided[group] == apart):
            keys = tuple(sorted(key for group in chosen for key in group))
            details = {key: likeness[key] for key in keys if key in likeness}
            found.append(Finding(kind, *tell(subject, chosen, kind, called), keys, chosen, details))
    return found


Told = tuple[Severity, str, str, str]  # severity, text, effect, do


def _across(subject: Subject, groups: Sequence[tuple[str, ...]], kind: str, called: str) -> Told:
    leaked = _leaked(subject, groups)
    tested = len(subject.data.test)
    points = 100 * len(leaked) / max(tested, 1)
    return (
        "error" if leaked else "warning",
        f"{called} across splits: {share(len(leaked), tested)} test pictures are also in train or val"
        if leaked
        else f"{called} across train and val: {plural(len(groups), 'group')}",
        f"they test memory instead of sight: accuracy may be up to {points:.1f} points too good"
        if leaked
        else "validation chooses by pictures that were trained on",
        "exclude them from one of the splits, or split anew so that each group is in one",
    )


def _within(subject: Subject, groups: Sequence[tuple[str, ...]], kind: str, called: str) -> Told:
    undivided = set(subject.split_of.values()) == {""}
    where = "no split is given" if undivided else "inside one split"
    return (
        "note" if undivided or kind == "near" else "warning",
        f"{called}: {plural(sum(map(len, groups)), 'picture')} in {plural(len(groups), 'group')}; {where}",
        "split apart, they would test memory instead of sight"
        if undivided
        else "each counts as often as it is there; there are fewer different pictures than it seems",
        "exclude all but one of each group, or give each group one name and pass it as group",
    )


def leaks(subject: Subject, pairs: Iterable[Pair]) -> set[str]:
    """The test records that are also in train or val: as one that some pair joins them to, directly or by others."""
    return _leaked(subject, together(pairs))


def _leaked(subject: Subject, groups: Iterable[tuple[str, ...]]) -> set[str]:
    found = set[str]()
    for group in groups:
        if any(subject.split_of[key] in ("train", "val") for key in group):
            found |= {key for key in group if subject.split_of[key] == "test"}
    return found


def groups(subject: Subject) -> list[Finding]:
    """One patient, video or sender in two splits."""
    stands: dict[str, set[str]] = defaultdict(set)
    for record in subject.data.records:
        if record.group:
            stands[record.group].add(record.split or "")
    divided = {group for group, splits in stands.items() if len(splits) > 1}
    if not divided:
        return []
    keys = tuple(record.key for record in subject.data.records if record.group in divided)
    return [
        Finding(
            "groups",
            "error",
            f"{share(len(divided), len(stands))} groups stand in more than one split: {some(sorted(divided))}",
            "what is known of a group in train helps in test: scores are too good for groups that are new",
            "move each group into one split, or let opsin split by group",
            keys,
        )
    ]


def classes(subject: Subject) -> list[Finding]:
    """Classes that are missing from a split, too small, or far from even. A regression has none."""
    data, found = subject.data, []
    if data.task == "regression":
        return []
    for name in SPLITS:
        counts = data.part(name).counts()
        missing = [label for label, n in counts.items() if not n] if any(counts.values()) else []
        if missing:
            severe = "error" if name == "train" else "warning"
            effect = "it can never be named" if name == "train" else "nothing is known of how well it is told apart"
            found.append(_of_classes(severe, f"{name} has no picture of {some(missing)}", effect, "add some"))
    counts = data.counts()
    few = [label for label, n in counts.items() if n < FEW]
    if few:
        text = f"fewer than {FEW} pictures of {some(few)}"
        found.append(_of_classes("warning", text, "its interval will be very wide", "add pictures, or merge classes"))
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if counts[largest] > UNEVEN * max(counts[smallest], 1):
        text = f"uneven classes: {counts[largest]:,} of {largest!r}, {counts[smallest]:,} of {smallest!r}"
        effect = f"always answering {largest!r} scores {share(counts[largest], sum(counts.values()))}; look at macro F1"
        do = "set class_weights=balanced, or add pictures" if data.task == "single-label" else "look at each label's F1"
        found.append(_of_classes("note", text, effect, do))
    return found


def _of_classes(severity: str, text: str, effect: str, do: str) -> Finding:
    return Finding("classes", severity, text, effect, do)  # type: ignore[arg-type]


def drift(subject: Subject) -> list[Finding]:
    """Whether train and test differ, and by what: each measured fact's distribution (two-sample Kolmogorov-Smirnov)."""
    from scipy.stats import ks_2samp

    looks = subject.looks
    if looks is None:
        return []
    splits = np.array([record.split or "" for record in looks.data.records])
    train, test = looks.facts[splits == "train"], looks.facts[splits == "test"]
    if min(len(train), len(test)) < FEW:
        return []
    moved = []
    for column, name in enumerate(FACTS):
        result = ks_2samp(train[:, column], test[:, column])
        if result.statistic > MOVED and result.pvalue < TELLS / len(FACTS):
            before, after = np.median(train[:, column]), np.median(test[:, column])
            moved.append((result.statistic, f"{name} (median {before:,.0f} in train, {after:,.0f} in test)"))
    moved += [(1.0, f"file type ({names})") for names in _types(looks.formats, splits)]
    if not moved:
        return []
    listed = "; ".join(text for _, text in sorted(moved, reverse=True)[:5])
    return [
        Finding(
            "drift",
            "warning",
            f"train and test differ in {listed}",
            "the test tells how well the classifier does on pictures of another kind than it was trained on",
            "find out where the pictures come from; split anew if they should be alike",
        )
    ]


def _types(formats: Sequence[str], splits: np.ndarray) -> list[str]:
    """How the splits differ in their most frequent file type, if they do."""
    first = {
        name: Counter(np.array(formats, object)[splits == name]).most_common(1)[0][0]
        for name in ("train", "test")
        if (splits == name).any()
    }
    different = len(set(first.values())) > 1
    return [", ".join(f"{name} mostly {kind or 'arrays'}" for name, kind in first.items())] if different else []
