"""Networks: one battery for all that are named, then what is particular to each."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from opsin import models
from opsin.errors import CallError, MachineError, ModelError
from opsin.models import NetworkSpec, bridge, weights
from opsin.models.textbook import Textbook

RESIDUAL = ("resnet18", "resnet26d")  # a plain and a deep stem
OTHERS = ("small", "alexnet", "efficientnet_b0", "mobilenetv3_small_100", "convnext_atto", "vit_tiny_patch16_224")
NETWORKS = [*(("textbook", side) for side in (8, 28, 32, 64)), *((name, 32) for name in RESIDUAL + OTHERS)]
LARGE = [
    ("alexnet", 64),
    ("alexnet", 224),
    ("vgg11", 32),
    ("vgg11", 64),
    ("resnet18", 64),
    ("vit_tiny_patch16_224", 224),
]
# one of each way to be built
AGAIN = [("textbook", 8), ("small", 32), ("resnet18", 32), ("mobilenetv3_small_100", 32), ("test_vit", 96)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks, and other tests on the same cores: threads waiting for each other cost four times as much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def seeded(spec: NetworkSpec, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build(spec)


def images(size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(
    scope="module",
    params=[*NETWORKS, *(pytest.param(case, marks=pytest.mark.slow) for case in LARGE)],
    ids=lambda case: f"{case[0]}-{case[1]}",
)
def built(request: pytest.FixtureRequest) -> tuple[NetworkSpec, nn.Module]:
    spec = models.spec_for(request.param[0], 5, request.param[1])
    return spec, seeded(spec)


# --- the battery ---------------------------------------------------------------------------------------------------


def test_logits_and_features(built: tuple[NetworkSpec, nn.Module]) -> None:
    spec, network = built
    assert network.training  # as built
    network.eval()
    with torch.no_grad():
        logits = network(images(spec.size))
        features = models.features(network, images(spec.size))
        again = models.head(network)(features)
    network.train()
    assert logits.shape == (2, 5)
    assert logits.dtype == torch.float32
    assert features.shape == (2, models.head(network).in_features)
    torch.testing.assert_close(again, logits, rtol=0, atol=1e-5)
    assert not models.head(network)._forward_pre_hooks  # the hook is gone
    assert not torch.equal(logits[0], logits[1])  # the picture matters


def test_every_weight_learns(built: tuple[NetworkSpec, nn.Module]) -> None:
    spec, network = built
    torch.manual_seed(0)
    network.zero_grad()
    F.cross_entropy(network(images(spec.size)), torch.tensor([0, 3])).backward()
    learning = {name: each for name, each in network.named_parameters() if each.requires_grad}
    assert set(dict(network.named_parameters())) - set(learning) <= {"stem.weight"}  # which whitens, and is computed
    for name, parameter in learning.items():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    first = models.stages(network)[0]
    assert any(learning[name].grad.count_nonzero() for name in first if name in learning)  # type: ignore[union-attr]
    network.zero_grad()


def test_stages_hold_every_parameter_once(built: tuple[NetworkSpec, nn.Module]) -> None:
    _, network = built
    groups = models.stages(network)
    names = [name for name, _ in network.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert all(groups)
    assert len(groups) >= 3
    own = {id(parameter) for parameter in models.head(network).parameters()}
    assert {id(network.get_parameter(name)) for name in groups[-1]} == own
    assert names[0] in groups[0]


@pytest.mark.parametrize(("name", "size"), AGAIN)
def test_rebuilt_from_json_and_state(name: str, size: int) -> None:
    spec = models.spec_for(name, 5, size)
    first, same = seeded(spec).eval(), seeded(spec)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), same.state_dict().values(), strict=True))
    other = seeded(NetworkSpec.from_dict(json.loads(json.dumps(spec.to_dict()))), seed=1).eval()
    with torch.no_grad():
        assert not torch.equal(other(images(size)), first(images(size)))
        other.load_state_dict(first.state_dict())
        assert torch.equal(other(images(size)), first(images(size)))


# --- textbook ------------------------------------------------------------------------------------------------------


def test_textbook_counts() -> None:
    convolutions = (3 * 9 * 64 + 64) + (64 * 9 * 128 + 128) + (128 * 9 * 256 + 256)
    hidden = (256 * 8 * 8 * 1024 + 1024) + (1024 * 512 + 512)
    with torch.device("meta"):
        network = Textbook(10, 64)
    assert sum(p.numel() for p in network.parameters()) == convolutions + hidden + (512 * 10 + 10) == 17_678_986


def test_textbook_at_224() -> None:
    with torch.device("meta"):
        network = models.build(NetworkSpec("textbook", 10, 224))  # 206 million weights: shapes only
        assert network(torch.zeros(4, 3, 224, 224)).shape == (4, 10)
    assert models.stages(network)[-1] == ["head.weight", "head.bias"]
    assert network.get_parameter("hidden.0.weight").shape == (1024, 256 * 28 * 28)


@pytest.mark.parametrize(("pool", "reference"), [("max", F.max_pool2d), ("average", F.avg_pool2d)])
def test_textbook_is_the_text_s(pool: str, reference: object) -> None:
    network = seeded(NetworkSpec("textbook", 4, 19, pool=pool))
    state = list(network.state_dict().values())
    x = images(19)
    for weight, bias in zip(state[0:6:2], state[1:6:2], strict=True):
        x = reference(F.conv2d(x, weight, bias, padding=1).relu(), 2)  # type: ignore[operator]
    x = (x.flatten(1) @ state[6].T + state[7]).relu()
    x = (x @ state[8].T + state[9]).relu() @ state[10].T + state[11]
    torch.testing.assert_close(network(images(19)), x)


def test_textbook_refuses() -> None:
    with pytest.raises(CallError, match="at least 8, received 7"):
        models.build(NetworkSpec("textbook", 2, 7))
    with pytest.raises(CallError, match="Did you mean 'average'"):
        models.build(NetworkSpec("textbook", 2, 8, pool="averag"))


# --- names, specs and stems ----------------------------------------------------------------------------------------


def test_importing_is_cheap() -> None:
    code = (
        "import sys, opsin.models; assert not {'torch', 'timm', 'torchvision'} & set(sys.modules);"
        "import opsin.models.weights; assert not {'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_timm_comes_ahead_of_its_use_and_not_for_what_is_known() -> None:
    code = """
import sys, threading
from opsin import models
from opsin.models import weights
models.spec_for(weights.WHEEL, 2, 64, pretrained=True), weights.pretrained_info(weights.WHEEL)
models.ahead("textbook")
assert threading.active_count() == 1 and "timm" not in sys.modules
turns = sys.getswitchinterval()
models.ahead(weights.WHEEL)
for thread in threading.enumerate()[1:]:
    thread.join()
assert "timm" in sys.modules and sys.getswitchinterval() == turns
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_goes_wrong_ahead_is_told_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("libtorch.so: cannot open shared object file")

    before = threading.enumerate()
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    monkeypatch.setattr(bridge, "library", broken)
    models.ahead(weights.WHEEL)  # an error of a thread that nobody caught would fail this test
    for thread in set(threading.enumerate()) - {*before}:
        thread.join()
    with pytest.raises(ImportError, match="libtorch"):
        models.build(NetworkSpec(weights.WHEEL, 2, 64))


def test_names() -> None:
    names = models.names()
    assert names[:3] == ["textbook", "small", "alexnet"]
    assert {"vgg16_bn", "resnet18", "tf_efficientnet_lite0"} < set(names)
    assert len(names) == len(set(names)) > 1000


@pytest.mark.parametrize("name", ["resnet81", "textbok", "hf-hub:timm/resnet18.a1_in1k", "resnet18.no_such_tag"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(CallError, match="unknown network"):
        models.spec_for(name, 2, 64)
    with pytest.raises(CallError, match="unknown network"):
        models.build(NetworkSpec(name, 2, 64))
    with pytest.raises(CallError, match="unknown network"):
        weights.pretrained_info(name)


def test_near_names_are_offered() -> None:
    with pytest.raises(CallError, match="Did you mean 'resnet18'"):
        models.spec_for("resnt18", 2, 64)
    with pytest.raises(CallError, match="Did you mean 'textbook'"):
        models.spec_for("textbok", 2, 64)


@pytest.mark.parametrize(
    ("name", "size", "small"),
    [
        ("resnet18", 32, True),
        ("resnet18", 95, True),
        ("resnet18", 96, False),
        ("seresnet50", 64, True),
        ("wide_resnet50_2", 64, True),
        ("resnext50_32x4d", 64, True),
        ("resnet18.a1_in1k", 32, True),
        ("vgg11", 32, False),
        ("alexnet", 32, True),
        ("alexnet", 224, False),
        ("textbook", 32, False),
        ("convnext_atto", 32, False),
    ],
)
def test_default_stem(name: str, size: int, small: bool) -> None:
    assert models.default_small_stem(name, size) is small
    assert models.spec_for(name, 2, size).small_stem is small
    assert models.spec_for(name, 2, size, pretrained=True).small_stem is False


@pytest.mark.parametrize(("name", "size", "side"), [("resnet18", 32, 32), ("resnet26d", 32, 32), ("resnet18", 128, 32)])
def test_first_residual_map(name: str, size: int, side: int) -> None:
    network = seeded(models.spec_for(name, 2, size)).eval()
    seen: list[torch.Size] = []
    network.get_submodule("layer1").register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    network(images(size))
    assert seen[0][2:] == (side, side)


def test_a_stem_that_is_not_there() -> None:
    with pytest.raises(ModelError, match="small_stem"):
        models.build(NetworkSpec("mobilenetv3_small_100", 2, 64, small_stem=True))


@pytest.mark.parametrize(
    ("name", "size"), [("small", 8), ("alexnet", 8), ("inception_v3", 32), ("vit_tiny_patch16_224", 8)]
)
def test_too_small_a_size(name: str, size: int) -> None:
    with (
        torch.device("meta"),
        pytest.raises(
            CallError, match=rf"work on {size}×{size} pixels .*another side.*received {size}\. Set another size="
        ),
    ):
        models.build(models.spec_for(name, 2, size))


def test_too_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_spec: NetworkSpec) -> nn.Module:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setitem(models.MODELS, "full", full)
    with pytest.raises(MachineError, match="does not fit into memory"):
        models.build(NetworkSpec("full", 2, 64))


def test_what_is_no_classifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(models.MODELS, "odd", lambda spec: nn.Conv2d(3, spec.classes, 1))
    with pytest.raises(ModelError, match=r"expected logits \(2, 4\), received \(2, 4, 8, 8\)"):
        models.build(NetworkSpec("odd", 4, 8))


@pytest.mark.parametrize(("classes", "size"), [(0, 32), (2, 0)])
def test_nothing_to_build(classes: int, size: int) -> None:
    with pytest.raises(CallError, match="at least one"):
        models.build(NetworkSpec("textbook", classes, size))


@pytest.mark.parametrize("change", [{"extra": 1}, {"size": None}, {"size": "32"}, {"classes": True}, {"small_stem": 0}])
def test_spec_from_a_changed_file(change: dict[str, object]) -> None:
    values = NetworkSpec("resnet18", 10, 32).to_dict() | change
    with pytest.raises(ModelError, match="network description"):
        NetworkSpec.from_dict(values)


def test_spec_with_a_key_too_few() -> None:
    values = NetworkSpec("resnet18", 10, 32).to_dict()
    del values["pool"]
    with pytest.raises(ModelError, match="network description"):
        NetworkSpec.from_dict(values)


# --- a user's own network ------------------------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.first = nn.Linear(16, 7)
        self.second = nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.body(x * self.scale)).relu())


def test_own_network() -> None:
    network = Own()
    assert models.head(network) is network.second
    assert models.features(network, images(8)).shape == (2, 7)
    torch.testing.assert_close(network.second(models.features(network, images(8))), network(images(8)))
    assert models.stages(network) == [
        ["scale"],
        ["body.0.weight", "body.0.bias"],
        ["first.weight", "first.bias"],
        ["second.weight", "second.bias"],
    ]


def test_own_network_without_a_head() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ModelError, match="no head"):
        models.head(network)
    assert models.stages(network) == [["0.weight", "0.bias"]]


def test_own_network_with_a_head_for_every_pixel() -> None:
    network = nn.Sequential(nn.Flatten(2), nn.Linear(64, 5))
    with pytest.raises(ModelError, match=r"one \(B, D\) input, received \[\(2, 3, 64\)\]"):
        models.features(network, images(8))
    assert not network[1]._forward_pre_hooks


@pytest.mark.parametrize("name", ["repvit_m0_9.dist_450e_in1k", "resnetv2_50x1_bit"])
def test_heads_that_are_not_one_linear_layer(name: str) -> None:
    with torch.device("meta"):
        network = models.build(NetworkSpec(name, 2, 64))
    with pytest.raises(ModelError, match="choose another network"):
        models.head(network)
    grouped = [parameter for group in models.stages(network) for parameter in group]
    assert sorted(grouped) == sorted(parameter for parameter, _ in network.named_parameters())


def test_head_inside_a_classifier() -> None:
    with torch.device("meta"):
        network = models.build(NetworkSpec("caformer_s18", 7, 64))
    assert models.stages(network)[-1] == ["head.fc.fc2.weight", "head.fc.fc2.bias"]


def test_network_that_the_meta_device_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.offset = [torch.ones(1)]  # hidden from functional_call
            self.head = nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.mean((2, 3)) + float(x.sum()) + self.offset[0])

    monkeypatch.setitem(models.MODELS, "stubborn", lambda _: Stubborn())
    assert models.build(NetworkSpec("stubborn", 2, 8))(images(8)).shape == (2, 2)


def test_convolution_before_the_head_is_not_the_head() -> None:
    network = seeded(models.spec_for("mobilenetv3_small_100", 2, 32))  # timm puts conv_head into the head's group
    assert models.stages(network)[-1] == ["classifier.weight", "classifier.bias"]
