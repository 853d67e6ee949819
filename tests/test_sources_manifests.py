"""Tables of paths and classes: encodings, columns, what leads out, and what contradicts itself."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import pytest

from made import POSIX, codes, folder, keys, picture
from opsin import sources
from opsin.errors import CallError, DataError, MissingExtra
from opsin.vocabulary import Record

NAMES = [f"pics/{number}.jpg" for number in range(8)]
ROWS = [(name, "dog" if number % 2 else "cat") for number, name in enumerate(NAMES)]


def table(root: Path, text: str, *, name: str = "set.csv", encoding: str = "utf-8") -> Path:
    folder(root, NAMES)
    path = root / name
    path.write_bytes(text.encode(encoding))
    return path


def lines(head: str, *more: str, rows: list[tuple[str, str]] = ROWS, separator: str = ",") -> str:
    return "\r\n".join([head, *(separator.join(row) for row in rows), *more, ""])


def test_a_table_and_its_records(tmp_path) -> None:
    data = sources.read(table(tmp_path, lines("image,label")))
    assert (data.name, data.classes) == ("set", ("cat", "dog"))
    content = picture(NAMES[1])
    assert data.records[1] == Record(NAMES[1], 1, None, None, len(content), zlib.crc32(content))
    assert data.store.read(NAMES[1]) == content
    assert data.notes == ("pictures from column 'image', classes from 'label'",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators(tmp_path, encoding: str, separator: str) -> None:
    rows = [(name, "café" if label == "cat" else label) for name, label in ROWS]
    text = lines(f"file{separator}class", rows=rows, separator=separator)
    assert sources.read(table(tmp_path, text, encoding=encoding)).classes == ("café", "dog")


@POSIX
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_name_that_is_no_utf8_spoils_no_other(tmp_path, mark: str) -> None:
    names = ["kät/\udce9.jpg", "kät/ü.jpg", "hund/1.jpg", "hund/ß.jpg"] + ["hund/\udce9.jpg"] * bool(mark)
    folder(tmp_path, names)
    text = mark + lines("path,label", rows=[(name, name.partition("/")[0]) for name in names])
    (tmp_path / "set.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    data = sources.read(tmp_path / "set.csv")
    assert (data.classes, data.refused, set(keys(data))) == (("hund", "kät"), (), set(names))


@pytest.mark.parametrize("words", ["Äpfel,Größe", "café – “CAFÉ” «É»", "naïve", "prix : 5 €", "ÉCOLE É”"])
def test_what_a_western_windows_wrote_is_read_as_that(tmp_path, words: str) -> None:
    rows = [(name, f'"{words}"' if label == "cat" else label) for name, label in ROWS]
    data = sources.read(table(tmp_path, lines("file,class", rows=rows), encoding="cp1252"))
    assert set(data.classes) == {words, "dog"}


def test_columns_are_found_by_what_is_in_them(tmp_path) -> None:
    rows = [(name, f"{label},{number},same") for number, (name, label) in enumerate(ROWS)]
    data = sources.read(table(tmp_path, lines("x,y,z,w", rows=rows)))
    assert data.counts() == {"cat": 4, "dog": 4}
    assert "'x', classes from 'y'; not used: 'z', 'w'" in data.notes[0]


def test_a_column_of_captions_is_no_column_of_paths(tmp_path) -> None:
    rows = [(name, f"{label},{label} {'on a very long sofa ' * 40}{name}") for name, label in ROWS]
    data = sources.read(table(tmp_path, lines("x,label,caption", rows=rows)))
    assert data.notes == ("pictures from column 'x', classes from 'label'; not used: 'caption'",)
    with pytest.raises(DataError, match="no row gives a picture"):
        sources.read(tmp_path / "set.csv", picture="caption")
    assert list(sources.gather([tmp_path / "set.csv"], whole=False).places) == NAMES


def test_columns_can_be_named(tmp_path) -> None:
    rows = [(name, f"{label},{label}s") for name, label in ROWS]
    path = table(tmp_path, lines("x,y,z", rows=rows))
    with pytest.raises(DataError, match=r"no column of classes.*target="):
        sources.read(path)
    assert sources.read(path, target="z").classes == ("cats", "dogs")
    with pytest.raises(CallError, match="no column 'q': expected one of x, y, z"):
        sources.read(path, picture="q", target="z")
    with pytest.raises(CallError, match="columns: expected a"):
        sources.read(tmp_path, target="z")


def test_no_column_of_pictures(tmp_path) -> None:
    with pytest.raises(DataError, match=r"no column of pictures.*picture="):
        sources.read(table(tmp_path, "a,b\r\n1,2\r\n3,4\r\n"))


def test_split_and_group_columns(tmp_path) -> None:
    rows = [(n, f"{c},{'valid' if i > 5 else 'Train'},p{i // 2}") for i, (n, c) in enumerate(ROWS)]
    path = table(tmp_path, lines("path,label,split,patient", rows=rows))
    data = sources.read(path, group="patient")
    assert [r.split for r in data.records] == ["train"] * 6 + ["val"] * 2
    assert [r.group for r in data.records] == [f"p{i // 2}" for i in range(8)]
    assert "4 groups" in data.notes
    assert {r.group for r in sources.read(path).records} == {None}
    assert [r.group for r in sources.read(path, group=r"(\d)\.jpg").records] == [str(i) for i in range(8)]
    other = table(tmp_path, lines("path,label,set,group", rows=[(n, f"{c},fold1,g") for n, c in ROWS]))
    found = sources.read(other)
    assert {(r.split, r.group) for r in found.records} == {(None, "g")}
    assert "not used: 'set'" in found.notes[0]


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_group_is_refused_where_groups_are_asked_for(tmp_path, blank: str) -> None:
    rows = [(n, f"{c},{blank if i < 2 else ' p1'},{'' if i else 'g'}") for i, (n, c) in enumerate(ROWS)]
    path = table(tmp_path, lines("path,label,patient,group", rows=rows))
    with pytest.raises(DataError, match=r"group column 'patient' is blank for 2 of 8 records.*'pics/0.jpg', 'pics/1"):
        sources.read(path, group="patient")
    assert [r.group for r in sources.read(path).records] == ["g"] + [None] * 7


@pytest.mark.parametrize("value", ["testing", "test ", "TEST", "dev", " validation"])
def test_splits_under_their_other_names(tmp_path, value: str) -> None:
    rows = [(n, f"{c},{value if i > 5 else 'Training'}") for i, (n, c) in enumerate(ROWS)]
    data = sources.read(table(tmp_path, lines("path,label,split", rows=rows)))
    assert [r.split for r in data.records] == ["train"] * 6 + ["test" if "est" in value.lower() else "val"] * 2


@pytest.mark.parametrize(("column", "value"), [("split", "holdout"), ("subset", "holdout"), ("Split", "fold1")])
def test_a_split_that_is_not_understood_is_never_dealt_anew(tmp_path, column: str, value: str) -> None:
    rows = [(n, f"{c},{value if i > 5 or value == 'fold1' else 'train'}") for i, (n, c) in enumerate(ROWS)]
    path = table(tmp_path, lines(f"path,label,{column}", rows=rows))
    with pytest.raises(DataError, match=rf"column '{column}': expected one of train, .* received '{value}'.*another"):
        sources.read(path)


def test_another_column_may_say_the_split(tmp_path) -> None:
    rows = [(n, f"{c},{i},{'test' if i == 7 else 'train'}") for i, (n, c) in enumerate(ROWS)]
    data = sources.read(table(tmp_path, lines("path,label,set,subset", rows=rows)))
    assert {record.split for record in data.records} == {"train", "test"}


def test_a_column_that_is_asked_for_as_the_class_is_no_split(tmp_path) -> None:
    rows = [(n, f"{c},{'holdout' if i > 5 else 'train'}") for i, (n, c) in enumerate(ROWS)]
    data = sources.read(table(tmp_path, lines("path,label,split", rows=rows)), target="split")
    assert (data.classes, {r.split for r in data.records}) == (("holdout", "train"), {None})


def test_classes_whose_rows_are_all_refused_are_a_warning(tmp_path) -> None:
    data = sources.read(table(tmp_path, lines("path,label", "pics/none.jpg,owl", "pics/nowhere.jpg,yak")))
    assert any("warning: all rows of 'owl', 'yak' are refused" in note for note in data.notes), data.notes


def test_a_table_of_paths_that_lead_to_nothing_says_where_they_were_looked_for(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "t.csv").write_text("path,label\na.jpg,cat\nb.jpg,dog\n")
    with pytest.raises(DataError, match=r"no row gives a picture: expected paths below .*set, .* received 2 missing"):
        sources.read(tmp_path / "set" / "t.csv")


def test_a_class_that_training_lacks_is_named(tmp_path) -> None:
    rows = [(n, "fox,test" if i == 7 else f"{c},train") for i, (n, c) in enumerate(ROWS)]
    with pytest.raises(DataError, match="test has a class that training has never seen"):
        sources.read(table(tmp_path, lines("path,label,split", rows=rows)))


def test_rows_that_cannot_be_used_are_refused_with_their_reason(tmp_path) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/words.txt").write_bytes(b"words")
    (tmp_path / "secret.jpg").write_bytes(picture("secret"))
    root = tmp_path / "set"
    bad = ["../secret.jpg,cat", f"{tmp_path}/secret.jpg,cat", "C:\\secret.jpg,cat", "pics/none.jpg,cat",
           "pics/0.jpg,cat", "pics/1.jpg,cat", "pics/2.jpg,", ",cat", "pics,cat", "pics/words.txt,cat"]  # fmt: skip
    path = table(root, lines("image,label", *bad))
    (root / "pics/words.txt").write_bytes(b"words")
    data = sources.read(path)
    assert codes(data) == {
        "../secret.jpg": "unsafe-path", f"{tmp_path}/secret.jpg": "unsafe-path", "C:/secret.jpg": "unsafe-path",
        "pics/none.jpg": "missing", "pics/0.jpg": "duplicate-row", "pics/1.jpg": "contradicting-rows",
        "pics/2.jpg": "no-class", "": "no-picture", "pics": "not-a-picture", "pics/words.txt": "not-a-picture",
    }  # fmt: skip
    assert keys(data) == [name for name in NAMES if name != "pics/1.jpg"]


@POSIX
def test_links_out_of_the_tables_folder_are_refused(tmp_path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture("secret"))
    path = table(tmp_path / "set", lines("image,label", "link.jpg,cat", "in.jpg,cat"))
    (path.parent / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (path.parent / "in.jpg").symlink_to(path.parent / NAMES[0])
    data = sources.read(path)
    assert codes(data) == {"link.jpg": "link"}
    assert "in.jpg" in keys(data)


def test_a_link_to_another_drive_is_refused_as_any_that_leads_out(tmp_path, monkeypatch) -> None:
    path = table(tmp_path, lines("image,label"))

    def fails(_: object) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("os.path.commonpath", fails)
    with pytest.raises(DataError, match="received 8 link"):
        sources.read(path)


def test_paths_as_windows_writes_them(tmp_path) -> None:
    rows = [(".\\" + name.replace("/", "\\"), label) for name, label in ROWS]
    assert keys(sources.read(table(tmp_path, lines("image,label", rows=rows)))) == NAMES


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no table"),
        (b"a,a\r\n1,2\r\n", "different names"),
        (b"image,label\r\npics/0.jpg\r\n", "2 values a line, received 1 in line 2"),
        (b'image,label\r\n"pics/0.jpg,cat\r\n', "no CSV"),
        (b"\0" * 200, "no table"),
    ],
)
def test_what_is_no_table_is_a_data_error(tmp_path, content: bytes, says: str) -> None:
    (tmp_path / "set.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        sources.read(tmp_path / "set.csv")


def test_parquet(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    expected = sources.read(table(tmp_path, lines("image,label")))
    columns = {"image": NAMES, "label": [label for _, label in ROWS], "raw": [b"x"] * 8}
    parquet.write_table(pyarrow.table(columns), tmp_path / "set.parquet")
    data = sources.read(tmp_path / "set.parquet")
    assert (data.fingerprint, data.records) == (expected.fingerprint, expected.records)
    parquet.write_table(pyarrow.table(columns | {"patient": [float("nan"), *range(7)]}), tmp_path / "set.parquet")
    with pytest.raises(DataError, match="'patient' is blank for 1 of 8"):
        sources.read(tmp_path / "set.parquet", group="patient")
    whole = (tmp_path / "set.parquet").read_bytes()
    for content in (whole[: len(whole) // 2], b"words", b""):
        (tmp_path / "set.parquet").write_bytes(content)
        with pytest.raises(DataError, match="not a whole Parquet file"):
            sources.read(tmp_path / "set.parquet")


def test_a_parquet_of_endless_rows_is_refused_before_they_are_made(tmp_path, monkeypatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    same = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 6_000_000, pyarrow.int8()), ["a.jpg"])
    parquet.write_table(pyarrow.table({"image": same, "label": same}), tmp_path / "set.parquet")
    assert (tmp_path / "set.parquet").stat().st_size < 100_000
    monkeypatch.setattr(parquet.ParquetFile, "read", lambda self: pytest.fail("read"))
    with pytest.raises(DataError, match="too many entries: expected at most 5,000,000, received 6,000,000"):
        sources.read(tmp_path / "set.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "set.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingExtra, match=r"opsin\[parquet\]"):
        sources.read(tmp_path / "set.parquet")
