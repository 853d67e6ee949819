"""torchvision's data sets and what is like them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

import opsin
from opsin import sources
from opsin.errors import CallError, DataError, PictureError
from tiny import train, write_pngs


class Listed:
    """Pictures by a list: grays, in one of Pillow's modes."""

    def __init__(
        self, n: int = 12, classes: tuple[str, ...] = ("dark", "light"), mode: str = "RGB", seed: int = 0
    ) -> None:
        self.n, self.classes, self.mode, self.seed, self.asked = n, classes, mode, seed, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.asked += 1
        noise = np.random.default_rng((self.seed, index)).integers(0, 128, (8, 8), dtype=np.uint8)
        return Image.fromarray(noise + 127 * (index % 2)).convert(self.mode), index % 2


def test_an_image_folder_is_the_folder(tmp_path) -> None:
    root = write_pngs(tmp_path / "set", {"dark": 6, "light": 6})
    data, folder = sources.read(datasets.ImageFolder(str(root))), sources.read(root)
    assert (data.name, data.classes) == ("imagefolder", folder.classes)
    assert [record.target for record in data.records] == [record.target for record in folder.records]
    for ours, files in zip(data.records, folder.records):
        np.testing.assert_array_equal(data.store.read(ours.key), opsin.codecs.decode(folder.store.read(files.key)))


def test_splits_by_their_names_and_a_run(tmp_path) -> None:
    data = opsin.read({"train": Listed(20), "test": Listed(8, seed=1)})
    assert (len(data.train), len(data.test)) == (20, 8)
    assert data.records[0].key == "test/dark/000000"
    run = train(data, tmp_path / "run", epochs=1)
    assert run.scores["test"].n == 8


def test_pictures_are_read_when_they_are_asked_for_and_tell_apart() -> None:
    items = Listed()
    data = sources.read(items)
    assert items.asked == 12
    data.store.read(data.records[0].key)
    assert items.asked == 13
    assert data.fingerprint == sources.read(Listed()).fingerprint != sources.read(Listed(mode="1")).fingerprint


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_a_picture(mode: str) -> None:
    data = sources.read(Listed(4, mode=mode))
    assert {data.store.read(record.key).shape for record in data.records} == {(8, 8, 3)}


def test_what_is_no_such_set_is_refused() -> None:
    with pytest.raises(CallError, match="classes"):
        sources.read([1, 2])  # type: ignore[arg-type]
    with pytest.raises(CallError, match="train"):
        sources.read({"first": Listed()})
    with pytest.raises(DataError, match="other classes"):
        sources.read({"train": Listed(), "test": Listed(classes=("a", "b"))})
    with pytest.raises(CallError, match="index"):
        sources.read(Listed(classes=("one",)))
    tensors = datasets.FakeData(4, (3, 8, 8), 2, transform=transforms.ToTensor())
    tensors.classes = ["a", "b"]
    with pytest.raises(CallError, match="transform"):
        sources.read(tensors)
    with pytest.raises(CallError, match=r"item: .* received Tensor"):
        sources.read(type("Bare", (Listed,), {"__getitem__": lambda self, index: torch.zeros(3)})())


@pytest.mark.parametrize("error", [OSError, ValueError, TypeError, KeyError])
def test_an_item_that_cannot_be_read_is_refused_alone(error: type[Exception]) -> None:
    class Broken(Listed):
        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            if index == 3:
                raise error("gone")
            return super().__getitem__(index)

    data = sources.read(Broken())
    assert [(refusal.key, refusal.code) for refusal in data.refused] == [("000003", "unreadable")]
    assert f"item 3 cannot be read: {error.__name__}: " in data.refused[0].reason
    assert len(data) == 11
    with pytest.raises(DataError, match=f"that cannot be read: item 0 cannot be read: {error.__name__}"):
        sources.read(type("Worse", (Broken,), {"__getitem__": lambda self, index: Broken()[3]})())
    data.store.places["x"] = (Broken(), 3)
    with pytest.raises(PictureError):
        data.store.read("x")
