"""Pictures made to harm, decoded in a child: every one becomes a picture or a code, in time and within memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hostile
import hostile_formats
from conftest import shared
from opsin import codecs, isolation, sources
from opsin.cache import build
from opsin.errors import MachineError, PictureError
from opsin.preprocessing import Preprocessing
from opsin.vocabulary import finished

SECONDS = 5.0
CODES = {*codecs.CODES}  # what is refused on purpose: a crash is not, and a timeout not unless it was asked for


@pytest.fixture(scope="module")
def decoder() -> Iterator[isolation.Decoder]:
    with isolation.Decoder() as made:
        yield made


def answer(decoder: isolation.Decoder, data: bytes) -> np.ndarray | str:
    """The picture, or the code of its refusal; never later than SECONDS."""
    start = time.monotonic()
    try:
        found: np.ndarray | str = decoder.decode(data)
    except PictureError as error:
        found = error.code
    assert time.monotonic() - start < SECONDS
    if isinstance(found, np.ndarray):
        assert (found.ndim, found.dtype, found.shape[2]) == (3, np.uint8, 3)
    return found


def most_memory(decoder: isolation.Decoder) -> int:
    """The most bytes that the child has held at a time."""
    assert decoder._child is not None
    status = Path(f"/proc/{decoder._child.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


# ── the child ──


def test_the_child_answers_as_codecs_does(decoder) -> None:
    for name, data in hostile.good().items():
        np.testing.assert_array_equal(decoder.decode(data), codecs.decode(data), err_msg=name)
        for bad in (data[: len(data) // 2], data[:40]):
            with pytest.raises(PictureError) as there:
                decoder.decode(bad)
            with pytest.raises(PictureError) as here:
                codecs.decode(bad)
            assert (there.value.code, str(there.value)) == (here.value.code, str(here.value))
    array = np.full((2, 3), 7, np.uint8)
    assert decoder.decode(array).shape == (2, 3, 3)
    assert decoder.started == 1


def test_a_child_that_is_killed_is_started_again() -> None:
    data = hostile.good()["png"]
    with isolation.Decoder() as decoder:
        decoder.decode(data)
        assert decoder._child is not None
        os.kill(decoder._child.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        decoder._child.wait()
        assert decoder.decode(data).shape == (32, 40, 3)
        assert decoder.started == 2


@pytest.mark.skipif(os.name != "posix", reason="stops a process")
def test_a_child_that_hangs_costs_one_picture() -> None:
    data = hostile.good()["png"]
    with isolation.Decoder(seconds=0.3) as decoder:
        decoder.decode(data)
        assert decoder._child is not None
        os.kill(decoder._child.pid, signal.SIGSTOP)
        with pytest.raises(PictureError) as caught:
            decoder.decode(data)
        assert caught.value.code == "timeout"
        assert decoder.decode(data).shape == (32, 40, 3)


@pytest.mark.skipif(os.name != "posix", reason="signals a process")
def test_a_child_that_dies_while_it_decodes_is_a_crash() -> None:
    data = hostile.good()["png"]
    with isolation.Decoder() as decoder:
        decoder.decode(data)
        child = decoder._child
        assert child is not None
        os.kill(child.pid, signal.SIGSTOP)
        os.kill(child.pid, signal.SIGSEGV)  # comes when it goes on
        os.kill(child.pid, signal.SIGCONT)
        poll, child.poll = child.poll, lambda: None  # it has not been noticed yet
        try:
            with pytest.raises(PictureError) as caught:
                decoder.decode(data)
        finally:
            child.poll = poll
        assert caught.value.code == "crash"
        assert decoder.decode(data).shape == (32, 40, 3)


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited on Linux")
def test_a_picture_that_needs_more_memory_than_there_is_is_refused_and_the_next_is_not() -> None:
    big = hostile.png(8000, 8000, rows=hostile.zeros(200))
    with isolation.Decoder(memory=256 << 20) as decoder:
        assert answer(decoder, big) == "out-of-memory"
        assert decoder.decode(hostile.good()["png"]).shape == (32, 40, 3)
        assert decoder.started == 1


@pytest.mark.skipif(not Path("/bin/false").exists(), reason="needs /bin/false")
def test_a_child_that_cannot_start_is_the_machines_fault(monkeypatch) -> None:
    for program, says in (("/bin/false", "ended at once"), ("/nowhere/python", "could be started")):
        monkeypatch.setattr(sys, "executable", program)
        with isolation.Decoder() as decoder, pytest.raises(MachineError, match=says):
            decoder.decode(hostile.good()["png"])


@pytest.mark.skipif(os.name != "posix", reason="there, Python of a venv is started by another one")
def test_a_child_finds_what_the_environment_says_where_to_find(tmp_path) -> None:
    """As modules of a cluster do, with a Python that has no numpy of its own."""
    (tmp_path / "a.png").write_bytes(hostile.good()["png"])
    code = (
        "import sys; from opsin.isolation import Decoder; print(Decoder().decode(open(sys.argv[1], 'rb').read()).shape)"
    )
    found = subprocess.run(
        [sys._base_executable, "-c", code, str(tmp_path / "a.png")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
    )
    assert found.stdout == "(32, 40, 3)\n", found.stderr


TAKEN_OVER = {  # what it says, and how long it says that is, where that is not true
    "without an end": ("b' ' * 2**20", 2**32 - 1),
    "nothing": ("b'{}'", 2),
    "no JSON": ("b'no'", 2),
    "far too deep": ("b'[' * 60000", 60000),
    "another code": ("""b'{"code":"x","text":""}'""", 22),
    "no code": ("""b'{"code":[],"text":""}'""", 21),
}


@pytest.mark.parametrize("answers", TAKEN_OVER)
def test_a_child_that_was_taken_over_is_not_believed(monkeypatch, answers: str) -> None:
    what, length = TAKEN_OVER[answers]
    said = f"b'!E' + ({length}).to_bytes(4, 'little') + bytes(4) + {what}"
    code = f"import sys, time; sys.stdout.buffer.write({said}); sys.stdout.flush(); time.sleep(9)"
    monkeypatch.setattr(isolation, "_START", code.replace("{", "{{").replace("}", "}}"))
    with isolation.Decoder() as decoder:
        assert answer(decoder, hostile.good()["png"]) == "crash"


@pytest.mark.parametrize("name", ["jpeg", "png"])
def test_luma_comes_from_the_child_as_from_codecs(decoder, name: str) -> None:
    data = hostile.good()[name]
    np.testing.assert_array_equal(decoder.decode(data, luma=True), codecs.decode(data, luma=True))


def test_a_closed_decoder_leaves_no_process() -> None:
    decoder = isolation.Decoder()
    decoder.decode(hostile.good()["png"])
    child = decoder._child
    decoder.close()
    assert child is not None
    assert child.poll() is not None
    decoder.close()


# ── what is thrown at it ──


def test_endless_scans_end(decoder) -> None:
    data = hostile.scan_again(6000, 4000)
    assert len(data) < 400_000
    with isolation.Decoder(seconds=1.0) as impatient:
        start = time.monotonic()
        assert answer(impatient, data) == "timeout"
        assert time.monotonic() - start < 2


def test_the_generated_ones() -> None:
    answers = Counter[str]()
    with isolation.Decoder() as decoder:
        for name, data in hostile.everything():
            found = answer(decoder, data)
            assert isinstance(found, np.ndarray) or found in CODES, name
            answers[found if isinstance(found, str) else "picture"] += 1
        assert decoder.started == 1  # no crash, no hang
        if sys.platform == "linux":
            assert most_memory(decoder) < 512 << 20
    assert answers.total() >= 600
    assert answers["picture"] > 50  # polyglots that are whole pictures, flipped pixels
    assert len(answers) > 5


def test_the_oddities_of_each_format() -> None:
    answers = Counter[str]()
    with isolation.Decoder() as decoder:
        for name, data in hostile_formats.everything():
            found = answer(decoder, data)
            assert isinstance(found, np.ndarray) or found in CODES, name
            if " with a profile " in name:  # what is wrong with a profile makes no picture unreadable
                assert isinstance(found, np.ndarray) or (name.endswith("large") and found == "corrupt"), name
            answers[found if isinstance(found, str) else "picture"] += 1
        assert decoder.started == 1
        if sys.platform == "linux":
            assert most_memory(decoder) < 512 << 20
    assert answers.total() >= 450


def test_what_is_cut_is_refused(decoder) -> None:
    for name, data in hostile.good().items():
        for what, cut in (made for made in hostile.cuts(name, data) if " cut at " in made[0]):
            # What is missing of a file's end may be metadata, or padding: then the picture is whole.
            if isinstance(found := answer(decoder, cut), np.ndarray):
                np.testing.assert_array_equal(found, codecs.decode(data), err_msg=what)


@pytest.mark.xfail(strict=True, reason="codecs looks at the checksums of whole IDAT chunks only")
def test_what_is_filled_up_is_refused(decoder) -> None:
    for name, data in hostile.good().items():
        for what, filled in (made for made in hostile.cuts(name, data) if " filled up " in made[0]):
            if isinstance(found := answer(decoder, filled), np.ndarray):
                np.testing.assert_array_equal(found, codecs.decode(data), err_msg=what)


def contents(prefix: str = "") -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(shared("hostile-images.zip")) as archive:
        for info in archive.infolist():
            if info.filename.startswith(prefix) and not info.is_dir():
                yield info.filename, archive.read(info)


def test_the_shared_set(decoder) -> None:
    answers = Counter[str]()
    for name, data in contents():
        found = answer(decoder, data)
        assert isinstance(found, np.ndarray) or found in CODES, name
        answers[found if isinstance(found, str) else "picture"] += 1
    assert answers.total() == 802
    assert answers["picture"] > 400
    assert decoder.started == 1
    if sys.platform == "linux":
        assert most_memory(decoder) < 512 << 20


def test_pngsuite(decoder) -> None:
    """Of libpng's own suite the pictures that are wrong on purpose, x*.png, are refused and all others are not."""
    found = {Path(name).name: answer(decoder, data) for name, data in contents("png/tests/pngsuite/") if ".png" in name}
    refused = {name for name, got in found.items() if isinstance(got, str)}
    assert refused == {name for name in found if name.startswith("x")}
    assert len(refused) == 14
    assert len(found) > 150


def test_the_eight_orientations(decoder) -> None:
    found = {name: answer(decoder, data) for name, data in contents("exif-orientation/")}
    for kind in ("Landscape", "Portrait"):
        views = [found[name][::8, ::8].astype(int) for name in sorted(found) if kind in name and name.endswith(".jpg")]  # type: ignore[union-attr]
        for view in views[1:]:
            assert view.shape == views[0].shape
            assert np.abs(view - views[0]).mean() < 6  # each was compressed anew
            for turned in (view[::-1], view[:, ::-1], view[::-1, ::-1]):
                assert np.abs(turned - views[0]).mean() > 20


# ── a data set with bad pictures in it ──

BAD = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "not-a-picture": lambda data: b"<html>not found</html>",
    "corrupt": lambda data: data[:20] + bytes(30) + data[50:],
    "too-many-pixels": lambda data: hostile.png(60_000, 60_000, rows=hostile.zeros(1)),
    "unsupported-format": lambda data: b"%PDF-1.7\n" + data,
    "too-large-side": lambda data: hostile.png(70_000, 1, rows=hostile.zeros(1)),
}


def test_140_bad_pictures_of_2000_are_listed_and_none_is_replaced(tmp_path) -> None:
    image = hostile.base()
    planted: dict[str, str] = {}
    for number in range(2000):
        path = tmp_path / "ab"[number % 2] / f"{number:04d}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.asarray(image).copy()
        pixels[0, 0] = (number % 256, number // 256, 0)
        data = hostile.saved(Image.fromarray(pixels), "PNG", compress_level=1)
        if number % 100 < 7:
            code = [*BAD][number % 100]
            data, planted[f"{path.parent.name}/{path.name}"] = BAD[code](data), code
        path.write_bytes(data)
    data, pixels_of = finished(build(sources.read(tmp_path), [Preprocessing(8)]))
    assert len(planted) == 140
    assert {refusal.key: refusal.code for refusal in data.refused} == planted
    assert len(data) + len(data.refused) == 2000
    assert len(pixels_of[0]) == 1860
    assert not planted.keys() & {record.key for record in data.records}


@pytest.mark.skipif(os.name != "posix", reason="makes a link")
def test_a_folder_of_two_pictures_and_a_loop_counts_two(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(hostile.good()["png"])
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    data = sources.read(tmp_path)
    assert len(data) == 2
    assert [refusal.code for refusal in data.refused] == ["link"]
