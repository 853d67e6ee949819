"""Checks: each kind on data where it is planted and where it is not; the report, its page, and the fixes."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from made import JPEG, POSIX
from opsin import checks, duplicates, sources
from opsin.app import cli
from opsin.checks import CHECKS, labels, looks, shortcuts
from opsin.checks.subject import Subject
from opsin.duplicates import SIDE, Pair
from opsin.errors import CallError, DataError, MachineError
from opsin.preprocessing import Preprocessing
from opsin.sources import ArrayStore
from opsin.vocabulary import SEVERITIES, Dataset, Finding, Record, Refusal, finished
from test_duplicates import LEAKS, jpeg, scene


def data_of(records: list[Record], classes: tuple[str, ...] = ("cat", "dog"), **others: object) -> Dataset:
    return Dataset("made", tuple(records), classes, ArrayStore({}), "", **others)  # type: ignore[arg-type]


def records(split: str | None = None, **counts: int) -> list[Record]:
    return [
        Record(f"{split}/{name}/{i}.jpg", index, split)  # type: ignore[arg-type]
        for index, (name, n) in enumerate(counts.items())
        for i in range(n)
    ]


def seen(rows: list[Record], **facts: np.ndarray) -> looks.Looks:
    """Looks with usual values where none are given."""
    usual = dict.fromkeys(looks.FACTS, 100.0) | {"sharpness": 10.0, "contrast": 40.0, "bytes": 9000.0}
    rng = np.random.default_rng(0)
    columns = [facts.get(name, usual[name] + rng.normal(0, 1, len(rows))) for name in looks.FACTS]
    blank = np.zeros((len(rows), SIDE, SIDE), np.uint8)
    return looks.Looks(data_of(rows), blank, np.stack(columns, axis=1).astype(np.float32), ("JPEG",) * len(rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten scenes a class and split, and of each kind one thing that is wrong."""
    root = tmp_path / "set"
    for number in range(40):
        place = root / ("train", "test")[number % 10 > 6] / "ab"[number % 2] / f"{number:02d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(jpeg(scene(number)))
    (root / "test/a/copy.jpg").write_bytes(jpeg(scene(0)))
    (root / "test/a/crop.jpg").write_bytes(LEAKS["cropped"](scene(2)))
    (root / "train/b/wrong.jpg").write_bytes(jpeg(scene(4)))
    (root / "train/a/cut.jpg").write_bytes(jpeg(scene(50))[:900])
    Image.new("RGB", (150, 120), (2, 2, 2)).save(root / "train/a/dark.jpg")
    return root


def found(findings: tuple[Finding, ...] | list[Finding], kind: str) -> Finding:
    (finding,) = (finding for finding in findings if finding.kind == kind)
    return finding


def folder_of(files: dict[str, bytes], root: Path) -> Path:
    """Files that begin like JPEGs."""
    for name, content in files.items():
        (root / name).write_bytes(JPEG + content)
    return root


# ── all of it ──


def test_a_folder_with_everything_wrong(folder: Path) -> None:
    report = checks.check(sources.read(folder))
    copies = [f for f in report.findings if f.kind == "copies"]
    assert copies[0].severity == "error"
    assert copies[0].text == "exact copies across splits: 1 of 14 (7.1 %) test pictures are also in train or val"
    assert "7.1 points too good" in copies[0].effect
    assert copies[0].together == (("test/a/copy.jpg", "train/a/00.jpg"),)
    near = found(report.findings, "near")
    assert near.together == (("test/a/crop.jpg", "train/a/02.jpg"),)
    wrong = found(report.findings, "contradictions")
    assert (wrong.severity, wrong.records) == ("error", ("train/a/04.jpg", "train/b/wrong.jpg"))
    refused = found(report.findings, "unreadable")
    assert refused.records == ("train/a/cut.jpg",)
    assert "1 truncated" in refused.text
    assert "dark" in found(report.findings, "odd").details["train/a/dark.jpg"]
    assert checks.leaks(report) == {"test/a/copy.jpg"}
    assert [f.severity for f in report.findings] == sorted((f.severity for f in report.findings), key=SEVERITIES.index)


def test_the_quick_part_decodes_nothing(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(checks, "look", None)
    report = checks.quick(sources.read(folder))
    assert {f.kind for f in report.findings} == {"copies", "contradictions"}
    assert checks.leaks(report) == {"test/a/copy.jpg"}


def test_exact_leaks_are_refused_with_their_number(folder: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 14 test pictures are exact copies .* received 'test/a/copy\.jpg'"):
        checks.refuse_leaks(checks.quick(sources.read(folder)))
    (folder / "test/a/copy.jpg").unlink()
    checks.refuse_leaks(checks.quick(sources.read(folder)))


def test_what_is_clean_has_no_findings(tmp_path: Path) -> None:
    for number in range(24):
        place = tmp_path / "ab"[number % 2] / f"{number:02d}.jpg"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(jpeg(scene(number)))
    assert checks.check(sources.read(tmp_path)).findings == ()


def test_only_the_checks_that_are_asked_for(folder: Path) -> None:
    report = checks.check(sources.read(folder), only=("odd",))
    assert [f.kind for f in report.findings] == ["odd"]
    with pytest.raises(CallError, match="Did you mean 'odd'"):
        checks.check(sources.read(folder), only=("ood",))


def test_threads_change_nothing(folder: Path) -> None:
    data = sources.read(folder)
    one, three = (finished(looks.look(data, threads=n)) for n in (1, 3))
    np.testing.assert_array_equal(one.thumbnails, three.thumbnails)
    np.testing.assert_array_equal(one.facts, three.facts)
    assert one.data.refused == three.data.refused
    assert len(one.data) + len(one.data.refused) == len(data)


@pytest.mark.parametrize("name", CHECKS)
def test_every_check_takes_data_that_was_not_looked_at(name: str) -> None:
    data = data_of([*records("train", cat=30, dog=30), *records("test", cat=20, dog=20)])
    assert CHECKS[name](Subject(data)) == []


def test_more_pictures_than_can_be_compared_are_said(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "MOST", 20)
    report = checks.check(sources.read(folder), only=("near",))
    assert any("among the first 20 of 44 pictures" in finding.text for finding in report.findings)


# ── splits ──


def test_a_group_in_two_splits() -> None:
    rows = [*records("train", cat=2, dog=2), *records("test", cat=2, dog=2)]
    rows = [dataclasses.replace(r, group="p1" if i in (0, 4, 5) else f"own{i}") for i, r in enumerate(rows)]
    finding = CHECKS["groups"](Subject(data_of(rows)))[0]
    assert finding.text == "1 of 6 (16.7 %) groups stand in more than one split: 'p1'"
    assert finding.records == tuple(rows[i].key for i in (0, 4, 5))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([*records("train", cat=20, dog=20), *records("test", cat=10)], "test has no picture of 'dog'"),
        (records(None, cat=20, dog=5), "fewer than 10 pictures of 'dog'"),
        (records(None, cat=200, dog=15), "uneven classes: 200 of 'cat', 15 of 'dog'"),
    ],
)
def test_classes(rows: list[Record], says: str) -> None:
    assert [finding.text for finding in CHECKS["classes"](Subject(data_of(rows)))] == [says]


def test_train_and_test_that_differ_are_told_by_what() -> None:
    rows = [*records("train", cat=60, dog=60), *records("test", cat=40, dog=40)]
    rng = np.random.default_rng(1)
    width = np.where([r.split == "test" for r in rows], 300, 100) + rng.normal(0, 5, len(rows))
    (finding,) = CHECKS["drift"](Subject(data_of(rows), seen(rows, width=width)))
    assert finding.text == "train and test differ in width (median 100 in train, 300 in test)"
    assert CHECKS["drift"](Subject(data_of(rows), seen(rows))) == []


def test_leaks_count_test_pictures_once() -> None:
    rows = [*records("train", cat=2), *records("test", cat=2)]
    keys = [record.key for record in rows]
    pairs = [Pair(keys[0], keys[2], "bytes"), Pair(keys[1], keys[2], "near")]
    assert checks.splits.leaks(Subject(data_of(rows)), pairs) == {keys[2]}


def test_every_copy_in_the_test_is_a_leak_whichever_stands_first() -> None:
    rows = [*records("test", cat=4), *records("train", cat=3)]
    test, train = ([record.key for record in rows if record.split == split] for split in ("test", "train"))
    exact = [Pair(test[0], other, "bytes") for other in (test[1], test[2], train[0])]
    subject = Subject(data_of(rows), None, exact)
    assert checks.splits.leaks(subject, exact) == set(test[:3])
    (finding,) = CHECKS["copies"](subject)
    assert (finding.severity, finding.text.partition(": ")[2][:6], finding.together) == (
        "error", "3 of 4", ((*test[:3], train[0]),))  # fmt: skip
    assert "75.0 points too good" in finding.effect


def test_what_is_like_one_copy_is_like_all_of_them() -> None:
    rows = [*records("train", cat=2, dog=1), *records("test", cat=2)]
    cat, other, dog, copy, _ = (record.key for record in rows)
    pairs = [Pair(cat, copy, "bytes"), Pair(cat, other, "near", 0.95), Pair(copy, dog, "near", 0.94)]
    subject = Subject(data_of(rows), None, pairs)
    (near,) = CHECKS["near"](subject)
    assert (near.severity, near.together) == ("error", (tuple(sorted((cat, other, dog, copy))),))
    (wrong,) = CHECKS["contradictions"](subject)
    assert (wrong.severity, set(wrong.records)) == ("warning", {cat, copy, dog})
    assert wrong.text == "1 picture with two classes, 0 of them as exact copies"


def test_all_copies_of_a_picture_with_two_classes_are_named() -> None:
    rows = records("train", cat=2, dog=1)
    one, two, dog = (record.key for record in rows)
    (wrong,) = CHECKS["contradictions"](
        Subject(data_of(rows), None, [Pair(one, two, "bytes"), Pair(one, dog, "pixels")])
    )
    assert (wrong.severity, wrong.together) == ("error", ((one, two, dog),))
    assert wrong.text == "1 picture with two classes, 1 of them as exact copies"


# ── labels ──


def test_suspect_labels_are_those_that_were_changed() -> None:
    values, true = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    changed = rng.choice(len(true), len(true) // 20, replace=False)
    given = true.copy()
    given[changed] = (true[changed] + rng.integers(1, 10, len(changed))) % 10
    probabilities = labels.out_of_fold(values.astype(np.float32), given, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    rows, better = labels.suspect_rows(probabilities, given)
    first = rows[: len(changed)]
    assert np.isin(first, changed).mean() > 0.8
    assert (better[: len(changed)][np.isin(first, changed)] == true[first[np.isin(first, changed)]]).mean() > 0.9


def test_confident_learning_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8], [0.86, 0.14], [0.1, 0.9]])
    targets = np.array([0, 0, 1, 1, 1, -1])  # thresholds: 0.85 and (0.7 + 0.8 + 0.14) / 3 = 0.55
    rows, better = labels.suspect_rows(probabilities, targets)
    assert (rows.tolist(), better.tolist()) == ([4], [0])


def test_copies_do_not_vouch_for_one_another() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 2000)).astype(np.float32)
    targets = np.arange(40) % 2
    twice, both = np.concatenate([vectors, vectors]), np.concatenate([targets, targets])
    alone = labels.out_of_fold(twice, both, 2)
    grouped = labels.out_of_fold(twice, both, 2, {row: str(row % 40) for row in range(80)})
    right = [(p.argmax(axis=1) == both).mean() for p in (alone, grouped)]
    assert right[0] > 0.8
    assert right[1] < 0.7


def test_a_patient_does_not_vouch_for_himself() -> None:
    rng = np.random.default_rng(0)
    rows = [dataclasses.replace(r, group=f"p{at // 4}") for at, r in enumerate(records(None, cat=40, dog=40))]
    faces = np.repeat(rng.normal(size=(20, 2000)), 4, axis=0) + rng.normal(0, 0.01, (80, 2000))
    patients = dataclasses.replace(seen(rows), vectors=faces.astype(np.float32))
    alone = dataclasses.replace(patients, data=data_of(records(None, cat=40, dog=40)))
    right = [
        (checks._probabilities(each, []).argmax(axis=1) == np.arange(80) // 40).mean() for each in (alone, patients)
    ]
    assert right[0] == 1
    assert right[1] < 0.8


@pytest.mark.parametrize(("counts", "opinions"), [((3, 3), 6), ((1, 9), 8), ((1, 3, 4), 7), ((1, 1), 0), ((2, 0), 0)])
def test_few_pictures_have_few_opinions_and_no_error(counts: tuple[int, ...], opinions: int) -> None:
    """None of a class that only its own fold has, and none in a fold whose others are of one class."""
    names = ("cat", "dog", "fox")[: len(counts)]
    rows = records(None, **dict(zip(names, counts)))
    vectors = np.random.default_rng(0).normal(size=(len(rows), 8)).astype(np.float32)
    probabilities = labels.out_of_fold(vectors, np.array([r.target for r in rows]), len(counts))
    assert np.count_nonzero(probabilities.any(axis=1)) == opinions
    few = dataclasses.replace(seen(rows), data=data_of(rows, names), vectors=vectors)
    told = CHECKS["labels"](Subject(few.data, few, (), probabilities))
    assert any("not looked for: suspect labels" in finding.text for finding in told) == (opinions == 0)


def test_no_opinion_makes_no_label_suspect() -> None:
    rows = records(None, cat=19, dog=21)
    probabilities = np.array([[0.9, 0.1]] * 19 + [[0.1, 0.9]] * 19 + [[0.0, 0.0], [0.95, 0.05]])
    (finding,) = CHECKS["labels"](Subject(data_of(rows), seen(rows), (), probabilities))
    assert finding.records == (rows[-1].key,)
    assert finding.text.startswith("1 of 39 (2.6 %) labels are suspect")


def test_suspects_are_named_with_what_they_look_like() -> None:
    rows = records(None, cat=20, dog=20)
    probabilities = np.array([[0.9, 0.1]] * 20 + [[0.1, 0.9]] * 19 + [[0.95, 0.05]])
    (finding,) = CHECKS["labels"](Subject(data_of(rows), seen(rows), (), probabilities))
    assert finding.records == (rows[-1].key,)
    assert finding.details[rows[-1].key] == "labelled dog, looks like cat (0.95)"


# ── pictures and shortcuts ──


def test_masks_that_were_set_aside_are_no_damage() -> None:
    refused = (Refusal("a_mask.png", "mask", "beside a.jpg"), Refusal("b.jpg", "truncated", "cut"))
    damage, aside = CHECKS["unreadable"](Subject(data_of(records(None, cat=2, dog=2), refused=refused)))
    assert (damage.severity, damage.records) == ("warning", ("b.jpg",))
    assert (aside.severity, aside.records, aside.do) == ("note", ("a_mask.png",), "nothing, if that is meant so")


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("dark", {"red": 5, "green": 5, "blue": 5}),
        ("bright", {"red": 250, "green": 250, "blue": 250}),
        ("flat", {"contrast": 1}),
        ("blurred", {"sharpness": 0.5}),
        ("tiny", {"width": 12, "height": 12}),
        ("narrow", {"width": 900}),
        ("gray", {"red": 90, "green": 90, "blue": 90, "border red": 9, "border blue": 9}),
    ],
)
def test_each_kind_of_odd_picture(name: str, facts: dict[str, float]) -> None:
    rows = records(None, cat=40, dog=40)
    usual = seen(rows)
    usual.facts[7, [looks.FACTS.index(fact) for fact in facts]] = [*facts.values()]
    (finding,) = CHECKS["odd"](Subject(data_of(rows), usual))
    assert finding.records == (rows[7].key,)
    assert finding.details[rows[7].key].startswith(name)


def test_what_is_measured_of_a_picture() -> None:
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:4], picture[-4:], picture[:, :4], picture[:, -4:] = (9, 99, 199), (9, 99, 199), (9, 99, 199), (9, 99, 199)
    facts = dict(zip(looks.FACTS, looks.facts(picture, 1234)))
    assert (facts["width"], facts["height"], facts["bytes"]) == (200, 100, 1234)
    assert [facts[f"border {c}"] for c in ("red", "green", "blue")] == [9, 99, 199]
    assert facts["border contrast"] == 0
    assert facts["blue"] == pytest.approx(picture[..., 2].mean())


@pytest.mark.parametrize("size", [(300, 400), (900, 1200), (1600, 1700)])
def test_what_is_measured_depends_on_no_format_and_on_no_probe(tmp_path: Path, size: tuple[int, int]) -> None:
    blobs = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(blobs).resize(size[::-1], Image.Resampling.BICUBIC).save(tmp_path / name, quality=95)
    data = dataclasses.replace(data_of([Record("a.jpg", 0), Record("b.png", 1)]), store=sources.FolderStore(tmp_path))
    probe = looks.Probe(Preprocessing(320), lambda prepared: np.zeros((len(prepared), 1), np.float32))
    (alone, png), (beside, _) = (finished(looks.look(data, probe=each)).facts for each in (None, probe))
    same = [at for at, name in enumerate(looks.FACTS) if name != "bytes"]
    np.testing.assert_allclose(alone[same], png[same], rtol=0.06)
    np.testing.assert_allclose(alone[same], beside[same], rtol=0.06)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("the border", {"border red": 128.0, "border green": 128.0, "border blue": 128.0, "border contrast": 0.0}),
        ("the picture's size", {"width": 333.0}),
        ("the file's bytes per pixel", {"bytes": 40_000.0}),
        ("the mean colour", {"blue": 180.0}),
    ],
)
def test_a_planted_shortcut_is_named_in_words(name: str, facts: dict[str, float]) -> None:
    rows = records(None, cat=60, dog=60, fox=60, owl=60)
    usual = seen(rows)
    usual = dataclasses.replace(usual, data=data_of(rows, ("cat", "dog", "fox", "owl")))
    assert CHECKS["shortcuts"](Subject(usual.data, usual)) == []
    for fact, value in facts.items():
        usual.facts[60:120, looks.FACTS.index(fact)] = value
    findings = CHECKS["shortcuts"](Subject(usual.data, usual))
    (finding,) = (finding for finding in findings if finding.text.startswith(f"{name} alone tells the class of "))
    assert finding.severity == "warning"
    assert re.search(r"gives away 'dog' \(F1 (1\.00|0\.9\d)\)", finding.text)


def test_file_types_are_a_shortcut_too() -> None:
    rows = records(None, cat=60, dog=60)
    usual = dataclasses.replace(seen(rows), formats=("PNG",) * 60 + ("JPEG",) * 60)
    (finding,) = CHECKS["shortcuts"](Subject(usual.data, usual))
    assert "the file's type alone tells the class of 100.0%" in finding.text


def test_classes_of_few_pictures_are_folded_all_the_same() -> None:
    names = tuple(f"c{number:02d}" for number in range(30))
    rows = records(None, **dict.fromkeys(names, 4))
    usual = dataclasses.replace(seen(rows), data=data_of(rows, names))
    assert CHECKS["shortcuts"](Subject(usual.data, usual)) == []


def test_what_tells_patients_apart_is_no_shortcut_to_the_class() -> None:
    """Each patient has a width of his own: it tells whom one sees, and so the class of whoever was seen before."""
    rows = records(None, cat=60, dog=60)
    widths = np.random.default_rng(0).permutation(12).repeat(10) * 50.0 + 100
    usual = seen(rows, width=widths)
    assert "the picture's size" in CHECKS["shortcuts"](Subject(usual.data, usual))[0].text
    grouped = [dataclasses.replace(r, group=f"p{at // 10}") for at, r in enumerate(rows)]
    usual = dataclasses.replace(usual, data=data_of(grouped))
    assert CHECKS["shortcuts"](Subject(usual.data, usual)) == []
    one = dataclasses.replace(usual, data=data_of([dataclasses.replace(r, group="p") for r in rows]))
    assert found(CHECKS["shortcuts"](Subject(one.data, one)), "shortcuts").severity == "note"


def test_few_pictures_have_no_shortcuts() -> None:
    rows = records(None, cat=20, dog=20)
    usual = seen(rows, width=np.arange(40.0))
    assert len(rows) < shortcuts.FEWEST
    assert CHECKS["shortcuts"](Subject(usual.data, usual)) == []


# ── the report ──

EVIL = "<img src=x onerror=alert(1)>"


def evil_report() -> checks.Report:
    store = ArrayStore({f"{EVIL}.jpg": np.zeros((300, 200, 3), np.uint8), "b\udce9.jpg": np.ones((9, 9), np.uint8)})
    rows = (Record(f"{EVIL}.jpg", 0), Record("b\udce9.jpg", 1))
    data = Dataset("{{ 7*7 }}", rows, (EVIL, "{% x %}"), store, "", (Refusal("</script>", "empty", "no bytes"),))
    finding = Finding("near", "note", f"{EVIL} text", "effect", "do", tuple(store.pictures), (tuple(store.pictures),))
    return checks.Report(data, (finding,))


def test_names_are_escaped_in_the_page(tmp_path: Path) -> None:
    evil_report().save(tmp_path / "check.html")
    text = (tmp_path / "check.html").read_text(encoding="utf-8")
    assert EVIL not in text
    assert text.count("<script") == text.count("</script>") == 1
    assert "{{ 7*7 }}" in text
    assert text.count("data:image/png;base64,") == 2
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=\"?https?:", text)


def test_the_report_as_json(tmp_path: Path) -> None:
    evil_report().save(tmp_path / "check.json")
    facts = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert facts["pictures"] == 2
    assert facts["findings"][0]["kind"] == "near"
    assert facts["findings"][0]["records"] == [f"{EVIL}.jpg", "b\udce9.jpg"]
    with pytest.raises(MachineError):
        evil_report().save(tmp_path / "none" / "check.html")


def test_a_page_shows_so_many_pictures_and_says_nothing_where_nothing_is(monkeypatch) -> None:
    monkeypatch.setattr(checks.page, "SHOWN", 1)
    report = evil_report()
    text = checks.page.html(report.data, report.findings)
    assert text.count("data:image/png;base64,") == 1
    assert "Nothing was found" in checks.page.html(report.data, ())


@pytest.mark.browser
def test_choices_in_a_browser_become_fixes_that_are_read(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("needs Chromium")
    report = evil_report()
    page = checks.page.html(report.data, report.findings)
    # Chooses as a user would, and puts what would be saved where it can be read.
    acts = """<script>
      const boxes = document.querySelectorAll("select"), kept = [];
      URL.createObjectURL = blob => { kept.push(blob); return "#"; };
      boxes[1].selectedIndex = 2; boxes[1].dispatchEvent(new Event("change"));
      boxes[0].selectedIndex = 2; boxes[0].dispatchEvent(new Event("change"));
      document.getElementById("save").click();
      kept[0].text().then(text => { document.title = "saved:" + btoa(unescape(encodeURIComponent(text))); });
    </script>"""
    (tmp_path / "page.html").write_text(page.replace("</body>", acts + "</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    address = (tmp_path / "page.html").as_uri()
    done = subprocess.run([browser, *options, address], capture_output=True, text=True, timeout=60, check=True)
    saved = re.search(r"<title>saved:([^<]*)</title>", done.stdout)
    assert saved, done.stdout[-500:]
    (tmp_path / "fixes.csv").write_bytes(base64.b64decode(saved[1]))
    fixed = checks.read_fixes(tmp_path / "fixes.csv")
    assert fixed.pop(f"{EVIL}.jpg") == checks.Fix("relabel", EVIL, "near")
    assert [*fixed.values()] == [checks.Fix("same-group", f"{EVIL}.jpg", "near")]


# ── fixes ──


def fixes(path: Path, *rows: tuple[str, ...]) -> Path:
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("record", "action", "value", "reason"), *rows])
    return path


def test_fixes_make_a_new_table_and_change_nothing_else(folder: Path, tmp_path: Path) -> None:
    data = sources.read(folder)
    decided = fixes(
        tmp_path / "fixes.csv",
        ("train/b/wrong.jpg", "relabel", "a", "contradictions"),
        ("test/a/copy.jpg", "exclude", "", "copies"),
        ("train/a/02.jpg", "same-group", "g", "near"),
        ("train/a/06.jpg", "keep", "", ""),
    )
    before = {path: path.read_bytes() for path in folder.rglob("*.jpg")}
    assert checks.apply(data, checks.read_fixes(decided), folder / "fixed.csv") == 3
    assert {path: path.read_bytes() for path in folder.rglob("*.jpg")} == before
    after = sources.read(folder / "fixed.csv")
    assert len(after) == len(data) - 1
    of = {record.key: record for record in after.records}
    assert of["train/b/wrong.jpg"].target == 0
    assert of["train/a/02.jpg"].group == "g"
    assert [r.code for r in after.refused] == ["no-class"]
    assert {r.split for r in after.records} == {"train", "test"}
    assert "exclude,copies" in (folder / "fixed.csv").read_text()
    with pytest.raises(MachineError, match="could not write"):
        checks.apply(data, {}, folder / "fixed.csv")


def test_the_same_group_divides_no_patient(tmp_path: Path) -> None:
    groups = {"a": "p3", "b": "p3", "c": "p7", "d": "p7", "e": "p7", "f": None, "g": None, "h": None, "i": "p9"}
    root = folder_of({f"{key}.jpg": key.encode() for key in groups}, tmp_path)
    data = data_of([Record(f"{key}.jpg", at % 2, None, group) for at, (key, group) in enumerate(groups.items())])
    asked = {"c.jpg": "a.jpg", "g.jpg": "f.jpg", "h.jpg": "p9"}
    checks.apply(data, {key: checks.Fix("same-group", value) for key, value in asked.items()}, root / "new.csv")
    after = {record.key[0]: record.group for record in sources.read(root / "new.csv").records}
    assert after == dict.fromkeys("abcde", "p3") | dict.fromkeys("fg", "f.jpg") | dict.fromkeys("hi", "p9")


@POSIX
def test_fixes_of_names_in_any_bytes_are_read_again(tmp_path: Path) -> None:
    names = ["\udcfc.jpg", "ü.jpg", "\udce4.jpg", "b.jpg"]
    root = folder_of({name: bytes([at]) for at, name in enumerate(names)}, tmp_path)
    data = data_of([Record(name, at % 2) for at, name in enumerate(names)])
    checks.apply(data, {"b.jpg": checks.Fix("relabel", "cat")}, root / "new.csv")
    after = sources.read(root / "new.csv")
    assert ({r.key: r.target for r in after.records}, after.refused) == (dict(zip(names, (0, 1, 0, 0))), ())


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("train/a/02.jpg", "same-group", "", ""), "expected another record, or a name"),
        (("train/a/02.jpg", "delete", "", ""), "one of keep, exclude"),
        (("train/a/none.jpg", "exclude", "", ""), "does not have"),
        (("train/a/02.jpg", "relabel", "fox", ""), "one of a, b"),
    ],
)
def test_fixes_that_cannot_be_followed(folder: Path, tmp_path: Path, row: tuple[str, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        checks.apply(sources.read(folder), checks.read_fixes(fixes(tmp_path / "f.csv", row)), tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_file_of_fixes_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        checks.read_fixes(tmp_path / "none.csv")
    (tmp_path / "f.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="columns record, action"):
        checks.read_fixes(tmp_path / "f.csv")
    twice = fixes(tmp_path / "f.csv", ("a", "keep", "", ""), ("a", "exclude", "", ""))
    with pytest.raises(DataError, match="two things of 'a'"):
        checks.read_fixes(twice)


def test_formulas_in_a_new_table_are_guarded(tmp_path: Path) -> None:
    data = data_of([Record("=1+1.jpg", 0), Record("b.jpg", 1)])
    checks.apply(data, {"b.jpg": checks.Fix("exclude", "", "@SUM(A1)")}, tmp_path / "out.csv")
    rows = list(csv.reader(io.StringIO((tmp_path / "out.csv").read_text())))
    assert rows[1][0] == "'=1+1.jpg"
    assert rows[2] == ["b.jpg", "", "", "", "exclude", "'@SUM(A1)"]


# ── the command ──


def test_the_command(folder: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.run(["check", str(folder), "--no-labels"]) == 0
    out = capsys.readouterr().out
    assert "exact copies across splits" in out
    assert "check.html" in out
    assert (tmp_path / "check.html").stat().st_size > 10_000
    assert cli.run(["check", str(folder), "--no-labels", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {finding["kind"] for finding in facts["findings"]} >= {"copies", "near", "contradictions", "odd"}
    decided = fixes(tmp_path / "fixes.csv", ("test/a/copy.jpg", "exclude", "", "copies"))
    assert cli.run(["check", str(folder), "--apply", str(decided)]) == 0
    assert "1 records changed" in capsys.readouterr().out
    assert (folder / "fixed.csv").exists()
    assert cli.run(["check", str(folder), "--apply", str(decided), "--out", str(tmp_path / "new.csv")]) == 2
    assert "its paths are relative to it" in capsys.readouterr().err
    assert not (tmp_path / "new.csv").exists()
