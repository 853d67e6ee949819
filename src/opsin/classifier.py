"""Classifier: network + preprocessing + class names + temperature + thresholds. Complete and immutable.

Its answers are the reference: torch in fp32, channels last, evaluation mode, on the one preprocessing road. What
becomes of logits is in `answers`, for exported files too.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import allocation, codecs, engines, errors, models, plans, preprocessing, sources
from .answers import answers, blank, named, predict_store, prepared, refuse_names
from .engines import Engine
from .models import NetworkSpec, weights
from .plans import Choice, Plan
from .preprocessing import THREADS, Decode, Preprocessing
from .vocabulary import Prediction, Scale, Store, Task

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

    @functools.cached_property
    def reference(self) -> nn.Module:
        """`quick` as torch computes it soonest, on a CPU; made on the first use."""
        return engines.fused(self.quick, self.preprocessing)

    def prepare(self, data: bytes | np.ndarray, *, decode: Decode = codecs.decode) -> np.ndarray:
        """What `preprocessing.load` gives, as an array, uint8 `(3, S, S)`."""
        return preprocessing.pixels(self.preprocessing, data, decode=decode)

    def run(self, images: np.ndarray) -> np.ndarray:
        """`logits` of arrays, uint8 `(B, 3, S, S)` → float32 `(B, K)`."""
        return logits(self, torch.from_numpy(images))


@torch.no_grad()
def logits(clf: Classifier, images: Tensor) -> np.ndarray:
    """Prepared pictures, uint8 `(B, 3, S, S)` → float32 `(B, K)`: the reference that everything else is held to."""
    return clf.reference(preprocessing.normalise(clf.preprocessing, images)).float().numpy()  # type: ignore[no-any-return]


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
            found = pool.map(lambda key: prepared(clf, store, key, decode), keys[: plans.ENOUGH])
            sample = [item for item in found if isinstance(item, np.ndarray)]
    if not sample:
        return Choice(Plan(threads=torch.get_num_threads()), clf.run)
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
        work=f"{'fast answers' if fast else 'answers'} {digest(clf)[:16]}",
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
    for piece in models.content(clf.network):
        found.update(piece)
    return found.hexdigest()


def predict_all(clf: Classifier, source: str | Path) -> Iterator[Prediction]:
    """A Prediction for every file of a folder or zip, or of one file; what is no picture has an error.

    Raises:
        CallError: when there is nothing at `source`.
    """
    store, keys, refused = sources.pictures(source)
    yield from predict_store(clf, store, keys)
    yield from (dataclasses.replace(blank(clf), key=refusal.key, error=refusal) for refusal in refused)


def predict(clf: Classifier, source: Any) -> Prediction | list[Prediction]:
    """What the classifier says of one picture, of a list of pictures, or of all in a folder or zip.

    Args:
        source: a file's path, its bytes, an array, uint8 `(H, W, 3)`, a Pillow image; a list of these; or the path of a
            folder or zip.

    Returns:
        one Prediction for one picture, a list for a list, a folder or zip; unreadable pictures carry an error.

    Raises:
        CallError: when there is nothing at a path that stands alone, and for what is no picture, such as a tensor.
    """
    refuse_names(clf)
    if isinstance(source, str | Path):
        found = list(predict_all(clf, source))
        return found if sources.holds_many(source) else found[0]
    many = isinstance(source, list | tuple)
    given = _Given(source if many else [source])
    found = [_renamed(each, given.names[each.key]) for each in predict_store(clf, given, given.names)]
    return found if many else found[0]


class _Given:
    """Pictures as a program has them, as a Store whose keys are their places; `names` are what they are called."""

    def __init__(self, pictures: Sequence[Any]) -> None:
        self.files = sources.FolderStore(Path())
        self.held = {str(place): picture for place, picture in enumerate(pictures, 1)}
        name = "picture {}" if len(pictures) > 1 else "picture"
        self.names = {
            place: str(each) if isinstance(each, str | Path) else name.format(place)
            for place, each in self.held.items()
        }

    def read(self, key: str) -> bytes | np.ndarray:
        found = self.held[key]
        if isinstance(found, str | Path):
            return self.files.read(str(found))
        return found if isinstance(found, bytes | np.ndarray) else codecs.picture(found)


def _renamed(found: Prediction, name: str) -> Prediction:
    error = found.error and dataclasses.replace(found.error, key=name)
    return dataclasses.replace(found, key=name, error=error)


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
