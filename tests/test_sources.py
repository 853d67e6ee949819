"""Sources: layouts, what is refused and why, zips made to harm, CIFAR-10's pickles, downloads."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import io
import os
import pickle
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from opsin import sources
from opsin.errors import CallError, DataError, MachineError, PictureError
from opsin.sources import cifar, downloads, listing, named, stores
from opsin.vocabulary import Dataset, Refusal

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"
SPLIT = [
    f"{s}/{c}/{i}.jpg" for s, n in (("train", 4), ("val", 2), ("test", 2)) for c in ("cat", "dog") for i in range(n)
]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs a POSIX file system")


def picture(name: str) -> bytes:
    """Made bytes that start like a JPEG, each name's its own; words where the name says so."""
    if name.endswith((".txt", ".md", ".csv", "LICENSE")):
        return b"words"
    return JPEG + name.encode("utf-8", "surrogateescape")


def folder(root: Path, names: list[str]) -> Path:
    """A folder of made pictures; names that end in "/" are folders."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(picture(name))
    return root


def zipped(path: Path, names: list[str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in names:
            archive.writestr(name, b"" if name.endswith("/") else picture(name))
    return path


def both(tmp_path: Path, names: list[str]) -> list[Path]:
    """The same names as a folder and as a zip."""
    return [folder(tmp_path / "set", names), zipped(tmp_path / "set.zip", names)]


def codes(data: Dataset) -> dict[str, str]:
    return {refusal.key: refusal.code for refusal in data.refused}


def keys(data: Dataset) -> list[str]:
    return [record.key for record in data.records]


# ── layouts ──


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


@pytest.mark.parametrize("val", ["val", "Valid", "VALIDATION"])
def test_split_folders_by_any_of_their_names(tmp_path, val: str) -> None:
    names = [name.replace("val/", val + "/").replace("train/", "Train/") for name in SPLIT]
    for source in both(tmp_path, names):
        data = sources.read(source)
        assert (len(data.train), len(data.val), len(data.test)) == (8, 4, 4)
        assert data.records[0].key.startswith("Train/cat/")
        assert keys(data) == sorted(names)


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


def test_everything_unused_is_reported_with_its_reason(tmp_path) -> None:
    names = ["cat/1.jpg", "dog/1.jpg", "dog/noending", "LICENSE", "loose.jpg", "cat/.hidden.jpg", "cat/Thumbs.db",
             "cat/notes.txt", "cat/empty.jpg", ".git/x/y.jpg", "__MACOSX/cat/._1.jpg", "cat/desktop.ini"]  # fmt: skip
    root = folder(tmp_path / "set", names)
    (root / "cat/empty.jpg").write_bytes(b"")
    expected = {
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

    monkeypatch.setattr(os, "scandir", locked)
    assert codes(sources.read(root)) == {"dog/locked/": "unreadable"}


def test_a_file_that_vanishes_while_listing_is_reported(tmp_path) -> None:
    gone = listing._examine(listing._File(str(tmp_path / "gone.jpg"), "cat/gone.jpg"))
    assert isinstance(gone, Refusal)
    assert gone.code == "unreadable"


# ── zips ──


def entry(name: str, system: int = 3, **attributes: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = system
    for word, value in attributes.items():
        setattr(info, word, value)
    return info


def raw_zip(path: Path, entries: list[tuple[zipfile.ZipInfo, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content)
    return path


GOOD = [(entry("cat/1.jpg"), picture("1")), (entry("dog/1.jpg"), picture("2"))]


def test_paths_that_leave_the_zip_are_refused(tmp_path) -> None:
    bad = ["../evil.jpg", "cat/../../evil.jpg", "/etc/evil.jpg", "..\\..\\evil.jpg", "C:\\evil.jpg", "C:/evil.jpg"]
    source = raw_zip(tmp_path / "slip.zip", GOOD + [(entry(name), picture("x")) for name in bad])
    data = sources.read(source)
    assert set(codes(data).values()) == {"unsafe-path"}
    assert len(data.refused) == len(bad)
    assert len(data) == 2


@pytest.mark.skipif(not (SHARED / "hostile-archives.zip").exists(), reason="shared data is not there")
@pytest.mark.parametrize("name", ["zip-slip.zip", "zip-slip-win.zip"])
def test_known_zip_slips(tmp_path, name: str) -> None:
    with zipfile.ZipFile(SHARED / "hostile-archives.zip") as archive:
        (tmp_path / name).write_bytes(archive.read("archives/" + name))
    store = sources.ZipStore(tmp_path / name)
    found = listing.list_zip(store)
    store.close()
    assert sorted(refusal.code for refusal in found.refused) == ["not-a-picture", "unsafe-path"]
    assert found.entries == []


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_entries_with_one_name_the_last_counts(tmp_path) -> None:
    source = raw_zip(tmp_path / "twice.zip", [*GOOD, (entry("cat/1.jpg"), picture("later"))])
    data = sources.read(source)
    assert codes(data) == {"cat/1.jpg": "duplicate-name"}
    assert data.store.read("cat/1.jpg") == picture("later")
    assert data.records[0].crc == zlib.crc32(picture("later"))


def patched(path: Path, central: dict[int, bytes], name: bytes = b"cat/2.jpg") -> Path:
    """The zip with bytes of one entry's central header changed, at offsets from the header's start."""
    data = bytearray(path.read_bytes())
    start = data.rindex(name) - 46
    assert data[start : start + 4] == b"PK\x01\x02"
    for offset, value in central.items():
        data[start + offset : start + offset + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({8: b"\x01\x00"}, "encrypted"),
        ({10: b"\x0c\x00"}, "compression"),
        ({24: (300 << 20).to_bytes(4, "little")}, "too-many-bytes"),
        ({38: ((stat.S_IFLNK | 0o777) << 16).to_bytes(4, "little")}, "link"),
    ],
)
def test_entries_that_are_refused_by_their_header(tmp_path, change: dict[int, bytes], code: str) -> None:
    source = raw_zip(tmp_path / "odd.zip", [*GOOD, (entry("cat/2.jpg"), picture("x"))])
    data = sources.read(patched(source, change))
    assert codes(data) == {"cat/2.jpg": code}
    assert len(data) == 2


def test_a_bomb_is_never_unpacked_beyond_the_limit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stores, "LARGEST", 1000)
    monkeypatch.setattr(listing, "LARGEST", 10**9)  # as if the header had lied
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.jpg", JPEG + bytes(5_000_000))
        archive.writestr("dog/1.jpg", JPEG)
    data = sources.read(path)
    tracemalloc.start()
    with pytest.raises(PictureError, match="too large") as caught:
        data.store.read("cat/1.jpg")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000  # of 5,000,000 packed into 5,000
    assert caught.value.code == "too-many-bytes"
    large = folder(tmp_path / "set", ["cat/1.jpg"])
    (large / "cat/1.jpg").write_bytes(bytes(1001))
    with pytest.raises(PictureError, match="too large"):
        sources.FolderStore(large).read("cat/1.jpg")


def test_a_changed_byte_is_corrupt_when_read(tmp_path) -> None:
    path = zipped(tmp_path / "set.zip", ["cat/1.jpg", "dog/1.jpg"], zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"JFIF")] ^= 1
    path.write_bytes(data)
    read = sources.read(path)
    with pytest.raises(PictureError) as caught:
        read.store.read("cat/1.jpg")
    assert caught.value.code == "corrupt"
    assert read.store.read("dog/1.jpg") == picture("dog/1.jpg")


def test_a_size_that_lies_is_corrupt(tmp_path) -> None:
    source = raw_zip(tmp_path / "lies.zip", [*GOOD, (entry("cat/2.jpg"), picture("x") * 9)])
    data = sources.read(patched(source, {24: (5).to_bytes(4, "little")}))
    with pytest.raises(PictureError, match="damaged"):
        data.store.read("cat/2.jpg")


@pytest.mark.parametrize("keep", [0, 10, 0.5, -1])
def test_a_broken_zip_is_a_data_error(tmp_path, keep: float) -> None:
    whole = zipped(tmp_path / "set.zip", SPLIT).read_bytes()
    cut = int(len(whole) * keep) if isinstance(keep, float) else keep
    (tmp_path / "cut.zip").write_bytes(whole[:cut])
    with pytest.raises(DataError, match="not a whole zip") as caught:
        sources.read(tmp_path / "cut.zip")
    assert caught.value.exit_code == 3
    assert "download it again" in str(caught.value)


def test_no_flipped_byte_of_a_zip_escapes_as_another_error(tmp_path) -> None:
    whole = zipped(tmp_path / "set.zip", ["cat/1.jpg", "dog/1.jpg", "dog/2"]).read_bytes()
    path = tmp_path / "flipped.zip"
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        try:
            data = sources.read(path)
            for key in keys(data):
                assert data.store.read(key)
        except DataError:
            pass


def test_names_are_utf8_with_or_without_the_flag(tmp_path) -> None:
    path = raw_zip(tmp_path / "mac.zip", [*GOOD, (entry("cat/XX.jpg"), picture("x"))])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"cat/XX", "cat/é".encode()))
    read = sources.read(path)
    assert "cat/é.jpg" in keys(read)
    assert read.store.read("cat/é.jpg") == picture("x")
    path.write_bytes(data.replace(b"cat/XX", b"cat/\xe9x"))
    assert "cat/\udce9x.jpg" in keys(sources.read(path))


def test_a_decomposed_and_a_composed_name_are_one_class(tmp_path) -> None:
    names = ["train/caf\u00e9/1.jpg", "train/tea/1.jpg", "test/cafe\u0301/1.jpg"]
    data = sources.read(zipped(tmp_path / "set.zip", names))
    assert data.classes == ("caf\u00e9", "tea")
    assert data.store.read("test/cafe\u0301/1.jpg") == picture(names[2])


def test_old_windows_zips_and_dotted_paths(tmp_path) -> None:
    source = raw_zip(
        tmp_path / "win.zip", [(entry("cat\\1.jpg", system=0), picture("1")), (entry("./dog/1.jpg"), picture("2"))]
    )
    data = sources.read(source)
    assert keys(data) == ["cat/1.jpg", "dog/1.jpg"]
    assert [data.store.read(key) for key in keys(data)] == [picture("1"), picture("2")]


# ── stores ──


def test_a_zip_is_read_from_many_threads(tmp_path) -> None:
    names = [f"{c}/{i}.jpg" for c in ("cat", "dog") for i in range(200)]
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, picture(name) * 500)
    data = sources.read(path)
    with ThreadPoolExecutor(8) as pool:
        for name, content in zip(names * 3, pool.map(data.store.read, names * 3), strict=True):
            assert content == picture(name) * 500


def test_what_vanished_is_unreadable(tmp_path) -> None:
    root, archive = both(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    data = sources.read(root)
    (root / "cat/1.jpg").unlink()
    for store in (data.store, sources.read(archive).store, sources.ArrayStore({})):
        with pytest.raises(PictureError) as caught:
            store.read("cat/1.jpg" if store is data.store else "cat/none.jpg")
        assert caught.value.code == "unreadable"


def test_the_pictures_of_a_set_cannot_be_changed_through_it() -> None:
    store = sources.ArrayStore({"a": np.zeros((2, 2), np.uint8)})
    store.read("a")[:] = 9
    assert store.read("a").max() == 0


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
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(DataError, match=r"received a \.txt file"):
        sources.read(tmp_path / "a.txt")


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


# ── Fashion-MNIST ──


@pytest.mark.skipif(not named.DEBIAN_FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_mnist_from_debian() -> None:
    data = sources.read("fashion-mnist")
    assert (len(data.train), len(data.test)) == (60_000, 10_000)
    assert set(data.counts().values()) == {7000}
    assert data.classes[9] == "Ankle boot"
    assert data.records[0].key == "test/Ankle boot/00000"
    assert data.store.read("test/Ankle boot/00000").shape == (28, 28)


def idx(shape: tuple[int, ...], content: bytes) -> bytes:
    return b"".join(n.to_bytes(4, "big") for n in (0x0800 + len(shape), *shape)) + content


@pytest.fixture
def tiny_fashion(tmp_path, monkeypatch):
    """Two training pictures and one for testing in the place of Debian's package, with their digests."""
    contents = {
        "train-images-idx3-ubyte.gz": idx((2, 28, 28), bytes(784) + b"\1" * 784),
        "train-labels-idx1-ubyte.gz": idx((2,), b"\x00\x09"),
        "t10k-images-idx3-ubyte.gz": idx((1, 28, 28), b"\2" * 784),
        "t10k-labels-idx1-ubyte.gz": idx((1,), b"\x03"),
    }
    packed = {name: gzip.compress(content, mtime=0) for name, content in contents.items()}
    md5 = {name: (hashlib.md5(packed[name]).hexdigest(), hashlib.md5(contents[name]).hexdigest()) for name in packed}
    monkeypatch.setattr(named, "FASHION_DIGESTS", md5)
    monkeypatch.setattr(named, "FASHION_COUNTS", {"train": 2, "t10k": 1})
    monkeypatch.setattr(named, "DEBIAN_FASHION", tmp_path)
    for name, content in packed.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_fashion_files_are_read(tiny_fashion) -> None:
    data = sources.read("fashion-mnist")
    assert keys(data) == ["test/Dress/00000", "train/Ankle boot/00001", "train/T-shirt/00000"]
    assert [data.store.read(key).max() for key in keys(data)] == [2, 1, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(idx((1,), b"\x04")), "not the published file"),
        (gzip.compress(bytes(10_000_000)), "not the published file"),
        (b"words", "cannot be unpacked"),
        (gzip.compress(idx((1,), b"\x03"))[:-9], "cannot be unpacked"),
    ],
)
def test_a_changed_fashion_file_is_refused(tiny_fashion, content: bytes, says: str) -> None:
    (tiny_fashion / "t10k-labels-idx1-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=says):
        sources.read("fashion-mnist")


# ── CIFAR-10 ──

N = 6  # pictures in a made batch


def pixels(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).integers(0, 256, (N, 3072), dtype=np.uint8)


def labels(batch: int) -> list[int]:
    return [(batch + i) % 10 for i in range(N)]


BATCHES = (*cifar.TRAIN, cifar.TEST)


def python_batches(root: Path, monkeypatch: pytest.MonkeyPatch, protocol: int = 2) -> Path:
    root.mkdir()
    digests = {}
    for i, name in enumerate(BATCHES):
        content = pickle.dumps({"data": pixels(i), "labels": labels(i), "filenames": ["x"] * N}, protocol)
        (root / name).write_bytes(content)
        digests[name] = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(cifar, "DIGESTS", digests)
    return root


def binary_batches(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root.mkdir()
    monkeypatch.setattr(cifar, "ROWS", N)
    for i, name in enumerate(BATCHES):
        rows = np.hstack([np.array(labels(i), np.uint8)[:, None], pixels(i)])
        (root / f"{name}.bin").write_bytes(rows.tobytes())
    return root


def packed(root: Path, path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, root.name)
    return path


def check_made_cifar(data: Dataset) -> None:
    assert data.classes == cifar.CLASSES
    assert (len(data.train), len(data.test)) == (5 * N, N)
    for number in range(N):
        key = f"test/{cifar.CLASSES[labels(5)[number]]}/{number:05d}"
        np.testing.assert_array_equal(data.store.read(key).transpose(2, 0, 1).ravel(), pixels(5)[number])
    last = f"train/{cifar.CLASSES[labels(4)[-1]]}/{5 * N - 1:05d}"
    np.testing.assert_array_equal(data.store.read(last)[:, :, 2].ravel(), pixels(4)[-1, 2048:])


@pytest.mark.parametrize("make", [python_batches, binary_batches])
def test_batches_in_a_folder_and_in_an_archive(tmp_path, monkeypatch, make) -> None:
    root = make(tmp_path / "cifar-10-batches-py", monkeypatch)
    one, wrapped = sources.read(root), sources.read(tmp_path)
    other = sources.read(packed(root, tmp_path / "cifar-10.tar.gz"))
    for data in (one, wrapped, other):
        check_made_cifar(data)
    assert one.fingerprint == wrapped.fingerprint == other.fingerprint
    assert other.name == "cifar-10"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_python_batches_of_every_protocol(tmp_path, monkeypatch, protocol: int) -> None:
    # The published ones are of protocol 2, by Python 2. Protocols below 3 write bytes through codecs.encode.
    check_made_cifar(sources.read(python_batches(tmp_path / "p", monkeypatch, protocol)))


def python_2_batch(batch: int) -> bytes:
    """A batch as Python 2 wrote it: byte strings everywhere, numbers for booleans, numpy.core."""
    text = pickle.BINSTRING + (N * 3072).to_bytes(4, "little") + pixels(batch).tobytes()
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR(K\x01K\x06M\x00\x0c\x86"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + text
        + b"tb"
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels(batch))
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels](" + numbers + b"eu."


def test_batches_that_python_2_wrote_are_read_without_a_warning(tmp_path, monkeypatch) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    for i, name in enumerate(BATCHES):
        (root / name).write_bytes(python_2_batch(i))
        monkeypatch.setitem(cifar.DIGESTS, name, hashlib.md5(python_2_batch(i)).hexdigest())
    check_made_cifar(sources.read(root))


class Evil:
    def __init__(self, call: tuple[object, tuple[object, ...]]) -> None:
        self.call = call

    def __reduce__(self):
        return self.call


def planted(root: Path, payload: object, monkeypatch: pytest.MonkeyPatch, *, digest: bool) -> None:
    content = pickle.dumps(payload, 2)
    (root / "data_batch_1").write_bytes(content)
    if digest:
        monkeypatch.setitem(cifar.DIGESTS, "data_batch_1", hashlib.md5(content).hexdigest())


@pytest.mark.parametrize("call", [os.system, eval, __import__, np.load, getattr])
def test_a_pickle_that_would_run_something_is_refused_even_with_its_digest(tmp_path, monkeypatch, call) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    marker = tmp_path / "ran"
    planted(root, {"data": Evil((call, (f"touch {marker}",)))}, monkeypatch, digest=True)
    with pytest.raises(DataError, match="holds more than arrays: it names"):
        sources.read(root)
    assert not marker.exists()


def test_no_codec_but_latin1_is_let_in(tmp_path, monkeypatch) -> None:
    import _codecs

    root = python_batches(tmp_path / "p", monkeypatch)
    planted(root, Evil((_codecs.encode, ("x", "rot13"))), monkeypatch, digest=True)
    with pytest.raises(DataError, match="codec 'rot13'"):
        sources.read(root)


def test_a_wrong_digest_is_refused_before_anything_is_unpickled(tmp_path, monkeypatch) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    planted(root, {"data": pixels(0), "labels": labels(0)}, monkeypatch, digest=False)
    opened: list[str] = []
    monkeypatch.setattr(cifar, "_unpickled", lambda name, data: opened.append(name))
    with pytest.raises(DataError, match="data_batch_1 is not the published batch"):
        sources.read(root)
    assert opened == []


@pytest.mark.parametrize(
    "payload",
    [
        [1, 2],
        {"data": pixels(0)},
        {"data": pixels(0)[:, :9], "labels": labels(0)},
        {"data": pixels(0), "labels": [0, 1]},
        {"data": pixels(0).astype(float), "labels": labels(0)},
        {"data": pixels(0), "labels": [10] * N},
        {"data": pixels(0), "labels": [-1] * N},
        {"data": pixels(0), "labels": ["a"] * N},
    ],
)
def test_a_batch_of_another_form_is_refused(tmp_path, monkeypatch, payload) -> None:
    root = python_batches(tmp_path / "p", monkeypatch)
    planted(root, payload, monkeypatch, digest=True)
    with pytest.raises(DataError, match="data_batch_1"):
        sources.read(root)


def test_broken_binary_batches_are_refused(tmp_path, monkeypatch) -> None:
    root = binary_batches(tmp_path / "b", monkeypatch)
    whole = (root / "test_batch.bin").read_bytes()
    for content, says in ((whole[:-1], "18,438 bytes"), (b"\x0a" + whole[1:], "out of range")):
        (root / "test_batch.bin").write_bytes(content)
        with pytest.raises(DataError, match=says):
            sources.read(root)
    (root / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"none called test_batch\.bin"):
        sources.read(root)


def test_broken_and_strange_archives_are_refused(tmp_path, monkeypatch) -> None:
    archive = packed(binary_batches(tmp_path / "b", monkeypatch), tmp_path / "c.tar.gz")
    whole = archive.read_bytes()
    for content in (whole[:-500], whole[: len(whole) // 2], b"words", b""):
        archive.write_bytes(content)
        with pytest.raises(DataError, match=r"not a whole (\.tar\.gz|CIFAR-10)"):
            sources.read(archive)
    with tarfile.open(archive, "w:gz") as made:
        for number in range(100):
            made.addfile(tarfile.TarInfo(f"{number}.txt"), io.BytesIO())
    with pytest.raises(DataError, match="not CIFAR-10"):
        sources.read(archive)


def test_a_link_in_an_archive_is_not_followed(tmp_path, monkeypatch) -> None:
    root = binary_batches(tmp_path / "b", monkeypatch)
    with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as made:
        for name in BATCHES[1:]:
            made.add(root / f"{name}.bin", f"{name}.bin")
        link = tarfile.TarInfo("data_batch_1.bin")
        link.type, link.linkname = tarfile.SYMTYPE, str(root / "data_batch_1.bin")
        made.addfile(link)
    with pytest.raises(DataError, match=r"none called data_batch_1\.bin"):
        sources.read(tmp_path / "c.tar.gz")


# ── downloads ──


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a folder served on this machine, which is also the place of the cache's parent."""
    (tmp_path / "www").mkdir()
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def published(url: str, content: bytes, limit: int = 1000) -> downloads.Published:
    return downloads.Published(url, "sha256:" + hashlib.sha256(content).hexdigest(), limit)


def test_a_file_is_downloaded_once(tmp_path, server) -> None:
    (tmp_path / "www/a.bin").write_bytes(b"content")
    file = published(server + "a.bin", b"content")
    path = downloads.obtain(file)
    assert path == tmp_path / "cache" / "a.bin"
    assert path.read_bytes() == b"content"
    (tmp_path / "www/a.bin").unlink()
    assert downloads.obtain(file) == path
    path.write_bytes(b"changed")
    with pytest.raises(DataError, match=r"not the published file.*Delete it"):
        downloads.obtain(file)


@pytest.mark.parametrize(("sent", "says"), [(b"other", "sent another file"), (b"x" * 1001, "too large")])
def test_a_wrong_download_is_not_kept(tmp_path, server, sent: bytes, says: str) -> None:
    (tmp_path / "www/a.bin").write_bytes(sent)
    with pytest.raises(DataError, match=says):
        downloads.obtain(published(server + "a.bin", b"content"))
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_answer_says_where_to_put_the_file(tmp_path, server, monkeypatch) -> None:
    closed = "http://127.0.0.1:9/cifar-10-binary.tar.gz"
    for url in (server + "missing.bin", closed):
        with pytest.raises(MachineError, match=r"could not be downloaded.*by hand.*'digits'") as caught:
            downloads.obtain(published(url, b""))
        assert str(tmp_path / "cache") in str(caught.value)
        assert caught.value.exit_code == 5
    monkeypatch.setattr(cifar, "ARCHIVE", downloads.Published(closed, cifar.ARCHIVE.digest, 1000))
    with pytest.raises(MachineError, match=r"cifar-10-binary\.tar\.gz could not be downloaded"):
        sources.read("cifar10")
    assert list((tmp_path / "cache").iterdir()) == []


def test_cifar10_by_name_is_downloaded_and_read(tmp_path, server, monkeypatch) -> None:
    archive = packed(binary_batches(tmp_path / "b", monkeypatch), tmp_path / "www" / "c.tar.gz")
    file = published(server + "c.tar.gz", archive.read_bytes(), limit=1 << 20)
    monkeypatch.setattr(cifar, "ARCHIVE", file)
    data = sources.read("cifar10")
    check_made_cifar(data)
    assert data.name == "cifar10"


def test_fashion_by_name_is_downloaded_and_read(tmp_path, server, tiny_fashion, monkeypatch) -> None:
    for name in named.FASHION_DIGESTS:
        shutil.move(tiny_fashion / name, tmp_path / "www" / name)
    monkeypatch.setattr(named, "FASHION_URL", server)
    assert len(sources.read("fashion-mnist")) == 3


def test_the_cache_cannot_be_made(tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("OPSIN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MachineError, match="could not write"):
        downloads.obtain(published("http://127.0.0.1:9/a", b""))


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "HOME/.cache/opsin"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/opsin"),
        ("darwin", {}, "HOME/Library/Caches/opsin"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/opsin/Cache"),
        ("win32", {"OPSIN_CACHE": "/o"}, "/o"),
    ],
)
def test_the_place_of_the_cache(monkeypatch, platform: str, variables: dict[str, str], expected: str) -> None:
    for name in ("OPSIN_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert downloads.cache_dir() == Path(expected.replace("HOME", str(Path.home())))


# ── real sets ──


@pytest.mark.parametrize(
    ("name", "k", "sizes", "refused"),
    [
        ("clothing", 10, (710, 341, 372), {"LICENSE": "not-a-picture"}),
        ("sign-digits", 10, (2062,), {}),
        ("trashnet-small", 6, (2527,), {}),
        ("cifar10-jpg", 10, (50_000, 0, 10_000), {}),
    ],
)
def test_real_zips(name: str, k: int, sizes: tuple[int, ...], refused: dict[str, str]) -> None:
    path = SHARED / f"{name}.zip"
    if not path.exists():
        pytest.skip("shared data is not there")
    start = time.process_time()
    data = sources.read(path)
    assert time.process_time() - start < 10  # 1.4 s for the largest on two cores; a quadratic step takes minutes
    assert len(data.classes) == k
    parts = (data.train, data.val, data.test) if len(sizes) == 3 else (data,)
    assert tuple(map(len, parts)) == sizes
    assert codes(data) == refused
    content = data.store.read(data.records[-1].key)
    assert (len(content), zlib.crc32(content)) == (data.records[-1].size, data.records[-1].crc)
