"""Classifier: network + preprocessing + class names + temperature + thresholds. Complete and immutable.

Its answers are the reference: torch in fp32, channels last, evaluation mode, on the one preprocessing road.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import allocation, codecs, engines, errors, metrics, plans, preprocessing, sources
from .cache import THREADS
from .engines import Engine
from .models import NetworkSpec, weights
from .plans import Choice, Plan
from .preprocessing import Preprocessing
from .vocabulary import Prediction, Refusal, Scale, Store, Task

Decode = Callable[..., np.ndarray]  # what `codecs.decode` is

BATCH = 32
AHEAD = 3  # batches that are held: one that is answered, those that are being decoded
CLOSE = 1e-5  # of probabilities: what two engines in fp32 may differ by


@dataclass(frozen=True)
class Classifier:
    """What answers. `network` is None-free, in evaluation mode, and nobody's to train any more.

    Attributes:
        network: float32 `(B, 3, S, S)`, normalised → logits `(B, K)`.
        spec: how to build the network again; None for a user's own module, which must be given when loading.
        temperature: logits are divided by it before the softmax (Guo et al. 2017).
        thresholds: class → least probability to be named, be it the most probable or not; {} for none. See `answers`.
        unsure_below: what no threshold decides is "unsure" where it is less probable than this; 0 for never.
        facts: what the model card tells: recipe, scores, data fingerprint, licence of the first weights.
        scale: of a regression: the network gives quantities at mean 0 and deviation 1 of training.
    """

    network: nn.Module = field(repr=False)
    spec: NetworkSpec | None
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    task: Task = "single-label"
    temperature: float = 1.0
    thresholds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    unsure_below: float = 0.0
    scale: Scale = ()

    def __post_init__(self) -> None:
        allocation.keep()
        self.network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @functools.cached_property
    def quick(self) -> nn.Module:
        """`network` with its batch norms folded away, made on the first use."""
        return engines.folded(self.network, self.preprocessing)


@torch.no_grad()
def logits(clf: Classifier, images: Tensor) -> np.ndarray:
    """Prepared pictures, uint8 `(B, 3, S, S)` → float32 `(B, K)`: the reference that everything else is held to."""
    return clf.quick(preprocessing.normalise(clf.preprocessing, images)).float().numpy()  # type: ignore[no-any-return]


def probabilities(clf: Classifier, found: np.ndarray) -> np.ndarray:
    """Logits `(B, K)` → float64 `(B, K)` whose rows sum to 1: softmax at the stored temperature."""
    return metrics.softmax(found / clf.temperature)


def named(clf: Classifier, shares: np.ndarray) -> np.ndarray:
    """Probabilities `(B, K)` → int64 `(B,)`: the class that is named, or UNSURE. `metrics.named` says the rule."""
    own = {clf.classes.index(name): least for name, least in clf.thresholds.items()}
    return metrics.named(shares, own, least=clf.unsure_below)


def decides(clf: Classifier) -> bool:
    """Whether another answer than the most probable class is possible."""
    return bool(clf.thresholds) or clf.unsure_below > 0


def answers(clf: Classifier, found: np.ndarray) -> np.ndarray:
    """Logits `(B, K)` → float64 `(B, K)`: probabilities, of labels each by itself; or quantities in their units."""
    return answers_of(found, clf.task, clf.temperature, clf.scale)


def answers_of(found: np.ndarray, task: Task, temperature: float, scale: Scale) -> np.ndarray:
    """`answers`, for who has no Classifier but what describes it."""
    if task == "regression":
        means, deviations = np.array(scale).T
        return np.asarray(found * deviations + means)
    logits = found / temperature
    return metrics.softmax(logits) if task == "single-label" else np.exp(-np.logaddexp(0, -logits.astype(np.float64)))


def blank(clf: Classifier) -> Prediction:
    """A Prediction of nothing yet: what is the same in all that a classifier makes."""
    least = tuple(clf.thresholds.get(name, 0.5) for name in clf.classes) if clf.task == "multi-label" else ()
    return Prediction("", clf.classes, thresholds=least, task=clf.task)


def filled(form: Prediction, key: str, found: tuple[float, ...], answer: int | None = None) -> Prediction:
    """The Prediction of one picture, whose answers, `(K,)`, are probabilities or values; `answer` as a Prediction's."""
    if form.task == "regression":
        return dataclasses.replace(form, key=key, values=found)
    return dataclasses.replace(form, key=key, probabilities=found, answer=answer)


def predict_store(
    clf: Classifier,
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
        run: what answers instead of the reference, prepared pictures → logits, such as `settle` finds.
        decode: `isolation.Decoders.decode` for pictures that nobody vouches for.
    """
    run = run or (lambda images: logits(clf, torch.from_numpy(images)))
    keys = iter(keys)
    first = list(islice(keys, 2))
    if len(first) == 1:  # whose threads would take a millisecond to begin
        yield from _answered(clf, [(first[0], _prepared(clf, store, first[0], decode))], run)
        return
    keys = chain(first, keys)
    pool = ThreadPoolExecutor(threads)
    begun = iter(lambda: [(key, pool.submit(_prepared, clf, store, key, decode)) for key in islice(keys, BATCH)], [])
    try:
        waiting = deque(islice(begun, AHEAD))
        while waiting:
            chunk = [(key, prepared.result()) for key, prepared in waiting.popleft()]
            waiting.extend(islice(begun, 1))
            yield from _answered(clf, chunk, run)
    finally:
        pool.shutdown(cancel_futures=True)


def both_sides(run: Engine) -> Engine:
    """Of every picture the mean of the logits of itself and of its mirror image, left for right, by `run`."""
    return lambda images: (run(images) + run(np.ascontiguousarray(images[..., ::-1]))) / 2


def _answered(clf: Classifier, chunk: Sequence[tuple[str, Tensor | Refusal]], run: Engine) -> Iterator[Prediction]:
    images = [item.numpy() for _, item in chunk if isinstance(item, Tensor)]
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


def settle(
    clf: Classifier,
    store: Store,
    keys: Sequence[str],
    *,
    fast: bool = False,
    memory: Path | None = None,
    decode: Decode = codecs.decode,
) -> Choice:
    """How to answer for many pictures here: `plans.settle` on the first of them.

    Fewer than `plans.ENOUGH` are the reference's. For more, engines in fp32 whose labels are the reference's and whose
    probabilities are within CLOSE, for all pictures that are asked: nobody has to know which one answered.

    Args:
        fast: take lower precision as well, where only the labels have to be the reference's, for `plans.AGREE` of them.
        memory: the file that choices are kept in.
        decode: as for `predict_store`.
    """
    sample: list[np.ndarray] = []
    if len(keys) >= plans.ENOUGH:
        with ThreadPoolExecutor(THREADS) as pool:
            prepared = pool.map(lambda key: _prepared(clf, store, key, decode), keys[: plans.ENOUGH])
            sample = [item.numpy() for item in prepared if isinstance(item, Tensor)]
    if not sample:
        return Choice(Plan(threads=torch.get_num_threads()), lambda images: logits(clf, torch.from_numpy(images)))
    return plans.settle(
        plans.inference_candidates(precision="auto" if fast else "fp32"),
        lambda plan: _engine(clf, plan),
        np.stack(sample),
        pictures=len(keys),
        agreement=None
        if fast and clf.task == "single-label"
        else lambda expected, found: _agreement(clf, expected, found),
        memory=memory,
        least=plans.AGREE if fast else 1.0,
        work=f"answers {digest(clf)[:16]}, engines {', '.join(engines.installed())}",
    )


def _engine(clf: Classifier, plan: Plan) -> Engine:
    network = clf.quick if plan.device == "cpu" else copy.deepcopy(clf.quick).to(plan.device)
    how = engines.How(plan.precision, plan.threads, plan.device)
    return engines.build(engines.Logits(network, clf.preprocessing), plan.engine, how)


def _agreement(clf: Classifier, expected: np.ndarray, found: np.ndarray) -> float:
    """The share of pictures, of logits `(M, K)`, with the same label and no probability more than CLOSE off.

    Of the other tasks, with no answer more than CLOSE off, for quantities CLOSE of their deviation.
    """
    if clf.task == "regression":
        return float((np.abs(found - expected).max(1) <= CLOSE).mean())
    one, other = answers(clf, found), answers(clf, expected)
    close = np.abs(one - other).max(1) <= CLOSE
    return float((close & (named(clf, one) == named(clf, other)) if clf.task == "single-label" else close).mean())


def digest(clf: Classifier) -> str:
    """64 hexadecimal letters of what decides an answer: weights, layers, preprocessing, class names, temperature …"""
    decided = (clf.temperature, dict(clf.thresholds), clf.unsure_below, *clf.scale)
    facts = (str(clf.network), clf.preprocessing, clf.classes, clf.task, *decided)
    found = hashlib.sha256(repr(facts).encode("utf-8", "surrogateescape"))
    for name, tensor in clf.network.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def predict_all(clf: Classifier, source: str | Path) -> Iterator[Prediction]:
    """A Prediction for every file of a folder or zip, or of one file; what is no picture has an error.

    Raises:
        CallError: when there is nothing at `source`.
    """
    store, keys, refused = sources.pictures(source)
    yield from predict_store(clf, store, keys)
    yield from (dataclasses.replace(blank(clf), key=refusal.key, error=refusal) for refusal in refused)


def predict(clf: Classifier, source: str | Path | bytes | np.ndarray) -> Prediction | list[Prediction]:
    """What the classifier says of one picture (a file, its bytes, uint8 `(H, W, 3)`), or of all in a folder or zip.

    Returns:
        one Prediction for one picture, a list for a folder or zip; unreadable pictures carry an error.

    Raises:
        CallError: when there is nothing at `source`.
    """
    if isinstance(source, bytes | np.ndarray):
        return next(predict_store(clf, _One(source), ["picture"]))
    found = list(predict_all(clf, source))
    return found if sources.holds_many(source) else found[0]


@dataclass(frozen=True)
class _One:
    data: bytes | np.ndarray

    def read(self, key: str) -> bytes | np.ndarray:
        return self.data


def _prepared(clf: Classifier, store: Store, key: str, decode: Decode = codecs.decode) -> Tensor | Refusal:
    try:
        return preprocessing.load(clf.preprocessing, store.read(key), decode=decode)
    except errors.PictureError as error:
        return Refusal(key, error.code, str(error))


def checked_classes(classes: Sequence[str], other: Sequence[str]) -> None:
    """Refuse data with a class that the classifier does not know.

    Raises:
        DataError: it names the classes.
    """
    strange = [name for name in other if name not in set(classes)]
    if strange:
        raise errors.DataError(
            "the data has classes that the model does not know",
            expected=", ".join(classes[:20]),
            received=", ".join(strange[:20]),
            do="Rename the folders, or train a model on this data",
        )


def imagenet() -> Classifier:
    """EfficientNet-Lite0 with its thousand classes, ready with no training and no network."""
    network, classes, origin = weights.imagenet()
    road = Preprocessing(origin.size, "crop", origin.mean, origin.std, origin.interpolation)
    facts = {"name": "imagenet", "licence": origin.license, "started from": asdict(origin)}
    return Classifier(network, weights.IMAGENET, road, classes, facts=facts)
