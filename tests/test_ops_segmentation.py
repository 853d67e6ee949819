"""Label maps: against references, on shapes drawn over photographs, and what becomes of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import skimage
import torch
from scipy import ndimage
from skimage.draw import disk, polygon

from opsin import ops
from opsin.errors import CallError, MissingExtra
from opsin.ops import labels

RNG = np.random.default_rng(2)
NOISE = RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8)
SMOOTH = (ndimage.gaussian_filter(RNG.random((40, 50)), 3) * 1500 - 600).clip(0, 255).astype(np.uint8)
GRAYS = {"random": NOISE[..., 0], "smooth": SMOOTH, "constant": np.full((5, 7), 9, np.uint8), "1×1": NOISE[:1, :1, 0]}
each_gray = pytest.mark.parametrize("gray", GRAYS.values(), ids=GRAYS)


# References ----------------------------------------------------------------------------------------------------------


def between(gray: np.ndarray, thresholds: tuple[int, ...]) -> float:
    """Otsu's measure: the variance between the classes, weighted; classes are above the one and up to the next."""
    classes = np.digitize(gray, thresholds, right=True)
    parts = [gray[classes == k] for k in range(len(thresholds) + 1)]
    return sum(part.size * (part.mean() - gray.mean()) ** 2 for part in parts if part.size) / gray.size


@each_gray
@pytest.mark.parametrize("dark", [False, True])
def test_otsu_parts_best(gray: np.ndarray, dark: bool) -> None:
    found = ops.otsu(gray, dark=dark)
    best = max(between(gray, (threshold,)) for threshold in range(256))
    bright = gray[(found == 0) if dark else (found == 1)]
    rest = gray[(found == 1) if dark else (found == 0)]
    if best == 0:
        assert len(np.unique(found)) == 1
        return
    assert rest.max() < bright.min()
    assert between(gray, (int(rest.max()),)) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("gray", [GRAYS["random"], GRAYS["smooth"]])
def test_multi_otsu_parts_best(gray: np.ndarray) -> None:
    coarse = gray // 16 * 16  # sixteen levels, so that all pairs can be tried
    found = ops.multi_otsu(coarse, classes=3)
    best = max(between(coarse, pair) for pair in itertools.combinations(range(0, 256, 16), 2))
    edges = tuple(int(coarse[found == k].max()) for k in (0, 1))
    assert between(coarse, edges) == pytest.approx(best, rel=1e-6)
    assert np.array_equal(found, np.digitize(coarse, edges, right=True))


def test_multi_otsu_of_fewer_levels_than_classes_numbers_them() -> None:
    gray = np.array([[5, 90], [90, 5]], np.uint8)
    assert ops.multi_otsu(gray, classes=3).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("gray", [GRAYS["random"], GRAYS["smooth"]])
@pytest.mark.parametrize("dark", [False, True])
def test_adaptive_compares_with_the_neighbourhood(gray: np.ndarray, dark: bool) -> None:
    mean = ndimage.uniform_filter(gray.astype(float), 7, mode="mirror")
    difference = (mean - gray if dark else gray - mean) - 0.1 * 255
    found = ops.adaptive(gray, radius=3, offset=0.1, dark=dark)
    clear = np.abs(difference) > 1e-3
    assert np.array_equal(found[clear], (difference > 0)[clear])
    assert found.any()


@pytest.mark.parametrize("classes", [2, 5])
def test_k_means_is_at_rest(classes: int) -> None:
    picture = NOISE.astype(np.float32) / 255
    found = ops.kmeans(picture, classes=classes)
    centres = np.array([picture[found == k].mean(axis=0) for k in range(classes)])
    distances = ((picture[:, :, None] - centres) ** 2).sum(axis=-1)
    assert (distances.argmin(axis=-1) == found).mean() > 0.97  # it stops when hardly anything moves
    assert (np.diff(centres.mean(axis=1)) > 0).all()  # from dark to bright


@each_gray
def test_components_are_what_scipy_finds(gray: np.ndarray) -> None:
    found = ops.components(gray)
    known, count = ndimage.label(ops.otsu(gray), np.ones((3, 3)))
    assert found.max() == count
    pairs = {*zip(found.ravel().tolist(), known.ravel().tolist())}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_small_components_are_left_out_and_the_others_counted_without_gaps() -> None:
    mask = np.zeros((9, 20), bool)
    mask[1, 1], mask[3:6, 5:9], mask[2, 12], mask[5:9, 15:19] = True, True, True, True
    found = ops.connected(mask, smallest=2)
    assert np.unique(found).tolist() == [0, 1, 2]
    assert found[1, 1] == 0
    assert found[3, 5] == 1
    assert found[5, 15] == 2


@pytest.mark.parametrize("segments", [1, 20, 60])
def test_superpixels_cover_everything_once_and_hang_together(segments: int) -> None:
    photo = skimage.data.astronaut()[:120, :160]
    found = ops.slic(photo, segments=segments)
    assert found.min() == 1
    assert segments / 2 <= found.max() <= segments * 1.5
    for label in np.unique(found):
        assert ndimage.label(found == label)[1] == 1


# Shapes on photographs -----------------------------------------------------------------------------------------------


def photographs() -> dict[str, np.ndarray]:
    """256 × 256 of photographs, made quiet and dark enough that bright shapes are the brightest there is."""
    whole = {
        "astronaut": skimage.data.astronaut()[:, :, :],
        "coffee": skimage.data.coffee(),
        "cat": skimage.data.chelsea(),
    }
    return {name: ops.resize(photo, width=256, height=256) for name, photo in whole.items()}


PHOTOS = photographs()
each_photo = pytest.mark.parametrize("name", PHOTOS)


def shapes() -> np.ndarray:
    """int (256, 256): a disc, a triangle and a rectangle, 1, 2 and 3."""
    found = np.zeros((256, 256), int)
    found[disk((70, 80), 34)] = 1
    found[polygon([150, 230, 230], [60, 20, 110])] = 2
    found[120:200, 160:230] = 3
    return found


SHAPES = shapes()


def drawn(photo: np.ndarray, shade: float, colour: tuple[int, int, int]) -> np.ndarray:
    """The shapes in one colour, a little grainy, over the photograph times `shade`."""
    picture = photo * shade
    picture[SHAPES > 0] = np.array(colour)
    return (picture + RNG.normal(0, 6, photo.shape)).clip(0, 255).astype(np.uint8)


def overlap(found: np.ndarray, known: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return float((found & known).sum() / (found | known).sum())


BRIGHT = {"shade": 0.35, "colour": (235, 225, 205)}


@each_photo
def test_otsu_finds_bright_shapes_on_a_photograph(name: str) -> None:
    assert overlap(ops.otsu(drawn(PHOTOS[name], **BRIGHT)) == 1, SHAPES > 0) > 0.95


@each_photo
def test_otsu_finds_dark_shapes_on_a_bright_photograph(name: str) -> None:
    picture = 255 - drawn(PHOTOS[name], **BRIGHT)
    assert overlap(ops.otsu(picture, dark=True) == 1, SHAPES > 0) > 0.95


@each_photo
def test_multi_otsu_finds_bright_shapes_as_its_last_class(name: str) -> None:
    assert overlap(ops.multi_otsu(drawn(PHOTOS[name], **BRIGHT), classes=3) == 2, SHAPES > 0) > 0.9


@each_photo
def test_adaptive_finds_shapes_under_uneven_light(name: str) -> None:
    light = np.linspace(0.12, 1, 256)[None, :, None]
    picture = (drawn(ops.gaussian(PHOTOS[name], sigma=6.0), **BRIGHT) * light).astype(np.uint8)
    found = overlap(ops.adaptive(picture, radius=60, offset=0.06) == 1, SHAPES > 0)
    assert found > 0.9
    assert found > overlap(ops.otsu(picture) == 1, SHAPES > 0)


@each_photo
def test_k_means_finds_shapes_by_colour(name: str) -> None:
    picture = drawn(PHOTOS[name], 0.4, (20, 60, 250))
    found = ops.kmeans(picture, classes=5)
    label = np.bincount(found[SHAPES > 0]).argmax()
    assert overlap(found == label, SHAPES > 0) > 0.9


@each_photo
def test_superpixels_follow_shapes(name: str) -> None:
    picture = drawn(PHOTOS[name], **BRIGHT)
    found = ops.slic(picture, segments=400)
    mostly = [label for label in range(1, found.max() + 1) if (SHAPES[found == label] > 0).mean() > 0.5]
    assert overlap(np.isin(found, mostly), SHAPES > 0) > 0.95


@each_photo
def test_watershed_parts_what_touches(name: str) -> None:
    picture = (PHOTOS[name] * 0.35).astype(np.uint8)
    known = np.zeros((256, 256), int)
    known[disk((120, 90), 42)] = 1
    known[disk((120, 166), 42)] = 2  # they overlap by eight pixels
    picture[known > 0] = 230
    assert ops.components(picture, smallest=500).max() == 1
    found = ops.watershed(picture)
    assert len([label for label in np.unique(found) if label and (found == label).sum() > 500]) == 2
    for label in (1, 2):
        own = np.bincount(found[known == label]).argmax()
        assert overlap(found == own, known == label) > 0.93


@each_photo
def test_grabcut_finds_a_shape_in_its_box(name: str) -> None:
    picture = PHOTOS[name].copy()
    known = SHAPES == 1
    picture[known] = (RNG.normal(0, 12, (known.sum(), 3)) + np.array([40, 180, 60])).clip(0, 255)
    found = ops.grabcut(picture, left=36 / 256, top=26 / 256, right=124 / 256, bottom=114 / 256)
    assert overlap(found == 1, known) > 0.93


@each_photo
def test_components_find_each_shape(name: str) -> None:
    found = ops.components(drawn(PHOTOS[name], **BRIGHT), smallest=200)
    assert found.max() == 3
    for label in (1, 2, 3):
        own = np.bincount(found[label == SHAPES]).argmax()
        assert overlap(found == own, label == SHAPES) > 0.95


def test_without_scikit_image_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(MissingExtra, match=r"scikit-image is not installed.*opsin\[ops\]"):
        ops.slic(NOISE)


# What becomes of label maps ------------------------------------------------------------------------------------------


def test_measures_are_those_of_skimage() -> None:
    photo = PHOTOS["cat"]
    known = skimage.measure.regionprops(SHAPES, intensity_image=photo)
    found = ops.measures(SHAPES, photo)
    assert [each.label for each in found] == [1, 2, 3]
    for ours, theirs in zip(found, known):
        top, left, bottom, right = theirs.bbox
        assert ours.area == theirs.area
        assert ours.box == (left, top, right - left, bottom - top)
        assert ours.centre == pytest.approx((theirs.centroid[1] + 0.5, theirs.centroid[0] + 0.5))
        assert ours.mean == pytest.approx(tuple(theirs.intensity_mean))
        assert ours.perimeter == pytest.approx(theirs.perimeter, rel=0.06)
    assert found[2].perimeter == 2 * (79 + 69)


def test_measures_without_a_picture_have_no_colour() -> None:
    assert ops.measures(SHAPES)[0].mean == ()
    assert ops.measures(np.zeros((3, 3), int)) == []


def test_a_mask_is_a_map_of_one_label() -> None:
    photo, mask = NOISE[:8, :8], np.eye(8, dtype=bool)
    assert np.array_equal(ops.overlay(photo, mask), ops.overlay(photo, mask.astype(np.int32)))


def test_an_overlay_colours_labels_and_nothing_else() -> None:
    photo = PHOTOS["cat"]
    before = photo.copy()
    found = ops.overlay(photo, SHAPES, strength=0.5)
    assert (found.dtype, found.shape) == (np.uint8, photo.shape)
    assert np.array_equal(found[SHAPES == 0], photo[SHAPES == 0])
    table = labels.colours(SHAPES)
    assert len({tuple(table[label == SHAPES][0]) for label in range(4)}) == 4
    assert np.abs(found[SHAPES > 0] - (photo / 2 + table / 2)[SHAPES > 0]).max() <= 0.5
    assert np.array_equal(photo, before)


def test_a_cut_out_is_the_label_on_white() -> None:
    photo = PHOTOS["coffee"]
    found = ops.cut_out(photo, SHAPES, 3)
    assert np.array_equal(found, photo[120:200, 160:230])
    disc = ops.cut_out(photo, SHAPES, 1)
    assert (disc[0, 0] == 255).all()
    assert np.array_equal(disc[33, 33], photo[70, 80])
    with pytest.raises(CallError, match=r"expected one of \[0, 1, 2, 3\], received 7"):
        ops.cut_out(photo, SHAPES, 7)


@pytest.mark.parametrize(
    "mask", [SHAPES > 0, SHAPES == 0, np.zeros((3, 4), bool), np.ones((3, 4), bool), RNG.random((17, 9)) < 0.5]
)
def test_run_lengths_come_back_and_are_counted_as_coco_counts(mask: np.ndarray) -> None:
    found = ops.to_rle(mask)
    assert np.array_equal(ops.from_rle(found), mask)
    flat = mask.T.ravel().tolist()  # down the columns, zeros first
    runs = [(value, len([*group])) for value, group in itertools.groupby(flat)]
    assert found["counts"] == ([] if runs[0][0] is False else [0]) + [length for _, length in runs]
    assert found["size"] == [*mask.shape]


def test_what_is_no_map_of_the_picture_is_refused() -> None:
    with pytest.raises(CallError, match=r"expected integers \(H, W\)"):
        ops.measures(np.zeros((3, 3)))
    with pytest.raises(CallError, match="the map of another picture"):
        ops.overlay(NOISE, SHAPES)
    with pytest.raises(CallError, match="expected a sum of 6, received 5"):
        ops.from_rle({"size": [2, 3], "counts": [2, 3]})
    for counts in ("05c4", [-1, 7], [0.5, 5.5]):
        with pytest.raises(CallError, match="whole numbers"):
            ops.from_rle({"size": [2, 3], "counts": counts})


def test_maps_of_a_batch_are_one_tensor() -> None:
    batch = torch.from_numpy(np.stack([NOISE, NOISE[::-1]])).permute(0, 3, 1, 2)
    assert ops.otsu(batch).shape == (2, 24, 31)
    assert ops.otsu(batch).dtype == torch.int32
