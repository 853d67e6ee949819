"""Masks and annotations beside pictures: left out, counted and listed; and what only looks like one stays."""

from __future__ import annotations

from collections import Counter

import pytest

from made import folder, zipped
from opsin import sources
from opsin.vocabulary import Dataset

PICTURES = [f"{name}/{n}.jpg" for name in ("cat", "dog") for n in range(4)]


@pytest.fixture(params=["folder", "zip"])
def read(request, tmp_path):
    def reading(names: list[str]) -> Dataset:
        made = folder(tmp_path / "set", names) if request.param == "folder" else zipped(tmp_path / "set.zip", names)
        return sources.read(made)

    return reading


def left_out(data: Dataset) -> list[str]:
    return sorted(refusal.key for refusal in data.refused if refusal.code == "mask")


@pytest.mark.parametrize("named", ["{}_mask.png", "{}-mask.tif", "{}_mask_1.png", "{}_segmentation.png", "{}.mask.png"])
def test_masks_named_after_their_pictures(read, named: str) -> None:
    masks = [f"cat/{named.format(n)}" for n in range(3)]
    data = read([*PICTURES, *masks])
    assert left_out(data) == masks
    assert len(data) == 8
    assert data.notes[0].startswith(f"3 masks left out, such as '{masks[0]}'")


@pytest.mark.parametrize(
    "more",
    [
        ["cat/face_mask.png"],  # no face.jpg
        ["cat/1_mask.jpg", "dog/2_mask.jpeg"],  # photographs
        ["masks/1.png", "masks/2.png"],  # a class of masks, no images/ beside it
        ["images/9.jpg", "masks/8.png"],  # two classes that share no name
    ],
)
def test_what_only_looks_like_a_mask_stays(read, more: list[str]) -> None:
    data = read([*PICTURES, *more])
    assert left_out(data) == []
    assert len(data) == len(PICTURES) + len(more)


def test_a_folder_of_masks_beside_the_pictures(read) -> None:
    names = [*(f"images/{name}" for name in PICTURES), *(f"masks/{name}".replace("jpg", "png") for name in PICTURES)]
    data = read(names)
    assert data.classes == ("cat", "dog")
    assert [record.key for record in data.records] == PICTURES
    assert len(left_out(data)) == 8


def test_folders_of_masks_inside_classes(read) -> None:
    inside = [f"{name}/{kind}/{n}.png" for name in ("cat", "dog") for kind in ("images", "masks") for n in range(3)]
    data = read(inside)
    assert Counter(record.key.split("/")[0] for record in data.records) == {"cat": 3, "dog": 3}
    assert all("/masks/" in key for key in left_out(data))


def test_annotations_are_counted(read) -> None:
    data = read([*PICTURES, *(name.replace("jpg", "txt") for name in PICTURES), "readme.txt"])
    assert data.notes == ("8 side files left out (8 .txt): classes come from folders, or from a table given as DATA",)
    assert len(data.refused) == 9
