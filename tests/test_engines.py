"""Every engine answers as torch in fp32 does; OpenVINO neither sends nor writes anything."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opsin import engines, models, preprocessing
from opsin.engines import Features, How, Logits, build
from opsin.errors import CallError, MachineError, MissingExtra
from tiny import ROAD, Net, seeded

SEVERAL = """
import signal
import numpy as np
from torch import nn
from opsin import engines, preprocessing
road = preprocessing.Preprocessing(8)
def built():
    module = engines.Logits(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), road)
    return engines.build(module, "openvino", engines.How(threads=1))
first, second = built(), built()
first(np.zeros((1, 3, 8, 8), np.uint8))
del first
del second
signal.signal(signal.SIGINT, lambda *_: print("heard"))
signal.raise_signal(signal.SIGINT)
"""


def needed(*names: str) -> None:
    """Skip the test, saying so, where an engine is missing."""
    for name in names:
        if name not in engines.installed():
            pytest.skip(f"needs {name}: pip install 'opsin[fast]'")


def pictures(n: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 3, side, side), dtype=np.uint8)


def reference(module: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(images)).numpy()


def test_convolutions_on_a_gpu_are_not_rounded_in_fp32() -> None:
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision
    with engines._exact():
        assert convolutions.fp32_precision == "ieee"
    assert convolutions.fp32_precision == before
    with pytest.raises(KeyError), engines._exact():
        raise KeyError
    assert convolutions.fp32_precision == before


@pytest.mark.parametrize("module", [Logits, Features])
@pytest.mark.parametrize(
    ("engine", "precision", "close"),
    [
        ("torch", "fp32", 1e-5),
        ("torch", "bf16", 0.1),
        ("onnxruntime", "fp32", 1e-5),
        ("openvino", "fp32", 1e-5),
        ("openvino", "bf16", 0.1),
    ],
)
def test_an_engine_answers_as_the_reference(
    engine: str, precision: str, close: float, module: type[Logits], capfd: pytest.CaptureFixture[str]
) -> None:
    needed(engine)
    whole = module(seeded(Net).train(), ROAD)
    run = build(whole, engine, How(precision))
    for n in (1, 2, 32, 67):  # a rest, exactly a chunk, several chunks and a rest
        images = pictures(n)
        expected = reference(whole, images)
        found = run(images)
        assert (found.shape, found.dtype) == (expected.shape, np.float32)
        np.testing.assert_allclose(found, expected, atol=close)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_an_answer_is_not_written_over_by_the_next(engine: str) -> None:
    needed(engine)
    run = build(Logits(seeded(Net), ROAD), engine, How())
    first = run(pictures(32))
    before = first.copy()
    run(pictures(31))
    np.testing.assert_array_equal(first, before)


def test_logits_and_features_are_those_of_the_one_road() -> None:
    network = seeded(Net).eval()
    images = pictures(3)
    with torch.no_grad():
        inputs = preprocessing.normalise(ROAD, torch.from_numpy(images))
        np.testing.assert_array_equal(reference(Logits(network, ROAD), images), network(inputs))
        np.testing.assert_array_equal(reference(Features(network, ROAD), images), models.features(network, inputs))


@pytest.mark.slow
@pytest.mark.parametrize("engine", engines.ENGINES)
@pytest.mark.parametrize(
    "name", ["textbook", "small", "alexnet", "resnet18", "tf_efficientnet_lite0", "vit_tiny_patch16_224"]
)
def test_networks_of_the_table_run_on_every_engine(name: str, engine: str) -> None:
    needed(engine)
    torch.manual_seed(0)
    side = 224 if name.startswith("vit") else 64
    network = models.build(models.spec_for(name, 5, side))
    whole = Features(network, preprocessing.Preprocessing(side))
    images = pictures(5, side)
    np.testing.assert_allclose(build(whole, engine, How())(images), reference(whole, images), atol=1e-3, rtol=1e-3)


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(CallError, match=r"unknown engine 'openvin'.*Did you mean 'openvino'"):
        build(Logits(seeded(Net), ROAD), "openvin", How())


@pytest.mark.parametrize(
    ("engine", "part"),
    [("onnxruntime", "onnxruntime"), ("onnxruntime", "onnxscript"), ("openvino", "openvino")],
)
def test_a_missing_engine_names_the_extra(engine: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needed(engine)
    monkeypatch.setitem(sys.modules, part, None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=rf"{part} is not installed.*pip install 'opsin\[fast\]'"):
        build(Logits(seeded(Net), ROAD), engine, How())


def test_what_is_missing_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda part: None if part == "onnx" else object())
    assert engines.installed() == ["torch", "openvino"]


class Branching(Net):
    """Its way depends on the numbers, so no graph can be made of it."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if float(images.sum()) > 0 else -images)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_network_that_cannot_be_converted_is_refused(engine: str) -> None:
    needed(engine)
    with pytest.raises(MachineError, match=f"{engine} cannot run this network: .*Use the engine torch") as caught:
        build(Logits(seeded(Branching), ROAD), engine, How())
    assert len(str(caught.value).splitlines()) == 1


def test_onnx_has_named_ends_and_a_free_batch() -> None:
    needed("onnxruntime")
    import onnx
    import onnxruntime

    network = seeded(Net).eval()
    content = engines.to_onnx(network, torch.zeros(2, 3, 8, 8))
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    ends = [*model.graph.input, *model.graph.output]
    assert [end.name for end in ends] == ["images", "logits"]
    assert [end.type.tensor_type.shape.dim[0].dim_param for end in ends] == ["batch", "batch"]
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for n in (1, 7):
        images = torch.rand(n, 3, 8, 8)
        with torch.no_grad():
            np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[0], network(images), atol=1e-5)


QUIET = """
import socket, sys, threading
tried = []
def refuse(*args, **kwargs):
    tried.append(args)
    raise OSError("no network in this test")
socket.socket.connect = socket.getaddrinfo = refuse
sys.path.insert(0, {tests!r})
import numpy as np, torch
from opsin import engines
from tiny import ROAD, Net
run = engines.build(engines.Logits(Net(), ROAD), "openvino", engines.How())
assert run(np.zeros((3, 3, 8, 8), np.uint8)).shape == (3, 3)
assert not any(name.startswith("openvino_telemetry.") for name in sys.modules)
import openvino
openvino.tools.ovc.telemetry_utils.send_conversion_result("success")
assert not tried, tried
print("quiet")
"""


def test_openvino_sends_nothing_and_writes_nothing_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed("openvino")
    for name in ("CI", "TF_BUILD", "JENKINS_URL"):  # where it would be quiet by itself
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "LOCALAPPDATA", "USERPROFILE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    script = QUIET.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "quiet\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_signals_are_heard_after_several_openvino_engines_are_gone() -> None:
    needed("openvino")
    done = subprocess.run([sys.executable, "-c", SEVERAL], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["heard"], done.stderr
