"""Several labels a record: average precision and its mean, F1 at a threshold a label, exact matches.

What is unknown (NaN) is left out of everything, label by label. A label without a positive record is *untested*: it
has no score of its own and is in no average.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..vocabulary import Score, Scores
from . import intervals
from .given import Bools, Floats, Groups, Ints, matrix, units, wrong
from .intervals import wilson_bounds
from .ranking import paired_columns, ranked_columns
from .rates import per_class, share

HALF = 0.5  # the threshold where nothing says better


def score_labels(
    probabilities: npt.ArrayLike,
    targets: npt.ArrayLike,
    labels: Sequence[str],
    thresholds: npt.ArrayLike,
    *,
    groups: Groups | None = None,
) -> Scores:
    """All that a multi-label test found.

    Overall: mAP, the mean over labels of their average precision, with its interval as `ranking` says; micro and macro
    F1 (BCa bootstrap of units), and the share of records all of whose known labels are right. `no skill mAP` is what
    scores that say nothing would have: the mean share of positives.

    Args:
        probabilities: (N, K), 0…1.
        targets: (N, K), 0 or 1, NaN where unknown.
        thresholds: (K,): a label is named from its own on; (N, K) where records were answered by several models.
        groups: of every record, (N,).

    Raises:
        DataError: wrong shapes, or no label that was tested.
    """
    rows, true = checked(probabilities, targets, labels)
    known, positive = ~np.isnan(true), true == 1
    said = rows >= np.asarray(thresholds)
    of = units(groups, len(rows))
    tested = np.flatnonzero(positive.any(0)).tolist()
    if not tested:
        raise wrong("no label was tested", "a positive record of one", "none", "Test on records that have labels")
    macro, each = _ranked(rows, true, of)
    some = np.flatnonzero(known.any(1))
    exact = share(all_right(said, positive, known)[some], groups=_chosen(groups, some))
    overall = {"mAP": macro["average precision"], "macro AUROC": macro["AUROC"]} if macro else {}
    return Scores(
        n=len(rows),
        overall=overall | _averages(said & known, positive, known, of) | {"exact match": exact},
        per_class={
            labels[c]: _rates(said[:, c], positive[:, c], known[:, c], groups) | each.get(c, {}) for c in tested
        },
        confusion=(),
        classes=tuple(labels),
        largest_class="",
        untested=tuple(name for c, name in enumerate(labels) if c not in tested),
        task="multi-label",
    )


def best_thresholds(probabilities: npt.ArrayLike, targets: npt.ArrayLike) -> list[float]:
    """Of every label the threshold with the highest F1 on these records, half-way to the next score; (K,).

    Arguments as for `score_labels`. HALF for a label that is not both there and not there.
    """
    rows, true = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    return [_best(rows[~np.isnan(t), c], t[~np.isnan(t)] == 1) for c, t in enumerate(true.T)]


def _best(scores: Floats, positive: Bools) -> float:
    if positive.all() or not positive.any():
        return HALF
    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # named down to there
    f1 = 2 * np.cumsum(positive[order])[ends] / (ends + 1 + positive.sum())
    best = int(f1.argmax())
    below = scores[order][ends[best + 1]] if best + 1 < len(ends) else 0.0
    return float((scores[order][ends[best]] + below) / 2)


def mean_average_precision(probabilities: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """mAP alone: what training looks at after every epoch. NaN where no label is both there and not there."""
    rows, true = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    macro, _ = _ranked(rows, true, None)
    return macro["average precision"].value if macro else float("nan")


def _ranked(rows: Floats, true: Floats, of: Ints | None) -> tuple[dict[str, Score], dict[int, dict[str, Score]]]:
    """AUROC and average precision of the labels that some records have and some have not, and their means."""
    chosen = [c for c, column in enumerate(true.T) if (column == 1).any() and (column == 0).any()]
    known = {c: ~np.isnan(true[:, c]) for c in chosen}
    columns = ((c, known[c], rows[known[c], c], true[known[c], c] == 1) for c in chosen)
    return ranked_columns(columns, len(chosen), len(rows), of)


def paired_rankings(first: Floats, second: Floats, true: Floats, of: Ints | None) -> dict[str, tuple[float, ...]]:
    """AUROC's and average precision's means over labels, of two probabilities (N, K) of the same records.

    As `ranking.paired_columns` says: of the first, of the second, half the width of their difference's interval, and
    how many units it rests on.
    """
    chosen = [c for c, column in enumerate(true.T) if (column == 1).any() and (column == 0).any()]
    known = {c: ~np.isnan(true[:, c]) for c in chosen}
    columns = ((known[c], first[known[c], c], second[known[c], c], true[known[c], c] == 1) for c in chosen)
    return paired_columns(columns, len(chosen), len(true), of)


def _chosen(groups: Groups | None, rows: Ints) -> Groups | None:
    return None if groups is None else [groups[row] for row in rows.tolist()]


def checked(probabilities: npt.ArrayLike, targets: npt.ArrayLike, labels: Sequence[str]) -> tuple[Floats, Floats]:
    """Both as float64 (N, K). Raises DataError, as `score_labels`."""
    rows, true = matrix("probabilities", probabilities).astype(np.float64), np.asarray(targets, np.float64)
    if true.shape != rows.shape or len(labels) != rows.shape[1]:
        received = f"{rows.shape}, {true.shape} and {len(labels)} names"
        raise wrong(
            "probabilities and targets do not fit", "(N, K) each, K names", received, "Give one of each a label"
        )
    if not (np.isnan(true) | (true == 0) | (true == 1)).all():
        raise wrong("targets are no labels", "0, 1, or NaN where unknown", "others", "Look at the table's columns")
    return rows, true


def _rates(said: Bools, positive: Bools, known: Bools, groups: Groups | None) -> dict[str, Score]:
    """Precision, recall and F1 of one label among its known records."""
    rows = np.flatnonzero(known)
    each = per_class(positive[rows].astype(np.int64), said[rows].astype(np.int64), 2, groups=_chosen(groups, rows))
    return dict(zip(("precision", "recall", "F1"), (scores[1] for scores in each)))


def _averages(said: Bools, positive: Bools, known: Bools, of: Ints | None) -> dict[str, Score]:
    """Micro and macro F1 and the mean share of positives, with BCa intervals of units."""
    counts = counted(said, positive, known, of)
    total = counts.sum(0)
    drawn = np.concatenate([_f1s(each) for each in intervals.totals(counts)])
    left = _f1s(total - counts)
    found = {}
    for at, name in enumerate(("micro F1", "macro F1", "no skill mAP")):
        value = float(_f1s(total[None])[0, at])
        low, high = wilson_bounds(value, len(counts))
        if np.ptp(drawn[:, at]) > 1e-12:
            low, high = intervals.bca(value, drawn[:, at], left[:, at], np.ones(len(left), np.int64))
        found[name] = Score(value, min(low, value), max(high, value), len(said))
    return found


def all_right(said: Bools, positive: Bools, known: Bools) -> Bools:
    """(N, K) each → (N,): whether all labels that are known are said, or not said, rightly."""
    return np.asarray(((said == positive) | ~known).all(1))


def counted(said: Bools, positive: Bools, known: Bools, of: Ints | None) -> Floats:
    """Hits, named, positive, known, of every unit and label: (U, K, 4)."""
    counts = np.stack([said & positive, said, positive, known], axis=-1).astype(np.float64)
    if of is None:
        return counts
    grouped = np.zeros((of.max() + 1, *counts.shape[1:]))
    np.add.at(grouped, of, counts)
    return grouped


def each_f1(counts: Floats) -> Floats:
    """Counts (B, K, 4) → micro F1, macro F1, F1 of every label (B, 2 + K); NaN for one without a positive record."""
    hits, named, positive, _ = np.moveaxis(counts, -1, 0)
    each = np.where(positive > 0, 2 * hits / np.maximum(named + positive, 1), np.nan)
    return np.concatenate([_f1s(counts)[:, :2], each], axis=1)


def _f1s(counts: Floats) -> Floats:
    """Hits, named, positive, known (B, K, 4) → micro F1, macro F1, mean share of positives (B, 3)."""
    hits, named, positive, known = np.moveaxis(counts, -1, 0)
    micro = 2 * hits.sum(1) / np.maximum(named.sum(1) + positive.sum(1), 1)
    many = np.maximum((positive > 0).sum(1), 1)
    each = np.where(positive > 0, 2 * hits / np.maximum(named + positive, 1), 0)
    return np.stack([micro, each.sum(1) / many, (positive / np.maximum(known, 1)).sum(1) / many], axis=1)
