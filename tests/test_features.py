"""Features are what comes into the head, whatever computes them; heads are fitted on vectors as they are."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.metrics.pairwise import cosine_similarity

from opsin import cache, engines, features, heads, metrics, models, plans, preprocessing
from opsin.engines import Engine
from opsin.errors import DataError
from opsin.models import weights
from opsin.plans import Plan
from opsin.preprocessing import Preprocessing
from opsin.vocabulary import finished
from tiny import ROAD, Net, digits, job, recipe, seeded, write_pngs


def vectors(n: int, d: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clouds of different place, scale and size."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % classes
    centres, scale = rng.normal(size=(classes, d)), np.exp(rng.normal(size=d))
    return ((centres[targets] + rng.normal(size=(n, d))) * scale + 3).astype(np.float32), targets


@pytest.mark.parametrize("strength", [0.01, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_a_fitted_head_is_scikit_learns_on_centred_vectors(classes: int, strength: float) -> None:
    x, y = vectors(210, 12, classes)
    weight, bias = features.fit_head(x, y, classes, strength=strength)
    assert (weight.shape, bias.shape, weight.dtype, bias.dtype) == ((classes, 12), (classes,), np.float32, np.float32)
    reference = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
    centred = scaled(x)
    reference.fit(centred, y)
    logits = x @ weight.T + bias
    expected = reference.decision_function(centred)
    if classes == 2:
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)
    else:
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    p = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), reference.predict_proba(centred), atol=1e-4)


def test_a_class_without_a_record_is_never_the_answer() -> None:
    x, y = vectors(90, 6, 3)
    for missing, present in ((2, (0, 1, 3)), (0, (1, 2, 3))):
        weight, bias = features.fit_head(x, np.array(present)[y], 4)
        logits = x @ weight.T + bias
        assert (weight[missing] == 0).all()
        assert missing not in logits.argmax(1)
        assert (logits.argmax(1) == np.array(present)[y]).mean() > 0.8
    two, bias = features.fit_head(x[y < 2], np.array([1, 2])[y[y < 2]], 3)
    assert set((x[y < 2] @ two.T + bias).argmax(1)) == {1, 2}


def test_a_feature_that_never_changes_does_no_harm() -> None:
    x, y = vectors(60, 5, 3)
    x[:, 2] = 7
    weight, bias = features.fit_head(x, y, 3)
    moving = np.delete(x, 2, 1)
    expected, shift = features.fit_head(moving, y, 3)
    np.testing.assert_allclose(x @ weight.T + bias, moving @ expected.T + shift, atol=1e-4)


def test_the_fit_does_not_depend_on_place_or_scale() -> None:
    x, y = vectors(80, 6, 3)
    weight, bias = features.fit_head(x, y, 3)
    other, shift = features.fit_head(x * 100 + 50, y, 3)
    np.testing.assert_allclose((x * 100 + 50) @ other.T + shift, x @ weight.T + bias, atol=1e-3)


def scaled(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    return x / np.sqrt(x.var(0).mean())


def test_more_features_than_pictures_are_fitted_as_well() -> None:
    x, y = vectors(40, 300, 4)
    weight, bias = features.fit_head(x, y, 4)
    reference = LogisticRegression(C=0.03, max_iter=5000, tol=1e-8)
    expected = reference.fit(scaled(x), y).decision_function(scaled(x))
    np.testing.assert_allclose(x @ weight.T + bias, expected, atol=1e-3)


@pytest.mark.parametrize(
    "fit",
    [features.fit_head, features.nearest_mean, features.best_head, features.out_of_fold],
    ids=lambda f: f.__name__,
)
def test_one_class_is_an_error_of_the_data(fit: Callable[..., object]) -> None:
    x, _ = vectors(12, 4, 3)
    with pytest.raises(DataError, match=r"a head cannot be fitted: expected training pictures of two classes or more"):
        fit(x, np.ones(12, int), 3)


def test_the_nearest_class_mean_is_the_answer() -> None:
    x, y = vectors(61, 8, 3, seed=1)
    weight, bias = features.nearest_mean(x, np.array([0, 2, 3])[y], 5)
    means = np.stack([x[y == label].mean(0) for label in range(3)])
    centre = means.mean(0)
    nearest = np.array([0, 2, 3])[cosine_similarity(x - centre, means - centre).argmax(1)]
    assert ((x @ weight.T + bias).argmax(1) == nearest).all()
    assert (weight[[1, 4]] == 0).all()


def test_the_nearest_mean_of_noise_is_not_sure_and_of_clear_classes_is() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2

    def surest(x: np.ndarray) -> float:
        weight, bias = features.nearest_mean(x.astype(np.float32), y, 2)
        return float(metrics.softmax(x @ weight.T + bias).max(1).mean())

    noise = rng.normal(size=(40, 30))
    assert surest(noise) < 0.7
    assert surest(noise + 10 * y[:, None]) > 0.99


def test_single_pictures_have_a_nearest_mean() -> None:
    x, _ = vectors(3, 50, 3)
    weight, bias = features.nearest_mean(x, np.arange(3), 3)
    assert ((x @ weight.T + bias).argmax(1) == np.arange(3)).all()


def test_the_strength_is_the_one_that_cross_validation_finds_best() -> None:
    x, y = vectors(150, 10, 3)
    found, losses = features.choose_strength(x, y)
    z = scaled(x)
    fold = features.deal(y)
    for strength, loss in losses.items():
        sums = [
            log_loss(y[fold == k], fitted(z[fold != k], y[fold != k], strength).predict_proba(z[fold == k]))
            * (fold == k).sum()
            for k in range(5)
        ]
        assert loss == pytest.approx(sum(sums) / 150, abs=2e-3)
    assert losses[found] == min(losses.values())


def fitted(x: np.ndarray, y: np.ndarray, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, max_iter=2000).fit(x, y)


def test_noise_asks_for_more_regularisation_than_clear_classes() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    noise = rng.normal(size=(90, 40)).astype(np.float32)
    for_noise, tried = features.choose_strength(noise, y)
    assert len(tried) < len(features.STRENGTHS)  # it stopped when more was worse
    for_clear, _ = features.choose_strength(noise + 3 * np.eye(3, 40, dtype=np.float32)[y], y)
    assert for_noise < for_clear


def test_the_choice_is_the_same_each_time_and_for_rows_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = vectors(150, 10, 3)
    assert features.choose_strength(x, y, seed=3) == features.choose_strength(x, y, seed=3)
    monkeypatch.setattr(features, "MOST_ROWS", 90)
    some, _ = features.choose_strength(x, y)
    assert some in features.STRENGTHS


def test_a_rare_class_is_among_the_rows_that_the_strength_is_chosen_on(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = vectors(3000, 4, 2)
    y[3:] = 0
    monkeypatch.setattr(features, "MOST_ROWS", 60)
    for seed in range(6):
        features.best_head(x, y, 2, seed=seed)
        heads.best_heads(x, np.stack([y, 1 - y], 1).astype(np.float32), "multi-label", seed=seed)


def test_the_rows_are_drawn_at_random_where_no_class_is_rare() -> None:
    order = np.random.default_rng(5).permutation(9000)
    np.testing.assert_array_equal(features._drawn(np.arange(9000) % 7, 5), np.sort(order[: features.MOST_ROWS]))
    np.testing.assert_array_equal(features._drawn(np.arange(3000), 5), np.arange(3000))
    assert len(features._drawn(np.arange(9000), 5)) == features.MOST_ROWS  # every row a class


def test_the_best_head_depends_on_how_many_pictures_there_are() -> None:
    x, y = vectors(120, 10, 3)
    head, said = features.best_head(x, y, 3)
    strength, _ = features.choose_strength(x, y)
    assert said == f"head: logistic regression, strength {strength:.2g} by cross-validation on training pictures"
    for one, other in zip(head, features.fit_head(x, y, 3, strength=strength)):
        np.testing.assert_array_equal(one, other)
    few, said = features.best_head(x[:6], y[:6], 3)
    assert said == "head: the nearest class mean, for want of pictures"
    for one, other in zip(few, features.nearest_mean(x[:6], y[:6], 3)):
        np.testing.assert_array_equal(one, other)


def test_folds_are_even_and_stratified() -> None:
    y = np.repeat([0, 1, 2], [50, 25, 3])
    fold = features.deal(y, folds=5, seed=1)
    counts = np.array([np.bincount(y[fold == k], minlength=3) for k in range(5)])
    assert (counts[:, :2] == (10, 5)).all()
    assert counts[:, 2].max() == 1
    assert (fold == features.deal(y, folds=5, seed=1)).all()
    assert (fold != features.deal(y, folds=5, seed=2)).any()


@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("n", [7, 60, 501])
@pytest.mark.parametrize("seed", [0, 3])
def test_folds_are_those_of_scikit_learn(n: int, seed: int) -> None:
    from sklearn.model_selection import StratifiedKFold

    y = np.random.default_rng(n).choice([4, 0, 7, 2], n, p=[0.6, 0.2, 0.15, 0.05])
    kept = StratifiedKFold(5 if n > 7 else 3, shuffle=True, random_state=seed).split(y, y)
    fold = features.deal(y, folds=5 if n > 7 else 3, seed=seed)
    assert [np.flatnonzero(fold == number).tolist() for number in range(fold.max() + 1)] == [
        held.tolist() for _, held in kept
    ]


def test_a_group_is_in_one_fold() -> None:
    y = np.arange(60) % 3
    groups = [f"patient {row // 6}" if row < 48 else None for row in range(60)]
    fold = features.deal(y, groups)
    assert set(fold) == {0, 1, 2, 3, 4}
    for name in set(groups) - {None}:
        assert len({number for number, group in zip(fold, groups) if group == name}) == 1
    assert len(set(fold[48:])) > 1  # each of those without a group stands alone
    with pytest.raises(DataError, match="too few pictures or groups for cross-validation"):
        features.deal(y, ["all"] * 60)


def test_out_of_fold_logits_are_of_heads_that_did_not_see_the_picture() -> None:
    x, y = vectors(100, 8, 2)
    found = features.out_of_fold(x, y, 3, seed=4)
    assert (found.shape, found.dtype) == ((100, 3), np.float32)
    fold = features.deal(y, seed=4)
    (weight, bias), _ = features.best_head(x[fold != 2], y[fold != 2], 3, seed=4)
    np.testing.assert_allclose(found[fold == 2], x[fold == 2] @ weight.T + bias, atol=1e-4)
    wrong = y.copy()
    wrong[17] = 1 - y[17]  # a label that is planted wrong is found unlikely
    p = metrics.softmax(features.out_of_fold(x, wrong, 2))[np.arange(100), wrong]
    assert p.argmin() == 17


def test_labels_of_noise_cannot_be_told_out_of_fold() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 100)).astype(np.float32), rng.integers(0, 2, 200)
    weight, bias = features.fit_head(x, y, 2, strength=1.0)
    assert ((x @ weight.T + bias).argmax(1) == y).mean() > 0.9  # seen pictures can
    assert 0.35 < (features.out_of_fold(x, y, 2).argmax(1) == y).mean() < 0.65


# Vectors -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [Plan(), Plan(channels_last=False)])
def test_features_are_what_comes_into_the_head(plan: Plan) -> None:
    pixels = job(recipe(), n=150).batches.pixels
    network = plans.place(seeded(Net).train(), plan)
    given = []
    handle = network.head.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    work = features.extract(network, pixels, ROAD, plan)
    assert [next(work) for _ in range(3)] == [64, 128, 150]
    found = finished(work)
    handle.remove()
    np.testing.assert_array_equal(found, torch.cat(given)[-150:].numpy())  # after what folding was tried on
    with torch.no_grad():
        whole = network.eval()(preprocessing.normalise(ROAD, torch.from_numpy(pixels.array)))
        np.testing.assert_allclose(network.head(torch.from_numpy(found)), whole, atol=1e-5)


def test_a_ready_engine_is_used_and_the_next_batch_is_read_while_it_runs() -> None:
    pixels = job(recipe(), n=150).batches.pixels
    reads, seen = [], []

    class Watched:
        def __getitem__(self, rows: slice) -> np.ndarray:
            reads.append(rows.start or 0)
            return pixels.array[rows]

    def engine(images: np.ndarray) -> np.ndarray:
        while len(reads) < len(seen) + 2:  # would wait for ever if reading waited for it
            time.sleep(0.001)
        seen.append(len(images))
        return images.reshape(len(images), -1)[:, :4].astype(np.float32)

    found = finished(
        features.extract(seeded(Net), dataclasses.replace(pixels, array=Watched()), ROAD, Plan(), ready=engine)  # type: ignore[arg-type]
    )
    assert seen == [64, 64, 22]
    np.testing.assert_array_equal(found, pixels.array.reshape(150, -1)[:, :4])


def test_engines_that_differ_too_much_do_not_agree() -> None:
    x, y = vectors(200, 20, 4)
    rng = np.random.default_rng(0)
    assert features.agreement(x, x, y) == 1
    assert features.agreement(x, x * (1 + rng.normal(size=x.shape) * 1e-4), y) >= 0.995
    assert features.agreement(x, rng.permutation(x), y) < 0.5
    assert features.agreement(x, np.where(np.arange(20) == 3, np.nan, x), y) == 0
    one = np.zeros(200, int)  # no class says what matters: the distance decides
    assert features.agreement(x, x * 1.01, one) == 1
    assert features.agreement(x, x * 1.2, one) == 0


def test_settling_looks_at_all_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (pixels,) = finished(cache.build(digits(100), [ROAD]))
    shown = []
    monkeypatch.setattr(plans, "settle", lambda offered, build, sample, **_: shown.append(sample))
    features.settle(seeded(Net), pixels, ROAD, [Plan()], pictures=1)
    found = [next(row for row in range(300) if (pixels.array[row] == image).all()) for image in shown[0]]
    assert len(found) == plans.ENOUGH
    assert set(np.bincount(pixels.targets().numpy()[found])) <= {66, 67, 68}


@pytest.mark.parametrize("wrong", [False, True])
def test_settling_compares_with_the_reference(wrong: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, (pixels,) = finished(cache.build(digits(40), [ROAD]))
    network = seeded(Net)
    build = features.engine
    offered = [Plan(), Plan(engine="openvino")]

    def planted(network: Net, road: Preprocessing, plan: Plan) -> Engine:
        right = build(network, road, Plan())
        if plan.engine == "torch":
            return lambda images: (time.sleep(0.02), right(images))[1]
        return lambda images: right(images[::-1].copy()) if wrong else right(images)

    monkeypatch.setattr(features, "engine", planted)
    choice = features.settle(network, pixels, ROAD, offered, pictures=10**6, memory=tmp_path / "plans.json")
    assert choice.plan == offered[not wrong]
    assert ("refused" in " ".join(choice.notes)) == wrong


def test_an_engine_on_a_gpu_leaves_the_reference_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    network, placed = seeded(Net), []
    monkeypatch.setattr(plans, "place", lambda own, plan: placed.append(own) or own)
    monkeypatch.setattr(engines, "build", lambda *_: None)
    for device in ("cpu", "cuda"):
        features.engine(network, ROAD, Plan(device))
    assert [own is network for own in placed] == [True, False]


# Vectors that are kept -----------------------------------------------------------------------------------------------


def test_the_key_tells_everything_apart_that_vectors_depend_on() -> None:
    pixels = job(recipe(), n=12).batches.pixels
    network = seeded(Net)
    same = features.key(network, pixels, ROAD, Plan())
    assert same == features.key(seeded(Net), pixels, ROAD, Plan(threads=7))
    changed = dataclasses.replace(pixels, array=pixels.array.copy())
    changed.array[11, 2, 7, 7] ^= 1
    other = seeded(Net)
    with torch.no_grad():
        other.norm.running_mean[3] += 1e-3
    loose = seeded(Net)
    loose.conv.stride = (1, 1)
    keys = [
        same,
        features.key(network, changed, ROAD, Plan()),
        features.key(network, cache.Pixels(pixels.data, pixels.array[..., ::-1]), ROAD, Plan()),
        features.key(network, pixels, dataclasses.replace(ROAD, std=(1.0, 1.0, 1.0)), Plan()),
        features.key(network, pixels, ROAD, Plan(precision="bf16")),
        features.key(network, pixels, ROAD, Plan(engine="openvino")),
        features.key(seeded(Net, 1), pixels, ROAD, Plan()),
        features.key(other, pixels, ROAD, Plan()),
        features.key(loose, pixels, ROAD, Plan()),
    ]
    assert len(set(keys)) == len(keys)


def test_another_version_of_an_engine_makes_its_own_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, keys = job(recipe(), n=12).batches.pixels, []
    for version in ("2026.1", "2026.2"):
        monkeypatch.setattr(engines.metadata, "version", lambda _, version=version: version)
        keys.append([features.key(seeded(Net), pixels, ROAD, Plan(engine=name)) for name in ("torch", "openvino")])
    assert [one == other for one, other in zip(*keys)] == [True, False]


def test_vectors_come_back_as_they_were_kept(cache_folder: Path) -> None:
    x, _ = vectors(20, 4, 2)
    assert features.recall("a" * 64) is None
    assert features.keep("a" * 64, x) == ""
    np.testing.assert_array_equal(features.recall("a" * 64), x)
    assert features.recall("b" * 64) is None
    assert [file.name for file in (cache_folder / "features").iterdir()] == ["a" * 64 + ".npy"]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text"])
def test_a_damaged_file_is_no_memory(content: bytes, cache_folder: Path) -> None:
    x, _ = vectors(20, 4, 2)
    features.keep("a" * 64, x)
    file = cache_folder / "features" / ("a" * 64 + ".npy")
    file.write_bytes(content or file.read_bytes()[:-7])
    assert features.recall("a" * 64) is None
    np.save(file, x.astype(np.float64))
    assert features.recall("a" * 64) is None
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    assert features.recall("a" * 64) is None


def test_a_full_disk_is_told_of_and_nothing_is_left_behind(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: object, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    x, _ = vectors(20, 4, 2)
    monkeypatch.setattr(np, "save", full)
    said = features.keep("a" * 64, x)
    assert said.startswith("features are not kept for the next run: could not write")
    assert said.endswith("No space left on device")
    assert list((cache_folder / "features").iterdir()) == []
    monkeypatch.setenv("OPSIN_CACHE", str(cache_folder / "features" / "deep"))
    (cache_folder / "features" / "deep").write_text("", encoding="utf-8")
    assert "features are not kept" in features.keep("a" * 64, x)


def test_what_was_used_longest_ago_makes_room(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, _ = vectors(20, 4, 2)
    monkeypatch.setattr(features, "KEPT_BYTES", 3 * x.nbytes + 500)  # with the headers of three files
    for age, name in enumerate("abc"):
        features.keep(name, x)
        os.utime(cache_folder / "features" / f"{name}.npy", (1000 + age, 1000 + age))
    assert features.recall("a") is not None
    features.keep("d", x)
    assert {file.stem for file in (cache_folder / "features").iterdir()} == {"a", "c", "d"}
    assert features.keep("e", np.zeros((400, 4), np.float32)) == ""  # too large to be kept at all
    assert features.recall("e") is None


def test_what_a_killed_run_left_half_written_goes_after_a_day(cache_folder: Path) -> None:
    (cache_folder / "features").mkdir(parents=True)
    old, new = (cache_folder / "features" / f"{name}.7.part" for name in ("old", "new"))
    for part in (old, new):
        part.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    features.keep("a", np.zeros((2, 2), np.float32))
    assert {file.name for file in (cache_folder / "features").iterdir()} == {"new.7.part", "a.npy"}


# All together --------------------------------------------------------------------------------------------------------


def test_fitted_features_tell_digits_apart() -> None:
    _, (pixels,) = finished(cache.build(digits(40), [ROAD]))
    network = seeded(Net)
    x = finished(features.extract(network, pixels, ROAD, Plan()))
    weight, bias = features.fit_head(x, pixels.targets().numpy(), 3)
    with torch.no_grad():
        network.head.weight.copy_(torch.from_numpy(weight))
        network.head.bias.copy_(torch.from_numpy(bias))
        logits = network.eval()(preprocessing.normalise(ROAD, torch.from_numpy(pixels.array)))
    assert (logits.argmax(1) == pixels.targets()).float().mean() > 0.9


@pytest.mark.slow
def test_the_pretrained_network_has_features_that_fit(tmp_path) -> None:
    import opsin

    spec = models.spec_for("tf_efficientnet_lite0", 3, 64, pretrained=True)
    network, origin = weights.load(spec)
    road = Preprocessing(64, mean=origin.mean, std=origin.std, interpolation=origin.interpolation)
    data = opsin.read(write_pngs(tmp_path / "in", {"a": 8, "b": 8, "c": 8}, side=64))
    _, (pixels,) = finished(cache.build(data, [road]))
    x = finished(features.extract(plans.place(network, Plan()), pixels, road, Plan()))
    assert x.shape == (24, 1280)
    weight, bias = features.fit_head(x, pixels.targets().numpy(), 3)
    assert ((x @ weight.T + bias).argmax(1) == pixels.targets().numpy()).all()
    class_a = pixels.part(lambda record: record.target == 0)
    again = finished(features.extract(network, class_a, road, Plan()))
    np.testing.assert_allclose(again, x[:8], atol=1e-4)
