"""Zips and tars made to harm, and where the bytes of records are."""

from __future__ import annotations

import io
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from conftest import shared
from made import JPEG, SPLIT, both, codes, folder, keys, picture, zipped
from opsin import sources
from opsin.errors import CallError, DataError, PictureError
from opsin.sources import archives, listing, stores, tars
from tiny import digests

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


@pytest.mark.parametrize("name", ["zip-slip.zip", "zip-slip-win.zip"])
def test_known_zip_slips(tmp_path, name: str) -> None:
    with zipfile.ZipFile(shared("hostile-archives.zip")) as archive:
        (tmp_path / name).write_bytes(archive.read("archives/" + name))
    store = sources.ZipStore(tmp_path / name)
    found = archives.list_zip(store)
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
        ({24: (300 << 20).to_bytes(4, "little")}, "ratio"),
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
    monkeypatch.setattr(archives, "MOST_RATIO", 10**9)
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


# ── tars ──


def member(name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def raw_tar(path: Path, members: list[tuple], format: int = tarfile.PAX_FORMAT) -> Path:
    mode = "w" if path.suffix == ".tar" else "w:gz"
    with tarfile.open(path, mode, format=format) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


GOOD_TAR = [member("cat/1.jpg", picture("1")), member("dog/1.jpg", picture("2"))]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_tar_is_the_data_set_that_its_folder_is(tmp_path, ending: str, format: int) -> None:
    deep = f"train/dog/{'n' * 90}/{'m' * 60}.jpg"  # needs a prefix, a long name or pax records
    root = folder(tmp_path / "set", [*SPLIT, "README.md", deep])
    path = tmp_path / f"set{ending}"
    with tarfile.open(path, "w" if ending == ".tar" else "w:gz", format=format) as archive:
        archive.add(root, ".")
    data, expected = sources.read(path), sources.read(root)
    assert (data.name, data.fingerprint, data.refused) == ("set", expected.fingerprint, expected.refused)
    assert [data.store.read(key) for key in keys(data)] == [picture(key) for key in keys(data)]
    store, names, _ = sources.pictures(path)
    assert store.read(names[0]) == picture(names[0])


def test_names_in_a_tar_keep_any_letters_and_bytes(tmp_path) -> None:
    for format in FORMATS[1:]:
        members = [*GOOD_TAR, member("cat/é\udce9.jpg", picture("x"))]
        assert "cat/é\udce9.jpg" in keys(sources.read(raw_tar(tmp_path / "odd.tar", members, format)))


HARMFUL = {
    "../evil.jpg": ("unsafe-path", member("../evil.jpg", picture("x"))),
    "/etc/evil.jpg": ("unsafe-path", member("/etc/evil.jpg", picture("x"))),
    "C:/evil.jpg": ("unsafe-path", member("C:/evil.jpg", picture("x"))),
    "cat/link.jpg": ("link", member("cat/link.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")),
    "cat/hard.jpg": ("link", member("cat/hard.jpg", kind=tarfile.LNKTYPE, link="cat/1.jpg")),
    "cat/device.jpg": ("not-a-picture", member("cat/device.jpg", kind=tarfile.BLKTYPE)),
    "cat/pipe.jpg": ("not-a-picture", member("cat/pipe.jpg", kind=tarfile.FIFOTYPE)),
    "CAT/1.JPG": ("name-collision", member("CAT/1.JPG", picture("x"))),
}


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_harmful_tar_is_read_without_what_harms(tmp_path, ending: str) -> None:
    path = raw_tar(tmp_path / f"evil{ending}", GOOD_TAR + [made for _, made in HARMFUL.values()])
    before = digests(tmp_path)
    data = sources.read(path)
    assert codes(data) == {key: code for key, (code, _) in HARMFUL.items()}
    assert keys(data) == ["cat/1.jpg", "dog/1.jpg"]
    assert digests(tmp_path) == before


def test_of_two_members_with_one_name_the_last_counts(tmp_path) -> None:
    data = sources.read(raw_tar(tmp_path / "twice.tar", [*GOOD_TAR, member("cat/1.jpg", picture("later"))]))
    assert codes(data) == {"cat/1.jpg": "duplicate-name"}
    assert data.store.read("cat/1.jpg") == picture("later")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_one_name_twice_the_entry_that_counts_is_gathered(tmp_path) -> None:
    paths = [
        raw_zip(tmp_path / "twice.zip", [*GOOD, (entry("cat/1.jpg"), picture("later"))]),
        raw_tar(tmp_path / "twice.tar", [*GOOD_TAR, member("cat/1.jpg", picture("later"))]),
    ]
    for path in paths:
        found = sources.gather([path], whole=False)
        assert {name: found.read(name) for name in found.places} == {
            "cat/1.jpg": picture("later"), "dog/1.jpg": picture("2")}  # fmt: skip
    with pytest.raises(CallError, match="one path, received 2"):
        sources.gather(paths, whole=False)


def test_a_header_that_claims_much_is_not_believed(tmp_path) -> None:
    path = raw_tar(tmp_path / "long.tar", [member("x" * 100_000, picture("x"))], tarfile.GNU_FORMAT)
    with pytest.raises(DataError, match="a header claims 100,001 bytes"):
        sources.read(path)


def claiming(kind: bytes, size: int) -> bytes:
    """A member whose header claims a size that is not there, in base 256 where it is large."""
    info = tarfile.TarInfo("cat/2.jpg")
    info.type = kind
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b"%06o\0 " % (sum(header[:148] + b" " * 8 + header[156:]))
    return bytes(header)


@pytest.mark.parametrize("size", [1 << 20, 1 << 62, 1 << 80])
@pytest.mark.parametrize("kind", [b"0", b"Z", b"g", b"x", b"L", b"D"])
def test_a_size_that_is_not_there_is_a_cut_tar(tmp_path, kind: bytes, size: int) -> None:
    whole = raw_tar(tmp_path / "set.tar", GOOD_TAR).read_bytes()
    (tmp_path / "set.tar").write_bytes(claiming(kind, size) + whole)
    with pytest.raises(DataError, match="not a whole tar: it ends inside cat/2"):
        sources.read(tmp_path / "set.tar")


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_what_has_no_bytes_may_claim_any_size(tmp_path, kind: bytes) -> None:
    whole = raw_tar(tmp_path / "set.tar", GOOD_TAR).read_bytes()
    (tmp_path / "set.tar").write_bytes(claiming(kind, 1 << 62) + whole)
    assert keys(sources.read(tmp_path / "set.tar")) == ["cat/1.jpg", "dog/1.jpg"]


@pytest.mark.parametrize("size", ["9" * 5000, "\u0663", "-1", "1.5"])
def test_a_pax_size_that_is_none(tmp_path, size: str) -> None:
    info, content = member("cat/2.jpg", picture("x"))
    info.pax_headers = {"size": size}
    with pytest.raises(DataError, match="is no size"):
        sources.read(raw_tar(tmp_path / "set.tar", [*GOOD_TAR, (info, content)]))


def test_a_tar_that_unpacks_to_too_much_leaves_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tars, "SMALL", 1 << 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = raw_tar(tmp_path / "bomb.tar.gz", [*GOOD_TAR, member("cat/2.jpg", JPEG + bytes(20 << 20))])
    before = digests(tmp_path)
    with pytest.raises(DataError, match="unpacks to over"):
        sources.read(path)
    assert digests(tmp_path) == before


def test_no_changed_or_cut_tar_escapes_as_another_error(tmp_path) -> None:
    whole = raw_tar(tmp_path / "set.tar", [*GOOD_TAR, member("dog/" + "n" * 120, picture("3"))]).read_bytes()
    assert len(keys(sources.read(tmp_path / "set.tar"))) == 3
    rng = np.random.default_rng(0)
    path = tmp_path / "changed.tar"
    for number in range(600):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 1 + number % 3):
            changed[place] = rng.integers(0, 256)
        path.write_bytes(changed[: len(whole) if number % 2 else int(rng.integers(0, len(whole)))])
        try:
            data = sources.read(path)
            for key in keys(data):
                assert data.store.read(key)
        except (DataError, PictureError):
            pass


# ── both ──


def test_entries_that_share_their_bytes_are_refused(tmp_path) -> None:
    made = [(entry("cat/0.jpg"), picture("0")), *GOOD, (entry("cat/2.jpg"), picture("x"))]
    source = raw_zip(tmp_path / "overlap.zip", made)
    with zipfile.ZipFile(source) as archive:
        at = archive.getinfo("cat/1.jpg").header_offset
    data = sources.read(patched(source, {42: at.to_bytes(4, "little")}))
    assert codes(data) == {"cat/1.jpg": "overlap", "cat/2.jpg": "overlap"}
    assert keys(data) == ["cat/0.jpg", "dog/1.jpg"]


def test_names_that_differ_by_case_or_unicode_form_only_are_refused(tmp_path) -> None:
    names = ["Cat/1.jpg", "cat/caf\u00e9.jpg", "cat/cafe\u0301.jpg", "CAT/2.JPG", "cat/2.jpg"]
    source = raw_zip(tmp_path / "case.zip", GOOD + [(entry(name), picture(name)) for name in names])
    found = codes(sources.read(source))
    assert found == dict.fromkeys(("Cat/1.jpg", "cat/café.jpg", "cat/2.jpg"), "name-collision")


def test_what_unpacks_to_far_more_than_it_is_is_refused(tmp_path) -> None:
    path = tmp_path / "ratio.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {"cat/1.jpg": JPEG, "dog/1.jpg": JPEG, "cat/2.jpg": JPEG + bytes(5_000_000)}.items():
            archive.writestr(name, content)
    assert codes(sources.read(path)) == {"cat/2.jpg": "ratio"}


def test_an_archive_of_too_many_entries_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archives, "MOST_ENTRIES", 7)
    for path in (zipped(tmp_path / "many.zip", SPLIT), raw_tar(tmp_path / "many.tar", GOOD_TAR * 4)):
        with pytest.raises(DataError, match="too many entries"):
            sources.read(path)


@pytest.mark.parametrize("name", ["zip-slip.zip", "zip-slip-win.zip", "zip-slip.tar", "zip-slip-win.tar"])
def test_known_slips_write_nothing_anywhere(tmp_path, name: str) -> None:
    inside = tmp_path / "deep" / "er"
    inside.mkdir(parents=True)
    with zipfile.ZipFile(shared("hostile-archives.zip")) as archive:
        (inside / name).write_bytes(archive.read("archives/" + name))
    before = digests(tmp_path)
    with pytest.raises(DataError, match=r"1 unsafe-path|1 not-a-picture"):
        sources.read(inside / name)
    assert digests(tmp_path) == before
    assert not Path("/tmp/evil.txt").exists()


def test_paths_that_are_endless_are_refused_in_no_time(tmp_path) -> None:
    names = [f"{'a/' * 30_000}{number}.png" for number in range(20)]
    data = sources.read(zipped(tmp_path / "deep.zip", ["cat/1.jpg", "dog/1.jpg", *names, "x" * 5000 + ".jpg"]))
    assert len(data) == 2
    assert [refusal.code for refusal in data.refused] == ["too-long-path"] * 21
    assert max(len(refusal.key) for refusal in data.refused) < 100


def test_folders_of_few_bytes_do_not_fill_the_memory(tmp_path, monkeypatch) -> None:
    def deep(folders: int) -> list[tuple]:
        return [member("/".join([f"{n}{'x' * 30}"] * folders) + "/a.jpg", picture("x")) for n in range(1000)]

    tracemalloc.start()
    data = sources.read(raw_tar(tmp_path / "deep.tar.gz", GOOD_TAR + deep(100)))
    assert tracemalloc.get_traced_memory()[1] < 60 << 20
    tracemalloc.stop()
    assert {refusal.code for refusal in data.refused} == {"too-long-path"}
    path = raw_tar(tmp_path / "less.tar.gz", GOOD_TAR + deep(30))
    assert len(sources.read(path)) == 1002
    monkeypatch.setattr(archives, "MOST_LETTERS", 10 << 20)
    with pytest.raises(DataError, match="too many folders, or too deep ones: expected names of at most 10,485,760"):
        sources.read(path)


def test_what_stands_before_a_zip_and_what_is_told_behind_its_entries(tmp_path) -> None:
    file = zipped(tmp_path / "set.zip", ["cat/1.jpg", "dog/1.jpg"])
    expected = sources.read(file).fingerprint
    (tmp_path / "set.exe").write_bytes(b"#!/bin/sh\n" * 500 + file.read_bytes())
    assert sources.read(tmp_path / "set.exe").fingerprint == expected
    with zipfile.ZipFile(tmp_path / "64.zip", "w") as archive:
        for name in ("cat/1.jpg", "dog/1.jpg"):
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(picture(name))
    assert sources.read(tmp_path / "64.zip").fingerprint == expected


def test_letters_that_play_tricks_stay_letters(tmp_path) -> None:
    tricky = ["cat/x\ny.jpg", "cat/\u202egpj.exe.jpg", "cat/con.jpg", "cat/ .jpg", "cat/a..b.jpg"]
    data = sources.read(zipped(tmp_path / "set.zip", [*tricky, "dog/1.jpg"]))
    assert {record.key for record in data.records} == {*tricky, "dog/1.jpg"}
    for record in data.records:
        assert data.store.read(record.key) == picture(record.key)
