"""Labels that contradict one another, and labels that a classifier which never saw them does not believe.

Confident learning: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
Journal of Artificial Intelligence Research 70 (2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping

import numpy as np

from ..vocabulary import Finding
from .folds import folds
from .subject import Subject, plural, share, together

STRENGTH = 0.01  # scikit-learn's C on standardised vectors, as in features.fit_head


def contradictions(subject: Subject) -> list[Finding]:
    """The same picture in two classes; of the other tasks, with labels or quantities that differ where both are known.

    Near-duplicates may differ in a quantity: it is what moves between the pictures of a burst.
    """
    task = subject.data.task
    copies = [pair for pair in subject.pairs if pair.kind != "near"]
    equal = {key: group for group in together(copies) for key in group}
    exact = len({group for group in equal.values() if _differ(subject, group)})
    near = [
        pair
        for pair in subject.pairs
        if pair.kind == "near"
        and task != "regression"
        # What is like one of several copies is like all of them.
        and _differ(subject, {key for one in (pair.first, pair.second) for key in equal.get(one, (one,))})
    ]
    groups = tuple(group for group in together([*copies, *near]) if _differ(subject, group))
    if not groups:
        return []
    what = {"single-label": "two classes", "multi-label": "different labels", "regression": "different values"}[task]
    keys = tuple(key for group in groups for key in group)
    return [
        Finding(
            "contradictions",
            "error" if exact else "warning",
            f"{plural(len(groups), 'picture')} with {what}, {exact:,} of them as exact copies",
            "no classifier can be right on all copies: some are counted wrong, and training is taught both",
            "look at them and relabel or exclude"
            + "; if a picture may have several labels: --task multi-label" * (task == "single-label" and exact > 0),
            keys,
            groups,
            {key: f"labelled {subject.class_of[key]}" for key in keys},
        )
    ]


def _differ(subject: Subject, group: Collection[str]) -> bool:
    """Whether records that show one picture are said to show different things."""
    if subject.data.task == "single-label":
        return len({subject.class_of[key] for key in group}) > 1
    each = zip(*(subject.targets_of[key] for key in group))
    return any(len({value for value in values if value is not None}) > 1 for values in each)


def not_looked_for() -> Finding:
    """What needs one class a picture, and is not looked for in data of the other tasks."""
    return Finding(
        "labels",
        "note",
        "not looked for: suspect labels and shortcuts, which need one class a picture",
        "wrong labels and giveaways may be there and are not told",
        "look at the worst mistakes in the report of a run",
    )


def too_few(kind: str, what: str) -> Finding:
    """That something could not be looked for, since nobody can be judged by others."""
    return Finding(
        kind,
        "note",
        f"not looked for: {what}, for which there are too few pictures or groups of a class",
        "what would be found stays hidden",
        "add pictures, of other groups where there are groups",
    )


def suspects(subject: Subject) -> list[Finding]:
    """Labels that the out-of-fold probabilities contradict, the most suspect first."""
    if subject.probabilities is None or subject.looks is None:
        return []
    if not subject.probabilities.any():
        return [too_few("labels", "suspect labels")]
    records = subject.looks.data.records
    targets = np.array([-1 if record.target is None else record.target for record in records])
    targets[~subject.probabilities.any(axis=1)] = -1  # no opinion
    judged = targets >= 0
    rows, better = suspect_rows(subject.probabilities, targets)
    if not len(rows):
        return []
    names = subject.data.classes
    keys = tuple(records[row].key for row in rows)
    said = {
        key: f"labelled {names[targets[row]]}, looks like {names[to]} ({subject.probabilities[row, to]:.2f})"
        for key, row, to in zip(keys, rows, better)
    }
    right = (subject.probabilities.argmax(axis=1) == targets)[judged].mean()
    return [
        Finding(
            "labels",
            "warning",
            f"{share(len(rows), judged.sum())} labels are suspect; a classifier of other folds agrees to {right:.1%}",
            "wrong labels in the test lower the score of a classifier that is right; in train they teach errors",
            "look at the first ones, relabel what is wrong; the list is an opinion, not a fact",
            keys,
            details=said,
        )
    ]


def suspect_rows(probabilities: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose label is suspect, the most suspect first, and the class that each looks like.

    How many: confident learning's count. A class's threshold is the mean probability of that class over the records
    labelled so; a record counts for the most probable class among those whose threshold it reaches, and where that is
    not its label it is one. Which: of those for which another class is more probable than the label, the ones whose
    label is least probable. (Of planted errors that finds 87 and 76 %.)

    Args:
        probabilities: float `(N, K)`, from classifiers that have not seen the record.
        targets: int `(N,)`; -1 where there is no label.
    """
    k = probabilities.shape[1]
    labelled = targets >= 0
    thresholds = np.array([probabilities[targets == c, c].mean() if (targets == c).any() else np.inf for c in range(k)])
    reached = np.where(probabilities >= thresholds, probabilities, -1)
    count = int((labelled & (reached.max(axis=1) >= 0) & (reached.argmax(axis=1) != targets)).sum())
    better = probabilities.argmax(axis=1)
    rows = np.flatnonzero(labelled & (better != targets))
    rows = rows[np.argsort(probabilities[rows, targets[rows]], kind="stable")][:count]
    return rows, better[rows]


def out_of_fold(
    vectors: np.ndarray, targets: np.ndarray, classes: int, groups: Mapping[int, str] | None = None
) -> np.ndarray:
    """float64 `(N, K)`: probabilities of each record by logistic regressions that were fitted without its fold.

    All are 0 where there is no opinion: the label was never seen, as that of a class with one record, or one group.

    Args:
        vectors: float32 `(N, D)`.
        targets: int `(N,)`, 0…K-1.
        classes: K.
        groups: row → group; rows of one group share a fold, so that no copy vouches for a copy, no patient for himself.
    """
    from sklearn.linear_model import LogisticRegression

    result = np.full((len(targets), classes), 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fits that have not quite converged
        for train, test in folds(targets, groups or {}):
            mean, std = vectors[train].mean(axis=0), vectors[train].std(axis=0) + 1e-6
            fitted = LogisticRegression(C=STRENGTH, max_iter=200).fit((vectors[train] - mean) / std, targets[train])
            judged = test[np.isin(targets[test], fitted.classes_)]
            if len(judged):
                result[np.ix_(judged, fitted.classes_)] = fitted.predict_proba((vectors[judged] - mean) / std)
    return result
