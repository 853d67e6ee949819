"""Recipe: every choice of a run, frozen, plain values, with a TOML form; and the presets that people start from.

Leaf names are unique, so `--set size=32` and `--set pixels.size=32` say the same.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, doc

from . import params
from .errors import CallError, unknown
from .vocabulary import Task

Flip = Literal["no", "safe", "yes"]


@dataclass(frozen=True)
class NetworkChoice:
    """Which network, and where its weights come from."""

    network: Annotated[str, doc("a name of `opsin list models`")] = "textbook"
    pretrained: Annotated[bool, doc("start from published weights")] = False
    pool: Annotated[Literal["max", "average"], doc("pooling of the textbook network")] = "max"
    start: Annotated[str, doc("digest of the model of ours whose weights it starts from; what --from sets")] = ""

    @property
    def tuned(self) -> bool:
        """Whether first weights know something already."""
        return self.pretrained or bool(self.start)


@dataclass(frozen=True)
class PixelChoice:
    """How a picture becomes the network's input; stored in the model."""

    size: Annotated[int, Interval(ge=0, le=2048), doc("side of the network's input; 0: from network and data")] = 0
    fit: Annotated[
        Literal["squash", "letterbox", "crop"],
        doc("whole picture squashed; whole picture with bars; shorter side and centre crop"),
    ] = "squash"
    pipeline: Annotated[
        str, doc("operations done to every picture first, such as 'clahe:clip=2 | gamma'; or a pipeline's TOML file")
    ] = ""


@dataclass(frozen=True)
class AugmentChoice:
    """What training changes at random. 0 (or 1 for a scale) is off. `safe` flips unless that would relabel."""

    hflip: Annotated[Flip, doc("mirror left and right")] = "no"
    vflip: Annotated[Flip, doc("mirror top and bottom")] = "no"
    rotate: Annotated[float, Interval(ge=0, le=180), doc("largest turn, degrees")] = 0.0
    translate: Annotated[float, Interval(ge=0, le=0.5), doc("largest shift, fraction of the side")] = 0.0
    crop: Annotated[float, Interval(ge=0, le=0.5), doc("crop after padding by this fraction of the side")] = 0.0
    resized_crop: Annotated[float, Interval(gt=0, le=1), doc("smallest area of a random resized crop")] = 1.0
    brightness: Annotated[float, Interval(ge=0, lt=1), doc("largest relative change")] = 0.0
    contrast: Annotated[float, Interval(ge=0, lt=1), doc("largest relative change")] = 0.0
    saturation: Annotated[float, Interval(ge=0, lt=1), doc("largest relative change")] = 0.0
    border: Annotated[Literal["zeros", "reflection"], doc("what stands outside the picture")] = "reflection"
    perspective: Annotated[float, Interval(ge=0, le=0.4), doc("largest tilt: 0.1 brings a side 10 % nearer")] = 0.0
    policy: Annotated[
        Literal["none", "randaugment", "trivialaugment", "augmix"],
        doc("a few operations a picture, of one strength; one of any strength; a mixture of chains of them"),
    ] = "none"
    policy_ops: Annotated[int, Interval(ge=1, le=14), doc("operations one after the other, of randaugment")] = 2
    policy_strength: Annotated[float, Interval(ge=0, le=1), doc("of randaugment and augmix")] = 0.3
    blur: Annotated[float, Interval(ge=0, le=10), doc("largest sigma of a Gaussian, pixels of the input")] = 0.0
    noise: Annotated[float, Interval(ge=0, le=0.5), doc("largest deviation of Gaussian noise; white is 1")] = 0.0
    erase: Annotated[float, Interval(ge=0, le=1), doc("share of pictures that lose a rectangle")] = 0.0
    mixup: Annotated[float, Interval(ge=0, le=10), doc("alpha of the shares of two pictures blended; 0: off")] = 0.0
    cutmix: Annotated[float, Interval(ge=0, le=10), doc("alpha of the shares of two pictures, cut; 0: off")] = 0.0


@dataclass(frozen=True)
class LearnChoice:
    """The loss, how long, and when to stop."""

    loss: Annotated[
        str,
        doc(
            "cross-entropy, focal, poly-1, or mse on one-hot probabilities; of several labels binary-cross-entropy, "
            "binary-focal, asymmetric; of quantities mse, mae, huber"
        ),
    ] = "cross-entropy"
    label_smoothing: Annotated[float, Interval(ge=0, lt=1), doc("share of the target spread over all classes")] = 0.0
    class_weights: Annotated[
        Literal["none", "balanced", "effective"], doc("inverse to a class's count, or to its effective number")
    ] = "none"
    effective_beta: Annotated[float, Interval(ge=0, lt=1), doc("0: classes alike; towards 1: balanced")] = 0.999
    sampling: Annotated[
        Literal["natural", "balanced"], doc("balanced: every class as often; an epoch stays as long as it is")
    ] = "natural"
    epochs: Annotated[int, Ge(0), doc("passes over the training pictures")] = 10
    batch: Annotated[int, Ge(1), doc("pictures a step")] = 64
    accumulate: Annotated[int, Ge(1), doc("batches whose gradients make one step; memory holds one of them")] = 1
    patience: Annotated[int, Ge(0), doc("epochs without a better `metric` before stopping; 0: never")] = 0
    metric: Annotated[
        Literal["accuracy", "macro F1", "loss", "mAP", "MAE"],
        doc("what best and patience look at, on val; mAP is of several labels, MAE of quantities"),
    ] = "accuracy"
    keep: Annotated[Literal["last", "best"], doc("which network is saved")] = "last"
    want: Annotated[str, doc("what thresholds must reach: `bad recall>=0.98; accuracy>=0.99`")] = ""
    grow_from: Annotated[
        int, Interval(ge=0, le=2048), doc("side in the first epoch, grows to `size` over half of all epochs; 0: off")
    ] = 0
    hardest: Annotated[
        float, Interval(gt=0, le=1), doc("share of a batch that is learnt from: where the loss is largest")
    ] = 1.0


@dataclass(frozen=True)
class OptimiserChoice:
    """How weights move."""

    optimiser: Annotated[str, doc("gd (full batch), sgd, momentum, nesterov, adamw, adam, rmsprop, lion, muon")] = (
        "momentum"
    )
    lr: Annotated[float, Gt(0), doc("highest learning rate")] = 0.001
    momentum: Annotated[float, Interval(ge=0, lt=1), doc("of momentum, nesterov, rmsprop, muon; beta1 of others")] = 0.9
    weight_decay: Annotated[float, Ge(0), doc("not applied to biases and norms")] = 0.0
    clip_norm: Annotated[float, Ge(0), doc("largest norm of the whole gradient; 0: off")] = 0.0
    clip_value: Annotated[float, Ge(0), doc("largest single gradient; 0: off")] = 0.0
    schedule: Annotated[str, doc("constant, step, cosine, one-cycle, linear")] = "constant"
    warmup: Annotated[float, Interval(ge=0, lt=1), doc("share of all steps in which the rate rises")] = 0.0
    step_every: Annotated[int, Ge(1), doc("epochs between the drops of schedule step")] = 10
    step_factor: Annotated[float, Interval(gt=0, le=1), doc("what a drop multiplies the rate with")] = 0.1
    ema: Annotated[float, Interval(ge=0, lt=1), doc("decay a step of the averaged weights; 0: off")] = 0.0
    average_from: Annotated[
        float, Interval(ge=0, le=1), doc("share of all steps after which all count alike; 1: off")
    ] = 1.0
    lookahead: Annotated[int, Ge(0), doc("steps after which weights go half-way back; 0: off")] = 0


@dataclass(frozen=True)
class FinetuneChoice:
    """How weights that know something are adapted; from random ones nothing here acts."""

    head: Annotated[Literal["fitted", "random"], doc("fitted: logistic regression on frozen features first")] = "fitted"
    layer_decay: Annotated[float, Interval(gt=0, le=1), doc("rate of a stage relative to the one after it")] = 0.75
    freeze_norms: Annotated[bool, doc("batch norms keep the statistics that they came with")] = True
    frozen_epochs: Annotated[int, Ge(0), doc("first epochs, in which only the head learns")] = 0


@dataclass(frozen=True)
class Recipe:
    """Every choice of a run. Change one with `recipe.set(size=32)`; presets are plain functions in `PRESETS`."""

    name: str = "custom"
    seed: Annotated[int, Interval(ge=0, lt=2**32), doc("of the split, the first weights, the order and every draw")] = 0
    model: NetworkChoice = field(default_factory=NetworkChoice)
    pixels: PixelChoice = field(default_factory=PixelChoice)
    augment: AugmentChoice = field(default_factory=AugmentChoice)
    learn: LearnChoice = field(default_factory=LearnChoice)
    optim: OptimiserChoice = field(default_factory=OptimiserChoice)
    finetune: FinetuneChoice = field(default_factory=FinetuneChoice)

    def set(self, **changes: Any) -> Recipe:
        """A copy with choices changed by their leaf or dotted name.

        >>> textbook().set(size=32, epochs=2).learn.epochs
        2

        Raises:
            CallError: for an unknown name, a wrong type or a value out of bounds.
        """
        return params.changed(self, changes)

    def set_texts(self, assignments: tuple[str, ...] | list[str]) -> Recipe:
        """The same from texts such as `size=32`, as a command line gives them."""
        changes = {}
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise CallError("--set", expected="name=value", received=repr(assignment))
            parameter = params.find(Recipe, name.strip())
            if parameter.name == "pixels.pipeline" and text.endswith(".toml"):
                text = _steps(Path(text))
            changes[parameter.name] = params.read_text(parameter, text)
        return params.changed(self, changes)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def to_toml(self) -> str:
        import tomli_w

        return tomli_w.dumps(self.to_dict())


def _steps(file: Path) -> str:
    """The steps of a pipeline's TOML file as one text, so that a recipe does not depend on the file.

    Raises:
        CallError: when there is no such file, or it holds something else.
    """
    words = {True: "yes", False: "no"}
    try:
        steps = tomllib.loads(file.read_text(encoding="utf-8"))["step"]
        named = [
            (step.pop("op"), [f"{k}={words[v] if isinstance(v, bool) else v}" for k, v in step.items()])
            for step in steps
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CallError(
            f"pipeline {file}", expected="what opsin process --save-pipeline writes", received=str(error)
        ) from error
    return " | ".join(op + (":" + ",".join(settings) if settings else "") for op, settings in named)


def textbook() -> Recipe:
    """The text's recipe: the baseline that everything is compared with.

    Normalisation, both flips, turns of up to 20°, SGD 0.001 with momentum 0.9, cross-entropy, ten epochs, batches of
    64.
    Where the text contradicts itself: it resizes to 224 while its layers need 64, so 64 it is (any size fits with
    `--set size=`); it never makes its training loader, we do; it tests with training augmentation, we never do.
    """
    return Recipe(
        name="textbook",
        pixels=PixelChoice(size=64),
        augment=AugmentChoice(hflip="safe", vflip="safe", rotate=20.0, border="zeros"),
    )


def modern() -> Recipe:
    """From scratch, as a good engineer would today: a small residual network, crops, a one-cycle rate.

    What was tried and left out is in docs/learning.md.
    """
    return Recipe(
        name="modern",
        model=NetworkChoice(network="small"),
        augment=AugmentChoice(hflip="safe", crop=0.0625),
        learn=LearnChoice(epochs=10, batch=128, label_smoothing=0.1),
        optim=OptimiserChoice(optimiser="nesterov", lr=0.2, weight_decay=5e-4, schedule="one-cycle", warmup=0.25),
    )


def finetune() -> Recipe:
    """From ImageNet weights: a head fitted on frozen features, then all of it, early layers at lower rates.

    The order is LP-FT (Kumar et al. 2022, arXiv 2202.10054): with a fitted head the first steps do not spoil features.
    """
    return Recipe(
        name="finetune",
        model=NetworkChoice(network="tf_efficientnet_lite0", pretrained=True),
        augment=AugmentChoice(hflip="safe", resized_crop=0.5, brightness=0.2, contrast=0.2, saturation=0.2),
        learn=LearnChoice(epochs=6, batch=32, label_smoothing=0.1, keep="best"),
        optim=OptimiserChoice(optimiser="adamw", lr=5e-4, weight_decay=0.02, schedule="cosine", warmup=0.1, ema=0.98),
    )


def probe() -> Recipe:
    """In seconds: ImageNet features, frozen, and a head fitted on them; no epoch of training.

    Logistic regression whose strength is chosen by cross-validation on training pictures; class means for very few.
    """
    return Recipe(
        name="probe",
        model=NetworkChoice(network="tf_efficientnet_lite0", pretrained=True),
        learn=LearnChoice(epochs=0),
    )


PRESETS: dict[str, Callable[[], Recipe]] = {
    "textbook": textbook,
    "modern": modern,
    "finetune": finetune,
    "probe": probe,
}


# What presets choose otherwise for the other tasks. Whatever moves a picture may change a quantity (an angle, a size,
# a place): of a regression it is on only where the user, who knows the quantity, asks for it.
OF_TASK: dict[Task, dict[str, Any]] = {
    "single-label": {},
    "multi-label": {"loss": "binary-cross-entropy", "metric": "mAP", "label_smoothing": 0.0},
    "regression": {"loss": "huber", "metric": "MAE", "label_smoothing": 0.0, "hflip": "no", "vflip": "no",
                   "rotate": 0.0, "crop": 0.0, "resized_crop": 1.0},
}  # fmt: skip


def preset(name: str, *, task: Task = "single-label") -> Recipe:
    """The preset called `name`, as it is for a task.

    Raises:
        CallError: for an unknown name.
    """
    if name not in PRESETS:
        raise unknown("recipe", name, PRESETS)
    return PRESETS[name]().set(**OF_TASK[task])


def read(name_or_file: str | Path, *, task: Task = "single-label") -> Recipe:
    """A preset by its name, for a task, or a Recipe from a TOML file; what a file leaves out has its default.

    Raises:
        CallError: for an unknown preset, a file that is not there or not TOML, and for wrong values in it.
    """
    if str(name_or_file) in PRESETS:
        return preset(str(name_or_file), task=task)
    path = Path(name_or_file)
    if path.suffix != ".toml":
        raise unknown("recipe", str(name_or_file), PRESETS)
    try:
        return params.validate(Recipe, tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CallError(f"recipe {path}", expected="a TOML file", received=str(error)) from error
