"""From what a network gives to what is said of a picture, whatever executes it.

    keys ─ prepare, in threads ─> uint8 (B, 3, S, S) ─ run ─> logits (B, K) ─ answers, named ─> Predictions

Importing this file imports no torch.
"""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, Protocol

import numpy as np

from . import codecs, errors, metrics
from .preprocessing import THREADS, Decode, Preprocessing
from .vocabulary import Prediction, Refusal, Scale, Store, Task

# uint8 (B, 3, S, S), any B of one or more → float32 (B, K), or vectors (B, D)
Engine = Callable[[np.ndarray], np.ndarray]

BATCH = 32
AHEAD = 3  # batches that are held: one that is answered, those that are being decoded


class Answering(Protocol):
    """Who answers, a Classifier or an exported file: what there is to know of it. `Classifier` says what each is."""

    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def task(self) -> Task: ...
    @property
    def temperature(self) -> float: ...
    @property
    def thresholds(self) -> Mapping[str, float]: ...
    @property
    def unsure_below(self) -> float: ...
    @property
    def scale(self) -> Scale: ...
    @property
    def facts(self) -> Mapping[str, Any]: ...

    def prepare(self, data: bytes | np.ndarray, *, decode: Decode = codecs.decode) -> np.ndarray:
        """The encoded picture, or an array → uint8 `(3, S, S)`, as `preprocessing.load`. Raises PictureError."""

    def run(self, images: np.ndarray) -> np.ndarray:
        """Prepared pictures, uint8 `(B, 3, S, S)` → logits, float32 `(B, K)`."""


def refuse_names(clf: object) -> None:
    """Raises CallError for the name or path of a model in the place of the model."""
    if isinstance(clf, str | os.PathLike):
        do = f"Give opsin.load({str(clf)!r})"
        raise errors.CallError("a classifier", expected="a Classifier", received=repr(clf), do=do)


def probabilities(clf: Answering, found: np.ndarray) -> np.ndarray:
    """Logits `(B, K)` → float64 `(B, K)` whose rows sum to 1: softmax at the stored temperature."""
    return metrics.softmax(found / clf.temperature)


def named(clf: Answering, shares: np.ndarray) -> np.ndarray:
    """Probabilities `(B, K)` → int64 `(B,)`: the class that is named, or UNSURE. `metrics.named` says the rule."""
    own = {clf.classes.index(name): least for name, least in clf.thresholds.items()}
    return metrics.named(shares, own, least=clf.unsure_below)


def decides(clf: Answering) -> bool:
    """Whether another answer than the most probable class is possible."""
    return bool(clf.thresholds) or clf.unsure_below > 0


def answers(clf: Answering, found: np.ndarray) -> np.ndarray:
    """Logits `(B, K)` → float64 `(B, K)`: probabilities, of labels each by itself; or quantities in their units."""
    return answers_of(found, clf.task, clf.temperature, clf.scale)


def answers_of(found: np.ndarray, task: Task, temperature: float, scale: Scale) -> np.ndarray:
    """`answers`, for who has no Classifier but what describes it."""
    if task == "regression":
        means, deviations = np.array(scale).T
        return np.asarray(found * deviations + means)
    logits = found / temperature
    return metrics.softmax(logits) if task == "single-label" else np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def logits_of(found: np.ndarray, task: Task, temperature: float, scale: Scale) -> np.ndarray:
    """Answers `(B, K)` → float64 logits `(B, K)` that `answers_of` makes them of.

    Of one class a picture all K are off by one number, of which nothing made of logits depends. Probabilities that
    float32 has as 0 or 1 become its nearest others.
    """
    found = np.asarray(found, np.float64)
    if task == "regression":
        means, deviations = np.array(scale).T
        return np.asarray((found - means) / deviations)
    shares = np.clip(found, 2.0**-149, 1.0 if task == "single-label" else 1 - 2.0**-25)
    return np.asarray(temperature * (np.log(shares) - (np.log1p(-shares) if task == "multi-label" else 0)))


def blank(clf: Answering) -> Prediction:
    """A Prediction of nothing yet: what is the same in all that a classifier makes."""
    least = tuple(clf.thresholds.get(name, 0.5) for name in clf.classes) if clf.task == "multi-label" else ()
    return Prediction("", clf.classes, thresholds=least, task=clf.task)


def filled(form: Prediction, key: str, found: tuple[float, ...], answer: int | None = None) -> Prediction:
    """The Prediction of one picture, whose answers, `(K,)`, are probabilities or values; `answer` as a Prediction's."""
    if form.task == "regression":
        return dataclasses.replace(form, key=key, values=found)
    return dataclasses.replace(form, key=key, probabilities=found, answer=answer)


def predict_store(
    clf: Answering,
    store: Store,
    keys: Iterable[str],
    *,
    threads: int = THREADS,
    run: Engine | None = None,
    decode: Decode = codecs.decode,
) -> Iterator[Prediction]:
    """One Prediction for every key, in their order; what cannot be read is an error of its own, never skipped.

    The next pictures are decoded while the network answers; AHEAD batches are held, however many pictures there are.

    Args:
        threads: decoders at work at a time. The answers do not depend on it.
        run: what answers instead of `clf.run`, such as `classifier.settle` finds.
        decode: `isolation.Decoders.decode` for pictures that nobody vouches for.
    """
    run = run or clf.run
    keys = iter(keys)
    first = list(islice(keys, 2))
    if len(first) == 1:  # whose threads would take a millisecond to begin
        yield from _answered(clf, [(first[0], prepared(clf, store, first[0], decode))], run)
        return
    keys = chain(first, keys)
    pool = ThreadPoolExecutor(threads)
    begun = iter(lambda: [(key, pool.submit(prepared, clf, store, key, decode)) for key in islice(keys, BATCH)], [])
    try:
        waiting = deque(islice(begun, AHEAD))
        while waiting:
            chunk = [(key, ready.result()) for key, ready in waiting.popleft()]
            waiting.extend(islice(begun, 1))
            yield from _answered(clf, chunk, run)
    finally:
        pool.shutdown(cancel_futures=True)


def both_sides(run: Engine) -> Engine:
    """Of every picture the mean of the logits of itself and of its mirror image, left for right, by `run`."""
    return lambda images: (run(images) + run(np.ascontiguousarray(images[..., ::-1]))) / 2


def _answered(clf: Answering, chunk: Sequence[tuple[str, np.ndarray | Refusal]], run: Engine) -> Iterator[Prediction]:
    images = [item for _, item in chunk if isinstance(item, np.ndarray)]
    found = answers(clf, run(np.stack(images))) if images else np.empty((0, len(clf.classes)))
    said = named(clf, found).tolist() if images and clf.task == "single-label" else [None] * len(found)
    rows = iter(zip(found.tolist(), said))
    form = blank(clf)
    for key, item in chunk:
        if isinstance(item, Refusal):
            yield dataclasses.replace(form, key=key, error=item)
        else:
            row, answer = next(rows)
            yield filled(form, key, tuple(row), answer)


def prepared(clf: Answering, store: Store, key: str, decode: Decode = codecs.decode) -> np.ndarray | Refusal:
    """What `clf.prepare` makes of a picture, or why it is refused."""
    try:
        return clf.prepare(store.read(key), decode=decode)
    except errors.PictureError as error:
        return Refusal(key, error.code, str(error))
