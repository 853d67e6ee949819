"""`opsin process`: what is written, what is not done twice, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opsin import codecs, encoding, ops, processing
from opsin.app import cli
from opsin.errors import CallError, MachineError
from opsin.vocabulary import finished
from tiny import digests

RNG = np.random.default_rng(3)
SMALL = ops.pipeline("resize:side=16", "jpeg:quality=85")


def picture(folder: Path, name: str, side: int = 40, **options) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (side, side + 8, 3), dtype=np.uint8)).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.jpg", "sub/b.png", "sub/deep er/c.d.webp"):
        picture(folder, name)
    return folder


def process(source: Path, out: Path, pipeline=SMALL, **options) -> processing.Processed:
    return finished(processing.process(source, out, pipeline, **options))


def lines(out: Path) -> dict[str, dict]:
    return {line["key"]: line for line in processing.read_log(out)}


# What is written -----------------------------------------------------------------------------------------------------


def test_paths_are_kept_and_the_log_tells_what_was_done(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    done = process(photos, out)
    assert (done.written, done.kept, done.refused) == (3, 0, ())
    assert {*digests(out)} == {"a.jpg", "sub/b.jpg", "sub/deep er/c.d.jpg", "process.jsonl"}
    for key, line in lines(out).items():
        data = (out / line["output"]).read_bytes()
        assert data == SMALL(codecs.decode((photos / key).read_bytes()))
        assert codecs.decode(data).shape == (13, 16, 3)
        assert line["digest"] == digests(out)[line["output"]]
        assert line["input"] == digests(photos)[key]
        assert line["ops"] == "resize:side=16 jpeg"
        assert line["pipeline"] == SMALL.digest


@pytest.mark.parametrize(
    ("steps", "ending", "format"),
    [("jpeg", ".jpg", "JPEG"), ("png", ".png", "PNG"), ("webp", ".webp", "WEBP"), ("avif", ".avif", "AVIF"),
     ("invert", ".png", "PNG"), ("otsu", ".png", "PNG")],
)  # fmt: skip
def test_the_last_step_decides_what_the_file_is(photos: Path, tmp_path: Path, steps, ending: str, format: str) -> None:
    process(photos, tmp_path / "out", ops.pipeline(steps))
    file = tmp_path / "out" / f"a{ending}"
    assert codecs.sniff(file.read_bytes()) == format


def test_a_picture_without_compression_and_a_map_lose_nothing(photos: Path, tmp_path: Path) -> None:
    whole = codecs.decode((photos / "sub/b.png").read_bytes())
    process(photos, tmp_path / "inverted", ops.pipeline("invert"))
    assert np.array_equal(codecs.decode((tmp_path / "inverted/sub/b.png").read_bytes()), 255 - whole)
    process(photos, tmp_path / "many", ops.pipeline("resize:side=300", "slic:segments=900"))
    with Image.open(tmp_path / "many/sub/b.png") as image:
        found = np.asarray(image)
    assert found.max() > 255
    assert np.array_equal(found, ops.slic(ops.resize(whole, side=300), segments=900))


def test_a_picture_is_never_written_over_itself(photos: Path) -> None:
    before = (photos / "a.jpg").read_bytes()
    done = process(photos / "a.jpg", photos, force=True)
    assert [refusal.code for refusal in done.refused] == ["exists"]
    assert (photos / "a.jpg").read_bytes() == before


def test_a_file_and_a_zip_are_taken_as_well(photos: Path, tmp_path: Path) -> None:
    assert process(photos / "a.jpg", tmp_path / "one").written == 1
    archive = tmp_path / "p.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(photos.rglob("*.*")):
            packed.write(path, path.relative_to(photos).as_posix())
        packed.writestr("../outside.jpg", (photos / "a.jpg").read_bytes())
    done = process(archive, tmp_path / "unzipped")
    process(photos, tmp_path / "plain")
    assert done.written == 3
    assert [(refusal.key, refusal.code) for refusal in done.refused] == [("../outside.jpg", "unsafe-path")]
    assert not (tmp_path / "outside.jpg").exists()
    inner, outer = digests(tmp_path / "unzipped"), digests(tmp_path / "plain")
    assert {**inner, "process.jsonl": ""} == {**outer, "process.jsonl": ""}


def test_more_files_than_are_begun_at_a_time_are_told_of_in_their_order(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(processing, "AHEAD", 2)
    names = [f"{number:02d}.png" for number in range(11)]
    for name in names:
        picture(tmp_path / "many", name, side=300 if name == "00.png" else 20)  # the first takes longest
    work = processing.process(tmp_path / "many", tmp_path / "out", SMALL, threads=2)
    assert [processing.read_log(tmp_path / "out")[-1]["key"] for _ in work] == names


def test_the_command_loads_nothing_of_training(photos: Path, tmp_path: Path) -> None:
    call = ["process", str(photos), str(tmp_path / "out"), "--op", "resize:side=16", "--json"]
    code = f"import sys; from opsin.app import cli; code = cli.run({call!r}); assert not code, code\n"
    code += "assert not {'opsin.runs', 'opsin.training', 'torchvision', 'timm', 'sklearn'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_do_not_change_the_result(photos: Path, tmp_path: Path) -> None:
    process(photos, tmp_path / "one", threads=1)
    process(photos, tmp_path / "four", threads=4)
    assert digests(tmp_path / "one") == digests(tmp_path / "four")


@pytest.mark.parametrize("steps", ["jpeg", "invert"])
def test_metadata_is_kept_only_when_asked_and_the_picture_is_upright(tmp_path: Path, steps: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    picture(tmp_path / "in", "a.jpg", exif=exif)
    process(tmp_path / "in", tmp_path / "bare", ops.pipeline(steps))
    process(tmp_path / "in", tmp_path / "kept", ops.pipeline(steps), metadata=True)
    (bare,), (kept,) = ([*(tmp_path / name).glob("a.*")] for name in ("bare", "kept"))
    with Image.open(bare) as image:
        assert not image.getexif()
        assert image.size == (40, 48)
    with Image.open(kept) as image:
        assert {*image.getexif()} == {0x010F}
        assert image.size == (40, 48)


# What is not done twice ----------------------------------------------------------------------------------------------


def test_a_second_call_does_nothing_again(photos: Path, tmp_path: Path) -> None:
    process(photos, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.jpg")}
    logged = (tmp_path / "out" / "process.jsonl").read_bytes()
    done = process(photos, tmp_path / "out")
    assert (done.written, done.kept) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "out" / "process.jsonl").read_bytes() == logged


def test_only_what_changed_is_done_again(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process(photos, out)
    picture(photos, "new.png")
    (out / "sub/b.jpg").unlink()
    done = process(photos, out)
    assert (done.written, done.kept, done.refused) == (2, 2, ())
    assert (out / "sub/b.jpg").exists()


def test_what_is_there_and_differs_is_not_overwritten_without_force(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process(photos, out)
    before = digests(out)
    other = ops.pipeline("resize:side=20", "jpeg")
    done = process(photos, out, other)
    assert (done.written, {refusal.code for refusal in done.refused}) == (0, {"exists"})
    assert {**digests(out), "process.jsonl": ""} == {**before, "process.jsonl": ""}
    assert process(photos, out, other, force=True).written == 3
    assert codecs.decode((out / "a.jpg").read_bytes()).shape == (17, 20, 3)


def test_a_changed_input_and_a_changed_output_are_noticed(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process(photos, out)
    picture(photos, "a.jpg", side=50)
    (out / "sub/b.jpg").write_bytes(b"mine")
    done = process(photos, out)
    assert {refusal.key: refusal.code for refusal in done.refused} == {"a.jpg": "exists", "sub/b.png": "exists"}
    assert (out / "sub/b.jpg").read_bytes() == b"mine"
    assert process(photos, out, force=True).written == 2


def test_a_run_that_was_cut_anywhere_ends_as_if_it_had_not_been(photos: Path, tmp_path: Path) -> None:
    (photos / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    process(photos, tmp_path / "whole")
    out = tmp_path / "cut"
    work = processing.process(photos, out, SMALL, threads=1)
    next(work)
    work.close()
    log = out / "process.jsonl"
    log.write_text(log.read_text() + '{"key": "sub/b.png", "inp')  # torn
    assert process(photos, out).written >= 1
    assert digests(out) == digests(tmp_path / "whole")


SCRIPT = """
import sys
from pathlib import Path
from opsin import ops, processing
work = processing.process(Path(sys.argv[1]), Path(sys.argv[2]), ops.pipeline("resize:side=16", "jpeg"), threads=2)
print("ready", flush=True)
for event in work:
    print(event.values["done"], flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="killed by a signal of Unix")
def test_killed_in_the_middle_and_taken_up_again_the_result_is_the_same(tmp_path: Path) -> None:
    for number in range(120):
        picture(tmp_path / "in", f"{number % 7}/{number}.png", side=60)
    out = tmp_path / "out"
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "in"), str(out)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert run.stdout
    while run.stdout.readline() != "20\n":
        assert run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    there = [*out.rglob("*.jpg")]
    assert 0 < len(there) < 120
    done = process(tmp_path / "in", out, ops.pipeline("resize:side=16", "jpeg"))
    assert done.written + done.kept == 120
    assert done.kept > 0
    process(tmp_path / "in", tmp_path / "undisturbed", ops.pipeline("resize:side=16", "jpeg"))
    assert digests(out) == digests(tmp_path / "undisturbed")


# What is refused -----------------------------------------------------------------------------------------------------


def test_bad_files_are_listed_and_the_others_done(photos: Path, tmp_path: Path) -> None:
    (photos / "cut.jpg").write_bytes((photos / "a.jpg").read_bytes()[:300])
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("not a picture")
    done = process(photos, tmp_path / "out")
    assert done.written == 3
    assert {r.key: r.code for r in done.refused} == {
        "cut.jpg": "truncated",
        "empty.png": "empty",
        "notes.txt": "not-a-picture",
    }
    assert lines(tmp_path / "out")["cut.jpg"]["error"]["code"] == "truncated"


def test_a_step_that_cannot_be_done_on_a_picture_is_told_of_that_picture(photos: Path, tmp_path: Path) -> None:
    picture(photos, "large.png", side=100)
    done = process(photos, tmp_path / "out", ops.pipeline("centre_crop:width=80,height=80"))
    assert done.written == 1
    assert {refusal.code for refusal in done.refused} == {"not-possible"}
    assert "at least 80 × 80 (width × height), received 48 × 40" in done.refused[0].reason


def test_a_fault_of_our_own_is_told_of_its_picture(photos: Path, tmp_path: Path, monkeypatch) -> None:
    whole = ops.Pipeline.__call__

    def failing(self, image: np.ndarray, **options) -> bytes:
        if image.shape[0] == 50:
            raise ZeroDivisionError("division by zero")
        return whole(self, image, **options)

    picture(photos, "odd.png", side=50)
    monkeypatch.setattr(ops.Pipeline, "__call__", failing)
    done = process(photos, tmp_path / "out")
    assert done.written == 3
    assert [(r.key, r.code, r.reason) for r in done.refused] == [
        ("odd.png", "failed", "ZeroDivisionError: division by zero")
    ]


def test_two_files_that_would_become_one_are_refused_both(photos: Path, tmp_path: Path) -> None:
    picture(photos, "a.png")
    picture(photos, "sub/B.bmp")
    done = process(photos, tmp_path / "out")
    assert {r.key: r.code for r in done.refused} == dict.fromkeys(
        ("a.jpg", "a.png", "sub/b.png", "sub/B.bmp"), "same-output"
    )
    assert {*digests(tmp_path / "out")} == {"sub/deep er/c.d.jpg", "process.jsonl"}


def test_outputs_stay_in_their_folder_even_through_links(photos: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / "sub").symlink_to(elsewhere, target_is_directory=True)
    (out / "a.jpg").symlink_to(elsewhere / "mine.jpg")
    done = process(photos, out, force=True)
    assert {r.key: r.code for r in done.refused} == {"sub/b.png": "unsafe-path", "sub/deep er/c.d.webp": "unsafe-path"}
    assert not [*elsewhere.iterdir()]
    assert not (out / "a.jpg").is_symlink()


def test_a_link_is_not_written_through_without_force(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.jpg").symlink_to(tmp_path / "nowhere.jpg")
    assert [refusal.code for refusal in process(photos, out).refused] == ["exists"]
    assert not (tmp_path / "nowhere.jpg").exists()


def test_a_folder_in_the_place_of_a_file_and_a_file_in_that_of_a_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "a.jpg").mkdir(parents=True)
    (out / "sub").write_text("a file")
    done = process(photos, out, force=True)
    assert done.written == 0
    assert {refusal.code for refusal in done.refused} <= {"exists", "unwritable", "unsafe-path"}
    assert len(done.refused) == 3


@pytest.mark.parametrize("place", ["photos", "photos/out", "."])
def test_in_and_out_may_not_lie_in_each_other(photos: Path, tmp_path: Path, place: str) -> None:
    with pytest.raises(CallError, match="two folders side by side"):
        process(photos, tmp_path / place)


def test_a_file_in_the_place_of_the_folder_is_told(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(CallError, match="is a file: expected a folder"):
        process(photos, tmp_path / "out")
    with pytest.raises(CallError, match="does not exist"):
        process(tmp_path / "none", tmp_path / "other")


def test_a_full_disk_ends_the_work(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    process(photos, tmp_path / "out")
    picture(photos, "z.png")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MachineError, match="Free some space"):
        process(photos, tmp_path / "out")
    assert not [*(tmp_path / "out").rglob("*.part")]


def test_no_part_of_a_file_stays_behind(photos: Path, tmp_path: Path) -> None:
    process(photos, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]


def test_torch_and_opencv_get_their_threads_back(photos: Path, tmp_path: Path) -> None:
    import cv2
    import torch

    before = torch.get_num_threads(), cv2.getNumThreads()
    with processing.one_thread_each():
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (1, 1)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


# The command ---------------------------------------------------------------------------------------------------------


def test_the_command_does_it(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, saved = tmp_path / "out", tmp_path / "p.toml"
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    call = ["process", str(photos), str(out), "--op", "clahe:clip=3", "--op", "resize:side=16", "--op", "jpeg"]
    assert cli.run([*call, "--save-pipeline", str(saved)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("bad.png   error truncated: ")
    assert printed[-1] == f"3 written, 0 already there, 1 refused · {out / 'process.jsonl'}"
    assert cli.run(["process", str(photos), str(out), "--pipeline", str(saved), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["written"], told["kept"]) == (0, 3)
    assert told["refused"][0]["code"] == "truncated"


def test_steps_of_a_file_come_first(photos: Path, tmp_path: Path) -> None:
    saved = tmp_path / "p.toml"
    saved.write_text(ops.pipeline("gray").to_toml(), encoding="utf-8")
    assert cli.run(["process", str(photos), str(tmp_path / "o"), "--pipeline", str(saved), "--op", "jpeg"]) == 0
    assert lines(tmp_path / "o")["a.jpg"]["ops"] == "gray jpeg"


def test_metadata_and_force_reach_the_work(photos: Path, tmp_path: Path) -> None:
    call = ["process", str(photos), str(tmp_path / "o"), "--op", "jpeg"]
    assert cli.run(call) == 0
    assert cli.run([*call[:-1], "jpeg:quality=20"]) == 3  # nothing could be done
    assert cli.run([*call[:-1], "jpeg:quality=20", "--force", "--keep-metadata"]) == 0
    assert lines(tmp_path / "o")["a.jpg"]["pipeline"].endswith("+metadata")


def test_nothing_done_is_a_fault_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"no picture")
    assert cli.run(["process", str(tmp_path / "in"), str(tmp_path / "out"), "--op", "gray"]) == 3
    assert "a.jpg   error not-a-picture" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert cli.run(["process", str(tmp_path / "empty"), str(tmp_path / "out"), "--op", "gray"]) == 3
    assert "there is no picture" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "without a step"),
        (["--op", "clahee"], "Did you mean 'clahe'"),
        (["--op", "clahe:clip=0"], "clahe: setting clip: expected greater than or equal to 1, received 0.0"),
        (["--pipeline", "none.toml"], "cannot be read"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_written(photos, tmp_path, capsys, words, told: str) -> None:
    assert cli.run(["process", str(photos), str(tmp_path / "out"), *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_operations_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["list", "ops"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(ops.OPS)
    assert cli.run(["list", "ops", "rotate"]) == 0
    told = capsys.readouterr().out
    assert "rotate   geometry, image to image" in told
    assert "angle=90.0   ≥ -360, ≤ 360" in told
    assert "mode=bilinear   nearest, bilinear" in told
    assert cli.run(["list", "ops", "rotate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ops.OPS["rotate"].to_dict()
    assert cli.run(["list", "ops", "morph", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {}


def test_every_ending_is_an_encoder_that_there_is() -> None:
    assert {*processing.ENDINGS} == {name for name, op in ops.OPS.items() if op.kind == "bytes"}
    assert all(callable(getattr(encoding, name)) for name in processing.ENDINGS)
