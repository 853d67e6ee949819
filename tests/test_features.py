"""Features are what comes into the head; a fitted head is scikit-learn's, on vectors as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from opsin import cache, features, models, plans, preprocessing
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
def test_a_fitted_head_is_scikit_learns_on_standardised_vectors(classes: int, strength: float) -> None:
    x, y = vectors(210, 12, classes)
    weight, bias = features.fit_head(x, y, classes, strength=strength)
    assert (weight.shape, bias.shape, weight.dtype, bias.dtype) == ((classes, 12), (classes,), np.float32, np.float32)
    reference = LogisticRegression(C=strength, max_iter=1000)
    standardised = StandardScaler().fit_transform(x.astype(np.float64))
    reference.fit(standardised, y)
    logits = x @ weight.T + bias
    expected = reference.decision_function(standardised)
    if classes == 2:
        np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)
    else:
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    p = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(p / p.sum(1, keepdims=True), reference.predict_proba(standardised), atol=1e-4)


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
    np.testing.assert_array_equal(found, torch.cat(given).numpy())
    with torch.no_grad():
        whole = network.eval()(preprocessing.normalise(ROAD, torch.from_numpy(pixels.array)))
        np.testing.assert_allclose(network.head(torch.from_numpy(found)), whole, atol=1e-5)


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
