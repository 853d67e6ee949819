"""Several targets a row: columns of 0 and 1, lists, numbers; what is blank, what is told and what must be said."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from made import codes, folder, picture
from opsin import checks, sources
from opsin.errors import CallError, DataError

NAMES = [f"{number}.jpg" for number in range(6)]


def table(root: Path, head: str, *rows: str, separator: str = ",") -> Path:
    folder(root, NAMES)
    path = root / "set.csv"
    path.write_text("\n".join([head, *(f"{name}{separator}{row}" for name, row in zip(NAMES, rows))]) + "\n")
    return path


def targets(path: Path, **said: str) -> list[tuple[float | None, ...]]:
    return [record.targets for record in sources.read(path, **said).records]


def test_columns_of_0_and_1(tmp_path) -> None:
    path = table(tmp_path, "file,cat,dog,where", "1,0,a", "0,,b", "yes,True,a", ",0,c", "1.0,no,a", "0,1,b")
    data = sources.read(path, target="cat, dog")
    assert (data.task, data.classes) == ("multi-label", ("cat", "dog"))
    assert [record.targets for record in data.records] == [(1, 0), (0, None), (1, 1), (None, 0), (1, 0), (0, 1)]
    assert {record.target for record in data.records} == {None}
    assert data.counts() == {"cat": 3, "dog": 2}
    assert "labels from 'cat', 'dog'; not used: 'where'" in data.notes[0]


def test_the_task_alone_finds_columns_of_0_and_1(tmp_path) -> None:
    path = table(tmp_path, "file,cat,dog,age", "1,0,3", "0,,4", "1,1,5", ",0,6", "1,0,7", "0,1,8")
    assert sources.read(path, task="multi-label").classes == ("cat", "dog")
    data = sources.read(path, task="regression", target="age")
    assert (data.task, data.classes, data.counts()) == ("regression", ("age",), {"age": 6})


@pytest.mark.parametrize("bar", ["|", ";"])
def test_a_list_in_one_column(tmp_path, bar: str) -> None:
    rows = [f"dog{bar} cat", "cat", "", bar, "bird", f"bird{bar}dog{bar}bird"]
    path = table(tmp_path, "file,tags", *rows)
    data = sources.read(path, task="multi-label")
    assert data.classes == ("bird", "cat", "dog")
    assert codes(data) == {"2.jpg": "no-class"}  # a blank list is unknown, a bar alone says that there is none
    assert [r.targets for r in data.records] == [(0, 1, 1), (0, 1, 0), (0, 0, 0), (1, 0, 0), (1, 0, 1)]


def test_a_list_is_one_class_unless_said_otherwise(tmp_path) -> None:
    """A bar may be part of a class's name: nothing is guessed at."""
    path = table(tmp_path, "file,label", "a|b", "a", "a|b", "a", "a|b", "a")
    assert sources.read(path).classes == ("a", "a|b")
    assert sources.read(path, task="multi-label").classes == ("a", "b")


def test_a_list_of_parquet(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder(tmp_path, NAMES)
    lists = [["a", "b"], ["b"], [], None, ["a"], ["b"]]
    parquet.write_table(pyarrow.table({"file": NAMES, "targets": lists}), tmp_path / "set.parquet")
    data = sources.read(tmp_path / "set.parquet")
    assert (data.task, data.classes) == ("multi-label", ("a", "b"))
    assert [record.targets for record in data.records] == [(1, 1), (0, 1), (0, 0), (1, 0), (0, 1)]


def test_numbers(tmp_path) -> None:
    path = table(tmp_path, "file,angle,size", "-3.5,1", "0.25,", "nan,3", "1e1,4", "7.125,5", "8,6")
    data = sources.read(path, target="angle,size")
    assert (data.task, data.classes) == ("regression", ("angle", "size"))
    assert data.records[0].targets == (-3.5, 1)
    assert data.records[1].targets == (0.25, None)
    assert data.records[2].targets == (None, 3)


def test_numbers_with_decimals_that_hardly_repeat_can_be_nothing_else(tmp_path) -> None:
    path = table(tmp_path, "file,target", "0.1", "0.25", "3.5", "", "7.125", "8")
    data = sources.read(path)
    assert (data.task, len(data), codes(data)) == ("regression", 5, {"3.jpg": "no-class"})


def test_whole_numbers_are_classes_unless_said_otherwise(tmp_path) -> None:
    path = table(tmp_path, "file,label", "0", "1", "0", "1", "2", "2")
    assert sources.read(path).task == "single-label"
    assert targets(path, task="regression") == [(0,), (1,), (0,), (1,), (2,), (2,)]


@pytest.mark.parametrize(
    ("said", "error", "match"),
    [
        ({"target": "x,y"}, CallError, "several target columns.*0 and 1, or numbers"),
        ({"target": "x", "task": "multi-label"}, DataError, None),
        ({"target": "y", "task": "regression"}, DataError, "a finite number.*'a' in row 2"),
        ({"target": "x,z"}, CallError, "no column 'z'"),
        ({"task": "multi"}, CallError, "multi-label"),
        ({"task": "regression"}, DataError, "no column that fits regression"),
    ],
)
def test_what_is_refused(tmp_path, said, error, match) -> None:
    path = table(tmp_path, "file,x,y", "1,a", "2,b", "2,c", "0,d", "1,e", "x,f")
    if match is None:  # lists of one label each are lists
        assert sources.read(path, **said).classes == ("0", "1", "2", "x")
        return
    with pytest.raises(error, match=match):
        sources.read(path, **said)


def test_a_task_needs_a_table(tmp_path) -> None:
    folder(tmp_path / "set", ["a/1.jpg", "b/1.jpg"])
    with pytest.raises(CallError, match=r"\.csv"):
        sources.read(tmp_path / "set", task="regression")
    with pytest.raises(CallError, match=r"\.csv"):
        sources.read(tmp_path / "set", target="tags", task="multi-label")


# ── what stands between labels ──


@pytest.mark.parametrize(
    ("rows", "parted"),
    [
        (["polar bear;cat", "cat", "", "|", "polar bear", "cat|polar bear"], "bars or semicolons"),
        (['"polar bear, cat"', "cat", "", "|", "polar bear", '"cat,polar bear"'], "commas"),
        (["polar_bear cat", "cat", "", "|", "polar_bear", "cat  polar_bear"], "spaces"),
    ],
)
def test_the_strongest_mark_in_a_column_parts_it(tmp_path, rows: list[str], parted: str) -> None:
    data = sources.read(table(tmp_path, "file,tags", *rows), task="multi-label")
    assert [name.replace("_", " ") for name in data.classes] == ["cat", "polar bear"]
    assert [record.targets for record in data.records] == [(1, 1), (1, 0), (0, 0), (0, 1), (1, 1)]
    assert data.notes[0].endswith(f"labels from 'tags', parted by {parted}")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("ending", [".txt", ".csv", ".tsv"])
@pytest.mark.parametrize("between", ["\t", ",", ";", " "])
@pytest.mark.parametrize("labels", [["cat;dog", "dog"], ["cat|dog", "dog"], ['"cat,dog"', "dog"], ["cat dog", "dog"]])
def test_a_list_without_a_line_of_names(tmp_path, labels, between: str, ending: str, end: str) -> None:
    folder(tmp_path, NAMES[:2])
    path = tmp_path / f"list{ending}"
    path.write_bytes("".join(f"{name}{between}{value}{end}" for name, value in zip(NAMES, labels)).encode())
    data = sources.read(path, task="multi-label")
    assert (data.classes, [record.targets for record in data.records]) == (("cat", "dog"), [(1, 1), (0, 1)])


def test_a_list_of_paths_and_classes_and_one_of_paths_alone(tmp_path) -> None:
    folder(tmp_path, NAMES[:3])
    path = tmp_path / "list.txt"
    path.write_text("0.jpg polar bear\n1.jpg cat\n2.jpg cat\n")
    assert sources.read(path).classes == ("cat", "polar bear")  # one class a picture: nothing is parted
    path.write_text("0.jpg\n2.jpg\n")
    assert list(sources.gather([path], whole=False).places) == ["0.jpg", "2.jpg"]


# ── folders ──


def copied(root: Path) -> Path:
    """Three pictures of which one lies in both class folders, and one that is only called alike."""
    for name, content in (("cat/1", "one"), ("dog/one", "one"), ("dog/2", "two"), ("cat/3", "three"), ("dog/3", "x")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.jpg").write_bytes(picture(content))
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_a_picture_in_two_class_folders_has_both_labels(tmp_path, packed: bool) -> None:
    root = copied(tmp_path / "set")
    data = sources.read(Path(shutil.make_archive(str(root), "zip", root)) if packed else root, task="multi-label")
    assert (data.task, data.classes) == ("multi-label", ("cat", "dog"))
    found = {record.key: record.targets for record in data.records}
    assert found == {"cat/1.jpg": (1, 1), "cat/3.jpg": (1, 0), "dog/2.jpg": (0, 1), "dog/3.jpg": (0, 1)}
    assert {record.target for record in data.records} == {None}
    assert codes(data) == {"dog/one.jpg": "same-picture"}
    assert data.notes[-1].startswith("1 of 4 pictures lie in several folders")
    assert sources.read(root).task == "single-label"
    assert sources.read(root).fingerprint != data.fingerprint == sources.read(root, task="multi-label").fingerprint


def test_equal_files_in_two_splits_stay_two_records(tmp_path) -> None:
    copied(tmp_path / "set" / "train")
    copied(tmp_path / "set" / "test")
    data = sources.read(tmp_path / "set", task="multi-label")
    assert [record.split for record in data.records if record.key.endswith("cat/1.jpg")] == ["test", "train"]
    assert len(checks.leaks(checks.quick(data))) == 4


def test_contradicting_rows_and_the_fingerprint(tmp_path) -> None:
    path = table(tmp_path, "file,a,b", "1,0", "0,1", "1,1", "0,1", "1,0", "0,1")
    before = sources.read(path, target="a,b")
    path.write_text(path.read_text().replace("5.jpg,0,1", "5.jpg,0,"))
    after = sources.read(path, target="a,b")
    assert before.fingerprint != after.fingerprint
    path.write_text(path.read_text() + "5.jpg,1,\n")
    assert codes(sources.read(path, target="a,b")) == {"5.jpg": "contradicting-rows"}
