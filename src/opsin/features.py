"""Pictures → vectors through a frozen network, and heads fitted on such vectors.

    settle ─> engine ─ extract ─> vectors (N, D), kept by content ─┬─ fit_head, nearest_mean, best_head ─> weight, bias
                                                                   └─ out_of_fold ─> logits (N, K) of unseen pictures

A head is the weight `(K, D)` and bias `(K,)` of a linear layer, so what it makes is an ordinary Classifier.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from . import engines, errors, models, plans, sources
from .cache import Pixels, Rows
from .engines import Engine
from .plans import Choice, Plan
from .preprocessing import Preprocessing
from .vocabulary import Work

BATCH = 64
CLOSE = 0.05  # relative distance up to which two vectors count as the same, where no class says what matters
DAY = 24 * 3600.0  # seconds, after which nobody still writes a file
KEPT_BYTES = 2**30  # of all vectors in the cache folder
FEW = 3  # pictures a class, below which a head is the classes' means: too few for cross-validation
STRENGTHS = tuple(10 ** (half / 2) for half in range(-6, 3))  # 0.001 … 10
MOST_ROWS = 3_000  # that the strength is chosen on: more would not choose otherwise
OF_EACH = 10  # of them at least of a class, or all that it has: two a fold

Head = tuple[np.ndarray, np.ndarray]


# ── vectors ──


def settle(
    network: nn.Module,
    sample: Pixels,
    road: Preprocessing,
    offered: Sequence[Plan],
    *,
    pictures: int,
    memory: Path | None = None,
) -> Choice:
    """How to extract here: `plans.settle` for this network's vectors. The network's weights are laid out as it likes.

    An engine agrees where a head fitted on the reference's vectors of one half of the sample answers alike for its
    vectors and for the reference's vectors of the other half, and the other way round: vectors matter as far as they
    say the class of pictures that a head has not seen, and a network has no head for these classes yet.

    Args:
        sample: with targets; validation pictures, or training pictures where there are too few.
        pictures: how many will be extracted.
        memory: the file that choices are kept in.
    """
    # From all of the sample, which comes class by class.
    rows = np.linspace(0, len(sample) - 1, min(len(sample), plans.ENOUGH)).astype(int)
    targets = sample.targets().numpy()[rows]
    if targets.ndim > 1:
        targets = np.zeros(len(rows), np.int64)  # several targets a row: vectors are compared by themselves
    return plans.settle(
        offered,
        lambda plan: engine(network, road, plan),
        sample.array[rows],
        pictures=pictures,
        agreement=lambda expected, found: agreement(expected, found, targets),
        memory=memory,
        work=f"features {_weights_digest(network)[:16]} at {road.size}",
    )


def engine(network: nn.Module, road: Preprocessing, plan: Plan) -> Engine:
    """The engine that gives vectors: of the network, placed for it, and on a GPU of a copy of it there."""
    how = engines.How(plan.precision, plan.threads, plan.device)
    own = network if plan.device == "cpu" else copy.deepcopy(network)  # which the reference goes on to use
    return engines.build(engines.Features(plans.place(own, plan), road), plan.engine, how)


def agreement(expected: np.ndarray, found: np.ndarray, targets: np.ndarray) -> float:
    """The share of pictures for which vectors `(M, D)` of two engines say the same, as `settle` explains.

    Where a half has one class only, it is the share of vectors whose distance is at most CLOSE of their length.
    """
    if not np.isfinite(found).all():
        return 0.0
    order = np.argsort(targets, kind="stable")
    halves = order[::2], order[1::2]
    if min(len(set(targets[half])) for half in halves) < 2:
        apart = np.linalg.norm(found - expected, axis=1)
        return float((apart <= CLOSE * np.linalg.norm(expected, axis=1)).mean())
    same = 0.0
    for fitted, asked in (halves, halves[::-1]):
        weight, bias = fit_head(expected[fitted], targets[fitted], int(targets.max()) + 1)
        answers = [vectors[asked] @ weight.T + bias for vectors in (expected, found)]
        same += plans.same_answers(*answers) * len(asked) / len(targets)
    return same


def extract(
    network: nn.Module, pixels: Pixels, road: Preprocessing, plan: Plan, *, ready: Engine | None = None
) -> Work[np.ndarray]:
    """float32 `(N, D)`: what comes into the head of `network`, in evaluation mode, for every picture. Long work.

    A batch is read, from the disk where the cache is there, while the one before it is computed.

    Args:
        pixels: uint8 `(N, 3, S, S)`.
        ready: the plan's engine where `settle` has built it.
    """
    run = ready or engine(network, road, plan)
    starts = range(0, len(pixels), BATCH)
    rows = []
    # Channels last, as torch wants them and pictures are, or channels first, which takes time that is not the engine's.
    layout: Literal["K", "C"] = "K" if plan.engine == "torch" else "C"
    with ThreadPoolExecutor(1) as pool:
        for start, images in zip(starts, _ahead(pool, pixels.array, starts, layout)):
            rows.append(run(images))
            yield min(start + BATCH, len(pixels))
    return np.concatenate(rows)


def _ahead(
    pool: ThreadPoolExecutor, array: Rows, starts: Sequence[int], layout: Literal["K", "C"]
) -> Iterator[np.ndarray]:
    """The batches that begin at `starts`, each read while its predecessor is used."""

    def read(start: int) -> np.ndarray:
        return np.array(array[start : start + BATCH], order=layout)

    waiting = pool.submit(read, 0)
    for start in starts:
        images = waiting.result()
        waiting = pool.submit(read, start + BATCH)
        yield images


# ── vectors that are kept ──


def key(network: nn.Module, pixels: Pixels, road: Preprocessing, plan: Plan) -> str:
    """What vectors depend on, as 64 hexadecimal letters: the pictures' bytes, normalisation, network, weights, plan."""
    digest = hashlib.sha256()
    for start in range(0, len(pixels), BATCH):
        digest.update(np.ascontiguousarray(pixels.array[start : start + BATCH]).data)
    facts = (pixels.array.shape, road, engines.version(plan.engine), plan.precision, plan.device, torch.__version__)
    digest.update(repr((*facts, _weights_digest(network))).encode())
    return digest.hexdigest()


def _weights_digest(network: nn.Module) -> str:
    """Of the network as it is: weights, layers as torch prints them, and the code of its class."""
    digest = hashlib.sha256(str(network).encode())
    with suppress(OSError, TypeError):  # a class made in an interpreter has no file
        digest.update(inspect.getsource(type(network)).encode())
    for piece in models.content(network):
        digest.update(piece)
    return digest.hexdigest()


def _place(key: str) -> Path:
    return sources.cache_dir() / "features" / f"{key}.npy"


def recall(key: str) -> np.ndarray | None:
    """float32 `(N, D)`, as they were kept; None where there are none, or none that can be read."""
    try:
        vectors: np.ndarray = np.load(_place(key), allow_pickle=False)
        os.utime(_place(key))  # what was used last is forgotten last
    except (OSError, ValueError, EOFError):
        return None
    return vectors if vectors.dtype == np.float32 and vectors.ndim == 2 else None


def keep(key: str, vectors: np.ndarray) -> str:
    """Keep vectors for the next time, in KEPT_BYTES in all; gives why they could not be kept, or ""."""
    file = _place(key)
    if vectors.nbytes > KEPT_BYTES:
        return ""
    try:
        with errors.replacing(file) as part:
            file.parent.mkdir(parents=True, exist_ok=True)
            _make_room(file.parent, KEPT_BYTES - vectors.nbytes)
            with part.open("wb") as opened:
                np.save(opened, vectors, allow_pickle=False)
    except errors.MachineError as error:
        return f"features are not kept for the next run: {error.message}"
    return ""


def _make_room(folder: Path, room: int) -> None:
    """Delete what a killed run left half written, and what was used longest ago, until the rest fits `room` bytes."""
    for part in folder.glob("*.part"):
        with suppress(OSError):
            if part.stat().st_mtime < time.time() - DAY:
                part.unlink()
    files = sorted(folder.glob("*.npy"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        room -= file.stat().st_size
        if room < 0:
            file.unlink(missing_ok=True)


# ── heads ──


def fit_head(vectors: np.ndarray, targets: np.ndarray, classes: int, *, strength: float = 0.03) -> Head:
    """Regularised logistic regression on centred vectors, as the weights of a linear layer.

    The vectors are divided by one number, so that their features vary by one on average. Each feature by its own
    deviation, as is usual, was worse on three sets of photographs, most of all for few pictures a class: it makes as
    much of a feature that hardly changes as of one that says something.

    It minimises Σ cross-entropy + ‖weights‖² / (2 · strength), the bias being free; with two classes, as is usual,
    one weight vector, the difference, is what is regularised.

    Args:
        vectors: float32 `(N, D)`.
        targets: int `(N,)`; a class without a record gets no weight and a low bias.
        classes: K.
        strength: the inverse of the regularisation, scikit-learn's C.

    Returns:
        float32 weight `(K, D)` and bias `(K,)` that act on vectors as they are, not centred.

    Raises:
        DataError: when `targets` holds one class only.
    """
    present, labels = _labelled(targets)
    with one_thread():
        axes = Axes(vectors)
        slopes, intercepts = _solve(axes.z, labels, len(present), strength, axes.spread)[:2]
        return axes.head(slopes, intercepts, present, classes)


def nearest_mean(vectors: np.ndarray, targets: np.ndarray, classes: int) -> Head:
    """The class whose mean lies in the nearest direction, seen from the centre, as the weights of a linear layer.

    The logits are s · (x - c) · m / ‖m‖, with the classes' means m seen from their centre c. The sharpness s makes each
    picture's own class as likely as can be when its mean is taken without it; it is 1 / ‖x - c‖ where no class has two.

    Takes, gives and raises what `fit_head` does.
    """
    present, labels = _labelled(targets)
    x = vectors.astype(np.float64)
    sums = np.stack([x[labels == label].sum(0) for label in range(len(present))])
    counts = np.bincount(labels)[:, None]
    centre = (sums / counts).mean(0)
    means = sums / counts - centre
    slopes = _sharpness(x - centre, labels, means, counts[:, 0]) * _unit(means)
    return _spread_out(slopes, -slopes @ centre, present, classes)


def choose_strength(
    vectors: np.ndarray,
    targets: np.ndarray,
    *,
    groups: Sequence[str | None] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[float, dict[float, float]]:
    """The strength of STRENGTHS whose heads give unseen pictures the least cross-entropy, by k-fold cross-validation.

    From the strongest regularisation on, until it has grown twice in a row. On MOST_ROWS rows at most, drawn at random
    but for OF_EACH of every class, so that a rare one is there.

    Args:
        vectors, targets: of training pictures only.
        groups: of every row; rows of a group are never on both sides of a fold. None is a group of its own.

    Returns:
        the strength, and the mean cross-entropy of all that were tried.

    Raises:
        DataError: when `targets` holds one class only.
    """
    rows = _drawn(targets, seed)
    present, labels = _labelled(targets[rows])
    fold = deal(labels, [groups[row] for row in rows] if groups is not None else None, folds=folds, seed=seed)
    found: dict[float, float] = {}
    with one_thread():
        axes = Axes(vectors[rows], np.float32)
        starts: dict[int, np.ndarray | None] = {}
        for strength in STRENGTHS:
            found[strength] = _unseen_loss(axes, labels, len(present), fold, strength, starts) / len(labels)
            last = list(found.values())[-3:]
            if len(last) == 3 and last[0] < last[1] < last[2]:
                break
    return min(found, key=found.__getitem__), found


def _drawn(targets: np.ndarray, seed: int) -> np.ndarray:
    """The rows, ascending, that `choose_strength` looks at: some of every class, be it rare, then any."""
    order = np.random.default_rng(seed).permutation(len(targets))
    present, dealt = np.unique(targets), targets[order]
    each = min(OF_EACH, MOST_ROWS // len(present))
    own = [order[dealt == target][:each] for target in present]
    first = dict.fromkeys(np.concatenate([*own, order[:MOST_ROWS]]).tolist())
    return np.sort(list(first)[:MOST_ROWS])


def _unseen_loss(
    axes: Axes, labels: np.ndarray, k: int, fold: np.ndarray, strength: float, starts: dict[int, np.ndarray | None]
) -> float:
    """The summed cross-entropy of every row by a fit without its fold; `starts` holds each fold's last fit."""
    total = 0.0
    for number in np.unique(fold):
        inside = fold != number
        start = starts.get(number)
        slopes, intercepts, starts[number] = _solve(axes.z[inside], labels[inside], k, strength, axes.spread, start)
        total += _cross_entropy(axes.z[~inside] @ slopes.T + intercepts, labels[~inside])
    return total


def best_head(
    vectors: np.ndarray,
    targets: np.ndarray,
    classes: int,
    *,
    groups: Sequence[str | None] | None = None,
    seed: int = 0,
) -> tuple[Head, str]:
    """The head for as many pictures as there are, and a sentence on what it is.

    Class means where half of the classes have fewer than FEW pictures, else `fit_head` at the strength that
    `choose_strength` finds. Takes and raises what they do.
    """
    _, labels = _labelled(targets)
    if np.median(np.bincount(labels)) < FEW:
        return nearest_mean(vectors, targets, classes), "head: the nearest class mean, for want of pictures"
    strength, _ = choose_strength(vectors, targets, groups=groups, seed=seed)
    head = fit_head(vectors, targets, classes, strength=strength)
    return head, f"head: logistic regression, strength {strength:.2g} by cross-validation on training pictures"


def out_of_fold(
    vectors: np.ndarray,
    targets: np.ndarray,
    classes: int,
    *,
    groups: Sequence[str | None] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """float32 logits `(N, K)`: of every picture, by a `best_head` that was fitted without its fold.

    Scores of all of them together are a test where single classes are too small for one; a label that such a head
    finds unlikely is worth a look.

    Takes and raises what `choose_strength` does; also when what is left of a fold holds one class only.
    """
    fold = deal(targets, groups, folds=folds, seed=seed)
    logits = np.empty((len(targets), classes), np.float32)
    for number in np.unique(fold):
        inside = fold != number
        some = [group for group, chosen in zip(groups, inside) if chosen] if groups is not None else None
        (weight, bias), _ = best_head(vectors[inside], targets[inside], classes, groups=some, seed=seed)
        logits[~inside] = vectors[~inside] @ weight.T + bias
    return logits


def deal(
    targets: np.ndarray, groups: Sequence[str | None] | None = None, *, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """int `(N,)`: the number of each row's fold, 0 … folds - 1, stratified by target; a group is in one fold.

    Raises:
        DataError: when there are fewer rows, or groups, than two.
    """
    names = None if groups is None or not any(groups) else np.unique(_group_names(groups), return_inverse=True)[1]
    most = len(targets) if names is None else int(names.max()) + 1
    folds = min(folds, most, int(np.bincount(targets).max()))
    if folds < 2:
        raise errors.DataError("too few pictures or groups for cross-validation", expected="two or more", received=most)
    return _dealt(targets, folds, seed) if names is None else _dealt_in_groups(targets, names, folds, seed)


def _dealt(targets: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The very folds of scikit-learn's StratifiedKFold, shuffled, without the second that its import takes.

    Class after class, as they first appear, is dealt in turn, so that neither classes nor folds differ by more than
    one; which row of a class gets which of its cards is random.
    """
    generator = np.random.RandomState(seed)
    fold = np.empty(len(targets), np.int64)
    begin = 0
    for target in dict.fromkeys(targets.tolist()):
        rows = np.flatnonzero(targets == target)
        cards = np.sort(np.arange(begin, begin + len(rows)) % folds)
        generator.shuffle(cards)
        fold[rows] = cards
        begin += len(rows)
    return fold


def _dealt_in_groups(targets: np.ndarray, names: np.ndarray, folds: int, seed: int) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.empty(len(targets), np.int64)
    dealer = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes smaller than the number of folds are the very use of this
        for number, (_, held) in enumerate(dealer.split(targets, targets, names)):
            fold[held] = number
    return fold


def _group_names(groups: Sequence[str | None]) -> list[str]:
    return [f"in {name}" if name else f"row {row}" for row, name in enumerate(groups)]


def _labelled(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes that are there, ascending, and every row's place among them."""
    present, labels = np.unique(targets, return_inverse=True)
    if len(present) < 2:
        raise errors.DataError(
            "a head cannot be fitted",
            expected="training pictures of two classes or more",
            received=f"{len(targets):,} of one class",
            do="Look at what was refused, and at the split",
        )
    return present, labels


def _moments(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean, float64 `(D,)`, and one scale: the root of the mean variance of the features that change at all."""
    variances = vectors.var(0, dtype=np.float64)
    changing = variances[variances > 1e-12]
    return vectors.mean(0, dtype=np.float64), float(np.sqrt(changing.mean())) if len(changing) else 1.0


class Axes:
    """Vectors from their mean, at one scale, in their principal axes: a rotation, which regularisation does not see.

    There the curvature of the loss is nearly diagonal and known, which is what makes `_solve` quick.

    Attributes:
        z: `(N, R)`, R ≤ min(N, D).
        spread: `(R,)`, the sum of squares of each column of z.
    """

    def __init__(self, vectors: np.ndarray, kind: type[np.floating] = np.float64) -> None:
        from scipy.linalg import eigh

        self.centre, self.scale = _moments(vectors)
        x = ((vectors - self.centre) / self.scale).astype(kind)
        wide = len(x) < x.shape[1]
        values, self.rotation = eigh(x @ x.T if wide else x.T @ x)
        kept = values > values[-1] * (1e-10 if kind is np.float64 else 1e-6)
        self.spread, self.rotation = values[kept].astype(np.float64), self.rotation[:, kept]
        if wide:
            self.rotation = x.T @ (self.rotation / np.sqrt(values[kept]))
        self.z = x @ self.rotation

    def head(self, slopes: np.ndarray, intercepts: np.ndarray, present: np.ndarray, classes: int) -> Head:
        """A fit on `z` as a head for vectors as they are."""
        weight = slopes @ self.rotation.T / self.scale
        return _spread_out(weight, intercepts - weight @ self.centre, present, classes)


def _spread_out(slopes: np.ndarray, intercepts: np.ndarray, present: np.ndarray, classes: int) -> Head:
    """Rows of the classes that are there → rows of all: an absent class is never the answer."""
    weight, bias = np.zeros((classes, slopes.shape[1])), np.full(classes, intercepts.min() - 10.0)
    weight[present], bias[present] = slopes, intercepts
    return weight.astype(np.float32), bias.astype(np.float32)


def one_thread() -> AbstractContextManager[object]:
    """Small products on several threads wait for each other, by a factor of forty where another process is at work.

    On one thread a head is also the same on machines with any number of them.
    """
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1, "blas")  # type: ignore[no-any-return]


def _solve(
    z: np.ndarray, labels: np.ndarray, k: int, strength: float, spread: np.ndarray, start: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Multinomial logistic regression by L-BFGS, in axes stretched to like curvature.

    Args:
        z: `(N, R)`, near to its principal axes, whose sums of squares are near `spread`.
        start: `(K, R + 1)`, weights and bias to begin with.

    Returns:
        weights `(K, R)`, bias `(K,)`, and both together, to begin the next with.
    """
    from scipy.optimize import minimize

    penalty = np.append(np.full(z.shape[1], (2 if k == 2 else 1) / strength), 0.0)
    curvature = np.sqrt(np.append(spread, len(z)) * (1 - 1 / k) / k / 2 + penalty)
    x = np.concatenate([z, np.ones((len(z), 1), z.dtype)], 1)
    rows = np.arange(len(z))

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w = flat.reshape(k, -1) / curvature
        logits = x @ w.T.astype(x.dtype)
        logits -= logits.max(1, keepdims=True)
        own = logits[rows, labels]
        np.exp(logits, out=logits)
        sums = logits.sum(1, keepdims=True)
        value = float((np.log(sums[:, 0]) - own).sum(dtype=np.float64)) + float((penalty * w**2).sum()) / 2
        logits /= sums
        logits[rows, labels] -= 1
        return value, ((logits.T @ x + penalty * w) / curvature).ravel()

    begin = np.zeros((k, x.shape[1])) if start is None else start
    options = {"maxiter": 500, "maxcor": 20, "ftol": 1e-14, "gtol": 1e-6 if x.dtype == np.float64 else 1e-2}
    w = minimize(loss, (begin * curvature).ravel(), jac=True, method="L-BFGS-B", options=options).x
    w = w.reshape(k, -1) / curvature
    return w[:, :-1], w[:, -1], w


def _cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Summed over the rows."""
    logits = logits - logits.max(1, keepdims=True)
    losses: np.ndarray = np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels]
    return float(losses.sum())


def _sharpness(x: np.ndarray, labels: np.ndarray, means: np.ndarray, counts: np.ndarray) -> float:
    """The scale of `nearest_mean`'s logits, for vectors and means seen from the centre."""
    own = counts[labels, None]
    left = (means[labels] * own - x) / np.maximum(own - 1, 1)  # the own class's mean without the row
    logits = x @ _unit(means).T / np.linalg.norm(x, axis=1).mean()
    logits[np.arange(len(x)), labels] = (x * _unit(left)).sum(1) / np.linalg.norm(x, axis=1).mean()
    asked = own[:, 0] > 1
    tried = 10 ** np.arange(-1, 3.1, 0.25)
    losses = [_cross_entropy(scale * logits[asked], labels[asked]) for scale in tried]
    best = float(tried[int(np.argmin(losses))]) if asked.any() else 1.0
    return best / float(np.linalg.norm(x, axis=1).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    """Each row at length 1; one of nothing stays so."""
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
