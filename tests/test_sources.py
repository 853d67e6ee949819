"""Sources: layouts, what is refused and why, groups, names and paths."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from made import POSIX, SPLIT, both, codes, folder, keys, picture, zipped
from opsin import sources
from opsin.errors import CallError, DataError
from opsin.sources import listing
from opsin.vocabulary import Refusal

# ── layouts ──


def test_class_names_of_more_digits_than_python_reads() -> None:
    long = "9" * 5000
    assert sources.layout.in_order({long, "10", "9"}) == ("10", "9", long)


def test_class_folders(tmp_path) -> None:
    for source in both(tmp_path, ["dog/2.jpg", "cat/a/b/1.jpg", "cat/1.jpg"]):
        data = sources.read(source)
        assert data.name == "set"
        assert data.classes == ("cat", "dog")
        assert [(r.key, r.target, r.split) for r in data.records] == [
            ("cat/1.jpg", 0, None), ("cat/a/b/1.jpg", 0, None), ("dog/2.jpg", 1, None)]  # fmt: skip
        assert (data.refused, data.notes) == ((), ())
        for record in data.records:
            content = data.store.read(record.key)
            assert content == picture(record.key)
            assert (record.size, record.crc) == (len(content), zlib.crc32(content))


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("Train", "val", "test"),
        ("Train", "VALIDATION", "Test"),
        ("Training", "Valid", "Testing"),
        ("train", "dev", "test"),
    ],
)
def test_split_folders_by_any_of_their_names(tmp_path, train: str, val: str, test: str) -> None:
    other = {"train": train, "val": val, "test": test}
    names = [name.replace(part, other[part], 1) for name in SPLIT for part in [name.partition("/")[0]]]
    for source in both(tmp_path, names):
        data = sources.read(source)
        assert data.classes == ("cat", "dog")
        assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 4)
        assert keys(data) == sorted(names)


class Place:
    """A path that is no Path, as py.path's or a cloud library's."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


def test_whatever_says_where_it_is_can_be_read(tmp_path) -> None:
    for source in both(tmp_path, SPLIT):
        assert sources.read(Place(source)).records == sources.read(source).records
    with pytest.raises(CallError, match="gone does not exist"):
        sources.read(Place(tmp_path / "gone"))


def test_a_folder_and_a_zip_of_it_are_one_data_set(tmp_path) -> None:
    one, other = (sources.read(source) for source in both(tmp_path, SPLIT))
    assert one.records == other.records
    assert one.fingerprint == other.fingerprint
    moved = sources.read(shutil.move(tmp_path / "set", tmp_path / "elsewhere"))
    assert moved.fingerprint == one.fingerprint
    wrapped = sources.read(zipped(tmp_path / "w.zip", ["a/b/" + name for name in SPLIT]))
    assert keys(wrapped) == keys(one)


def test_the_fingerprint_sees_bytes_names_classes_splits_and_groups(tmp_path) -> None:
    root = folder(tmp_path / "set", SPLIT)
    seen = {sources.read(root).fingerprint, sources.read(root, group="[^/]+$").fingerprint}
    (root / "val/cat/0.jpg").write_bytes(picture("other"))
    seen.add(sources.read(root).fingerprint)
    os.replace(root / "val/cat/0.jpg", root / "val/dog/9.jpg")
    seen.add(sources.read(root).fingerprint)
    os.replace(root / "val", root / "valid")
    seen.add(sources.read(root).fingerprint)
    assert len(seen) == 5


def test_the_fingerprints_form_is_kept(tmp_path) -> None:
    lines = ["cat/1.jpg\t20\t%d\tcat\t\t", "dog/2.jpg\t20\t%d\tdog\t\t"]
    text = "".join(line % zlib.crc32(picture(line.partition("\t")[0])) + "\n" for line in lines)
    data = sources.read(folder(tmp_path / "set", ["cat/1.jpg", "dog/2.jpg"]))
    assert data.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("prefix", ["dataset/", "a/b/"])
def test_wrapping_folders_are_descended_through_and_noted(tmp_path, prefix: str) -> None:
    for names in ([prefix + name for name in SPLIT], [prefix + "cat/1.jpg", prefix + "dog/1.jpg"]):
        for source in both(tmp_path, [*names, "README.md", "__MACOSX/._x.jpg"]):
            data = sources.read(source)
            assert keys(data) == sorted(name.removeprefix(prefix) for name in names)
            assert data.store.read(data.records[0].key) == picture(prefix + data.records[0].key)
            assert any(prefix in note for note in data.notes)
        shutil.rmtree(tmp_path / "set")


def test_one_class_is_an_error_not_a_wrapping_folder(tmp_path) -> None:
    for source in both(tmp_path, ["cats/1.jpg", "cats/2.jpg", "cats/more/3.jpg"]):
        with pytest.raises(DataError, match=r"needs two classes: received one, 'cats'.*train/"):
            sources.read(source)


def test_a_single_split_folder_is_a_split(tmp_path) -> None:
    for source in both(tmp_path, ["train/cat/1.jpg", "train/dog/1.jpg"]):
        assert len(sources.read(source).train) == 2


def test_a_test_set_alone_can_be_read(tmp_path) -> None:
    data = sources.read(folder(tmp_path, ["test/cat/1.jpg", "test/dog/1.jpg"]))
    assert len(data.test) == 2
    assert "no train folder" in data.notes[0]


def test_a_class_that_training_lacks_is_named(tmp_path) -> None:
    for source in both(tmp_path, [*SPLIT, "test/fox/1.jpg"]):
        with pytest.raises(DataError, match=r"test has a class that training has never seen.*received 'fox'"):
            sources.read(source)


def test_classes_are_aligned_by_name_not_by_place(tmp_path) -> None:
    names = ["train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "test/c/1.jpg", "val/b/1.jpg"]
    for source in both(tmp_path, names):
        data = sources.read(source)
        assert {r.key: data.classes[r.target] for r in data.records} == {n: n.split("/")[1] for n in names}
        assert "test has no picture of 'a', 'b'" in data.notes


def test_numbers_are_sorted_as_numbers(tmp_path) -> None:
    names = [f"{n}/x.jpg" for n in range(12)]
    assert sources.read(folder(tmp_path / "a", names)).classes == tuple(map(str, range(12)))
    assert sources.read(folder(tmp_path / "b", [*names, "b/x.jpg"])).classes[:3] == ("0", "1", "10")


def test_splits_beside_classes_are_refused(tmp_path) -> None:
    for source in both(tmp_path, [*SPLIT, "unlabelled/1.jpg"]):
        with pytest.raises(DataError, match=r"'unlabelled'.*rename"):
            sources.read(source)


def test_splits_below_classes_are_told(tmp_path) -> None:
    data = sources.read(folder(tmp_path, ["cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg"]))
    assert any("not read as splits" in note for note in data.notes)


def test_empty_folders_are_noted_and_dropped(tmp_path) -> None:
    for source in both(tmp_path, ["cat/1.jpg", "dog/1.jpg", "fox/", "docs/a.txt"]):
        data = sources.read(source)
        assert data.classes == ("cat", "dog")
        assert data.notes == ("folders that give no record, dropped: 'docs', 'fox'",)
    data = sources.read(folder(tmp_path / "s", [*SPLIT, "train/fox/", "extra/"]))
    assert data.notes == ("folders that give no record, dropped: 'extra', 'train/fox'",)


def test_no_pictures_says_what_would_be_understood(tmp_path) -> None:
    for source in both(tmp_path, ["readme.txt", "a/b.csv", "c.jpg"]):
        with pytest.raises(DataError, match=r"1 no-class.*cat/1\.jpg, dog/2\.jpg"):
            sources.read(source)
    with pytest.raises(DataError, match="nothing at all"):
        sources.read(zipped(tmp_path / "empty.zip", []))


# ── what is refused ──


def test_a_class_may_be_called_as_a_split_is_in_other_places(tmp_path) -> None:
    assert sources.read(folder(tmp_path / "a", ["swimming/1.jpg", "training/1.jpg"])).classes == (
        "swimming",
        "training",
    )
    wrapped = sources.read(folder(tmp_path / "b", ["dev/cat/1.jpg", "dev/dog/1.jpg"]))
    assert (wrapped.classes, {record.split for record in wrapped.records}) == (("cat", "dog"), {None})
    divided = sources.read(
        folder(tmp_path / "c", [f"{s}/{c}/1.jpg" for s in ("Training", "dev") for c in ("cat", "dog")])
    )
    assert {record.split for record in divided.records} == {"train", "val"}


def test_everything_unused_is_reported_with_its_reason(tmp_path) -> None:
    names = ["cat/1.jpg", "dog/1.jpg", "dog/noending", "LICENSE", "loose.jpg", "cat/.hidden.jpg", "cat/Thumbs.db",
             "cat/notes.txt", "cat/empty.jpg", ".git/x/y.jpg", "__MACOSX/cat/._1.jpg", "cat/desktop.ini"]  # fmt: skip
    root = folder(tmp_path / "set", names)
    (root / "cat/empty.jpg").write_bytes(b"")
    (root / "cat/photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    expected = {
        "cat/photo.heic": "unsupported-format",
        "LICENSE": "not-a-picture", "loose.jpg": "no-class", "cat/.hidden.jpg": "hidden", "cat/Thumbs.db": "hidden",
        "cat/notes.txt": "not-a-picture", "cat/empty.jpg": "empty", ".git": "hidden", "__MACOSX": "hidden",
        "cat/desktop.ini": "hidden"}  # fmt: skip
    for source in (root, shutil.make_archive(str(tmp_path / "set"), "zip", root)):
        data = sources.read(source)
        assert codes(data) == expected
        assert keys(data) == ["cat/1.jpg", "dog/1.jpg", "dog/noending"]  # its first bytes are a picture's
        assert all(refusal.reason for refusal in data.refused)
        assert list(data.refused) == sorted(data.refused, key=lambda r: r.key)


@POSIX
def test_links_are_followed_inside_the_root_only(tmp_path) -> None:
    outside = folder(tmp_path / "outside", ["secret.jpg", "dir/1.jpg"])
    root = folder(tmp_path / "set", ["cat/1.jpg", "dog/1.jpg", "dog/deep/2.jpg"])
    (root / "cat/in.jpg").symlink_to(root / "dog/1.jpg")
    (root / "cat/deep").symlink_to("../dog/deep")
    (root / "cat/out.jpg").symlink_to(outside / "secret.jpg")
    (root / "cat/dangling.jpg").symlink_to("nothing")
    (root / "cat/self.jpg").symlink_to("self.jpg")
    (root / "cat/outdir").symlink_to(outside / "dir")
    (root / "cat/loop").symlink_to("..")
    (root / "dog/deep/up").symlink_to("../../cat")
    data = sources.read(root)
    assert keys(data) == ["cat/1.jpg", "cat/deep/2.jpg", "cat/in.jpg", "dog/1.jpg", "dog/deep/2.jpg",
                          "dog/deep/up/1.jpg", "dog/deep/up/in.jpg"]  # fmt: skip
    links = {key for key, code in codes(data).items() if code == "link"}
    assert {"cat/out.jpg", "cat/dangling.jpg", "cat/self.jpg", "cat/outdir", "cat/loop", "cat/deep/up"} <= links


@POSIX
def test_linked_folders_cannot_multiply(tmp_path) -> None:
    root = folder(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    for level in range(25):  # followed without end, these are 2**25 folders
        folder(root, [f"cat/{level}/"])
        for name in "ab":
            (root / f"cat/{level}/{name}").symlink_to(f"../{level + 1}")
    assert len(sources.read(root)) == 2


@POSIX
def test_a_pipe_is_not_waited_for(tmp_path) -> None:
    root = folder(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    os.mkfifo(root / "cat/pipe.jpg")
    assert codes(sources.read(root)) == {"cat/pipe.jpg": "not-a-picture"}


@POSIX
def test_names_that_are_no_utf8_survive(tmp_path) -> None:
    root = folder(tmp_path / "set", ["cat/1.jpg", "dog/1.jpg"])
    name = os.fsencode(root / "cat") + b"/caf\xe9.jpg"
    try:
        with open(name, "wb") as file:
            file.write(picture("x"))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    data = sources.read(root)
    assert "cat/caf\udce9.jpg" in keys(data)
    assert data.store.read("cat/caf\udce9.jpg") == picture("x")
    assert len(data.fingerprint) == 64


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_reported(tmp_path) -> None:
    root = folder(tmp_path, ["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"])
    (root / "dog/2.jpg").chmod(0)
    assert codes(sources.read(root)) == {"dog/2.jpg": "unreadable"}


def test_a_folder_that_cannot_be_looked_into_is_reported(tmp_path, monkeypatch) -> None:
    root, scan = folder(tmp_path, ["cat/1.jpg", "dog/1.jpg", "dog/locked/2.jpg"]), os.scandir

    def locked(path: str) -> object:
        if path.endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(path)

    with monkeypatch.context() as patch:  # not for longer: the folder is removed with scandir
        patch.setattr(os, "scandir", locked)
        assert codes(sources.read(root)) == {"dog/locked/": "unreadable"}


def test_a_file_that_vanishes_while_listing_is_reported(tmp_path) -> None:
    gone = listing._examine(listing.File(str(tmp_path / "gone.jpg"), "cat/gone.jpg"))
    assert isinstance(gone, Refusal)
    assert gone.code == "unreadable"


# ── groups ──


def test_groups_by_a_pattern(tmp_path) -> None:
    root = folder(tmp_path, ["cat/p1_1.jpg", "cat/p2_1.jpg", "dog/p1_2.jpg"])
    data = sources.read(root, group=r"([^/_]+)_")
    assert [r.group for r in data.records] == ["p1", "p2", "p1"]
    assert "2 groups" in data.notes
    assert [r.group for r in sources.read(root, group=r"p\d").records] == ["p1", "p2", "p1"]


def test_a_record_without_a_group_is_an_error(tmp_path) -> None:
    root = folder(tmp_path, ["cat/p1_1.jpg", "cat/odd.jpg", "dog/p1_2.jpg"])
    for group in (r"([^/_]+)_", r"(p\d)|odd", r"/(p\d|)"):
        with pytest.raises(DataError, match=r"1 of 3 records.*'cat/odd\.jpg'"):
            sources.read(root, group=group)


def test_an_invalid_pattern_is_the_callers_fault(tmp_path) -> None:
    with pytest.raises(CallError, match=r"regular expression, received '\('"):
        sources.read(folder(tmp_path, ["cat/1.jpg", "dog/1.jpg"]), group="(")


# ── names and paths ──


def test_what_is_not_there(tmp_path) -> None:
    with pytest.raises(CallError, match="Did you mean 'digits'"):
        sources.read("digts")
    for source in (tmp_path / "none", str(tmp_path / "none"), "none.zip"):
        with pytest.raises(CallError, match="does not exist: expected a folder"):
            sources.read(source)
    (tmp_path / "a.rtf").write_text("words")
    with pytest.raises(DataError, match=r"received a \.rtf file"):
        sources.read(tmp_path / "a.rtf")


def test_a_path_goes_before_a_name(tmp_path, monkeypatch) -> None:
    folder(tmp_path / "digits", ["cat/1.jpg", "dog/1.jpg"])
    monkeypatch.chdir(tmp_path)
    data = sources.read("digits")
    assert data.classes == ("cat", "dog")
    assert "not as the named set" in data.notes[0]


def test_digits() -> None:
    from sklearn.datasets import load_digits

    data = sources.read("digits")
    assert (len(data), data.classes) == (1797, tuple("0123456789"))
    assert {r.split for r in data.records} == {None}
    values, labels = load_digits(return_X_y=True)
    for record in data.records[::100]:
        cls, number = record.key.split("/")
        image = data.store.read(record.key)
        assert (image.shape, image.dtype) == ((8, 8), np.uint8)
        assert labels[int(number)] == int(cls) == record.target
        np.testing.assert_allclose(image.ravel() / 255 * 16, values[int(number)], atol=0.04)
        assert (record.crc, record.size) == (zlib.crc32(image.tobytes()), 64)
    assert sources.read("digits").fingerprint == data.fingerprint


def test_sources_need_no_torch() -> None:
    code = "import sys, opsin.sources, opsin.splits; print(sorted({'torch', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
