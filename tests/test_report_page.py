"""The report: what it says, that nothing of a stranger's runs in it, and how it looks in a browser."""

from __future__ import annotations

import dataclasses
import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from opsin import codecs, evaluation, metrics, reports
from opsin.classifier import Classifier
from opsin.errors import CallError
from opsin.reports import contents, page
from opsin.reports.contents import Answers
from opsin.sources import arrays
from opsin.vocabulary import Dataset, Finding, Refusal
from tiny import ROAD, Net, digits, seeded

EVIL = "<script>alert(1)</script>"


def answers(n: int = 90, classes: tuple[str, ...] = ("zero", "one", "two"), seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % len(classes)
    logits = rng.normal(size=(n, len(classes))) + 2 * np.eye(len(classes))[targets]
    return Answers("test", logits, targets, tuple(f"test/{i}.png" for i in range(n)), None, classes)


def contents_of(found: Answers, **facts: object) -> dict:
    return contents.of_test(found, temperature=1.0, thresholds={}, facts=facts)


@pytest.fixture
def data() -> Dataset:
    found = digits(each=40)
    records = tuple(dataclasses.replace(r, split="test" if i % 2 else "train") for i, r in enumerate(found.records))
    refused = (Refusal("bad.jpg", "truncated", "the end is missing"), Refusal("x.txt", "not-a-picture", "no picture"))
    return dataclasses.replace(found, records=records, refused=refused)


@pytest.fixture
def run(tmp_path: Path, data: Dataset) -> Path:
    """The folder of a finished run, as far as a report looks into it."""
    folder = tmp_path / "digits-1"
    (folder / "model").mkdir(parents=True)
    part = data.test
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(len(part), 3)) + 1.5 * np.eye(3)[[r.target for r in part.records]]
    evaluation.save_logits(folder / "logits" / "test.npz", part, logits, data.classes)
    recipe = {"name": "textbook", "seed": 3, "model": {"network": "small"}, "pixels": {"size": 8, "fit": "crop"}}
    facts = {"name": "digits", "largest class": "one", "fingerprint": "f00", "recipe": recipe}
    described = {"temperature": 2.0, "thresholds": {"one": 0.9}, "facts": facts}
    known = {
        "source": "digits.zip",
        "group": "",
        "counts": {split: data.part(split).counts() for split in ("train", "val", "test")},
        "notes": ["something was noticed"],
        "refused": [dataclasses.asdict(r) for r in data.refused],
    }
    epochs = [
        {
            "kind": "epoch",
            "epoch": e,
            "step": e,
            "values": {"training loss": 2 / e, "loss": 2.5 / e, "accuracy": 0.2 * e},
        }
        for e in (1, 2, 3)
    ]
    plan = {"engine": "torch", "device": "cpu", "precision": "fp32", "threads": 2}
    (folder / "model" / "opsin.json").write_text(json.dumps(described))
    (folder / "data.json").write_text(json.dumps(known))
    (folder / "plan.json").write_text(json.dumps({"training": plan}))
    (folder / "events.jsonl").write_text("\n".join(map(json.dumps, epochs)) + "\n")
    return folder


class Parsed(html.parser.HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# ---- what it says


def test_a_run_is_reported_whole(run: Path, data: Dataset) -> None:
    wrong = Finding("leak", "error", "5 pictures are in train and test.", "The score is too good.", "Divide anew.")
    found = reports.of_run(run, data, seconds={"training": 75.0}, findings=[wrong])
    file = reports.write(found, run, store=data.store)
    text = " ".join(Parsed(file.read_text(encoding="utf-8")).text.split())
    for said in (
        "digits", "recipe “textbook”", "120 pictures from digits.zip", "Not used: 2 files", "1 × truncated",
        "something was noticed", "always “one”", "Temperature 2.000", "“one” is named from 90.0 % certainty on",
        "brightness", "training: 1 min 15 s", "training: torch on cpu in fp32, 2 threads",
        "opsin predict digits-1", "Fingerprint of the data: f00",
        "makes the scores wrong: 5 pictures are in train and test. The score is too good. Divide anew.",
        "/digits-1/recipe.toml", "Loss (smaller is better)",
    ):  # fmt: skip
        assert said in text, said
    assert json.loads((run / "report.json").read_text()) == found


def test_scores_are_at_the_temperature(run: Path) -> None:
    found = reports.of_run(run)
    with np.load(run / "logits" / "test.npz") as kept:
        rows = kept["logits"] / 2.0
        said = metrics.named(metrics.softmax(rows), {1: 0.9})  # and under the model's threshold
        expected = metrics.score(rows, kept["targets"], ("zero", "one", "two"), largest=1, answers=said)
    assert metrics.from_dict(found["scores"]) == expected
    assert found["calibration"]["before"] != found["calibration"]["after"]


def test_what_is_shown_is_what_went_wrong() -> None:
    found = answers()
    c, said = contents_of(found), found.logits.argmax(1)
    wrong = said != found.targets
    assert sum(pair["count"] for pair in c["confusions"]) == wrong.sum()
    assert [pair["count"] for pair in c["confusions"]] == sorted((p["count"] for p in c["confusions"]), reverse=True)
    place = {key: i for i, key in enumerate(found.keys)}
    for pair in c["confusions"]:
        for key in pair["keys"]:
            assert found.classes[found.targets[place[key]]] == pair["true"]
            assert found.classes[said[place[key]]] == pair["said"]
    sure = metrics.softmax(found.logits).max(axis=1)
    assert c["mistakes"][0]["probability"] == sure[wrong].max()
    assert all(wrong[place[mistake["key"]]] for mistake in c["mistakes"])


def test_groups_are_counted_and_widen_the_intervals() -> None:
    alone, found = contents_of(answers()), answers()
    grouped = contents_of(dataclasses.replace(found, groups=tuple(str(i // 10) for i in range(90))))
    assert (alone["groups"], grouped["groups"]) == (None, 9)
    assert grouped["scores"]["overall"]["accuracy"]["low"] != alone["scores"]["overall"]["accuracy"]["low"]
    assert any("whole groups" in sentence for sentence in grouped["summary"])
    assert {one["column"] for one in grouped["slices"]} == {"group"}


def test_slices_count_what_is_said_as_the_headline_does() -> None:
    """Unsure is never right: not of all pictures, and not of some."""
    plain = answers(200)
    found = dataclasses.replace(plain, groups=tuple("ab"[i // 100] for i in range(200)))
    told = contents.of_test(found, temperature=1.0, thresholds={"two": 0.3}, facts={}, unsure_below=0.9)
    right = told["scores"]["overall"]["accuracy"]["value"]
    assert right < (plain.logits.argmax(1) == plain.targets).mean() - 0.1
    assert [one["accuracy"]["n"] for one in told["slices"]] == [100, 100]
    assert np.mean([one["accuracy"]["value"] for one in told["slices"]]) == pytest.approx(right)


@pytest.mark.parametrize(
    ("right", "says"), [(0.99, "clearly better"), (0.55, "not clearly better"), (0.2, "no better than no skill")]
)
def test_the_summary_compares_with_no_skill(right: float, says: str) -> None:
    n = 200
    targets = np.arange(n) % 2
    answers = np.where(np.arange(n) < right * n, targets, 1 - targets)
    found = Answers("test", np.eye(2)[answers], targets, tuple(map(str, range(n))), None, ("a", "b"))
    assert says in contents_of(found, **{"largest class": "a"})["summary"][1]


def test_a_perfect_test_and_a_test_of_one_class_are_reported() -> None:
    perfect = Answers("val", np.eye(2)[[0, 1, 0, 1]] * 9, np.array([0, 1, 0, 1]), tuple("abcd"), None, ("a", "b"))
    text = page.render(contents_of(perfect))
    assert "It made no mistake" in text
    assert "validation" in text
    one = Answers("test", np.eye(2)[[0, 1]], np.array([0, 0]), tuple("ab"), None, ("a", "b"))
    assert "1 classes were not tested" in page.render(contents_of(one))


def test_an_evaluation_is_reported(data: Dataset) -> None:
    clf = Classifier(seeded(Net), None, ROAD, data.classes, temperature=1.5)
    part = data.test
    keys = tuple(r.key for r in part.records)
    targets = np.array([r.target for r in part.records])
    found = Answers("all", np.eye(3)[targets[::-1]], targets, keys, None, data.classes)
    c = reports.of_classifier(clf, found, part)
    assert c["data"]["counts"] == {"all": part.counts()}
    assert "60 pictures" in Parsed(page.render(c)).text


def test_a_run_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="no answers"):
        reports.of_run(tmp_path)


def test_two_thousand_classes_are_folded() -> None:
    names = tuple(f"class {i}" for i in range(2000))
    c = contents_of(answers(200, names[:40]))
    many = {"recall": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 4}}
    many |= {"precision": many["recall"], "F1": many["recall"]}
    c["scores"] |= {"classes": list(names), "per_class": dict.fromkeys(names, many)}
    c["asked"]["classes"] = list(names)
    text = page.render(c)
    assert len(text) < 1_000_000
    assert text.count('class="matrix"') == 0
    assert text.index("The other 1,980 classes") < text.index("class 999 ")
    assert "and 1970 more" in text


# ---- what it must not do


def test_names_of_strangers_are_text() -> None:
    found = answers(60, (EVIL, "a' onclick='x", "{{ 7 * 7 }}"))
    keys = tuple(f'{EVIL}/{i}" onerror="alert(1)' for i in range(60))
    c = contents_of(dataclasses.replace(found, keys=keys), name=EVIL)
    parsed = Parsed(page.render(c, {keys[i]: "data:image/png;base64,AA" for i in range(60)}))
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert "{{ 7 * 7 }}" in parsed.text
    assert EVIL in parsed.text
    card = reports.markdown(c)
    assert EVIL not in card
    assert "\\<script\\>" in card


def test_names_that_are_no_utf8_are_written(tmp_path: Path) -> None:
    odd = "caf\udce9"
    reports.write(contents_of(answers(30, (odd, "b")), name=odd), tmp_path)
    assert "caf" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_outside_is_asked_for(run: Path, data: Dataset) -> None:
    file = reports.write(reports.of_run(run, data), run, store=data.store)
    parsed = Parsed(file.read_text(encoding="utf-8"))
    addresses = [a[k] for _, a in parsed.tags for k in ("src", "href", "action", "data", "srcset") if a.get(k)]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    (policy,) = [a["content"] for tag, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "url(" not in file.read_text(encoding="utf-8")


def test_pictures_can_be_left_out(run: Path, data: Dataset) -> None:
    found = reports.of_run(run, data)
    shown = reports.write(found, run, store=data.store).read_text(encoding="utf-8")
    hidden = reports.write(found, run, store=data.store, pictures=False).read_text(encoding="utf-8")
    assert shown.count("<img") >= 5
    assert "<img" not in hidden
    assert "data:image" not in hidden
    assert "holds no pictures" in hidden


def test_every_picture_and_chart_has_words_and_every_anchor_its_place(run: Path, data: Dataset) -> None:
    parsed = Parsed(reports.write(reports.of_run(run, data), run, store=data.store).read_text(encoding="utf-8"))
    assert all(a.get("alt") for tag, a in parsed.tags if tag == "img")
    assert all(a.get("aria-label") or a.get("aria-hidden") or a.get("x") for tag, a in parsed.tags if tag == "svg")
    ids = {a["id"] for _, a in parsed.tags if "id" in a}
    assert {a["href"][1:] for tag, a in parsed.tags if tag == "a"} <= ids
    assert {a["aria-labelledby"] for _, a in parsed.tags if "aria-labelledby" in a} <= ids


def test_thumbnails_are_small_and_the_rest_is_left_out() -> None:
    images = np.full((2, 300, 600, 3), 90, np.uint8)
    data = arrays.dataset("x", {None: (images, np.array([0, 1]))}, ("a", "b"))
    key = data.records[0].key
    found = page.thumbnails(data.store, [key, key])
    assert list(found) == [key]
    import base64

    picture = codecs.decode(base64.b64decode(found[key].partition(",")[2]))
    assert picture.shape == (56, 112, 3)
    assert np.unique(picture).tolist() == [90]
    assert page.smaller(images[0, :20, :30]).shape == (20, 30, 3)

    class Broken:
        def read(self, key: str) -> bytes:
            return b"no picture"

    assert page.thumbnails(Broken(), ["a"]) == {}


def test_the_card_has_the_same_numbers() -> None:
    c = contents_of(answers())
    card = reports.markdown(c)
    for name, found in c["scores"]["overall"].items():
        assert f"| {name} | {page.score(found)} |" in card
    assert re.search(r"\| zero \| 30 \|", card)


# ---- in a browser


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390)])
def test_a_browser_shows_it(run: Path, data: Dataset, scheme: str, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    file = reports.write(reports.of_run(run, data), run, store=data.store)
    asked, told = [], []
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        view.on("request", lambda request: asked.append(request.url))
        view.on("console", lambda message: told.append(message.text))
        view.on("pageerror", lambda error: told.append(str(error)))
        view.goto(file.as_uri())
        wider = view.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        broken = view.evaluate("[...document.images].filter(i => !i.naturalWidth).length")
        view.keyboard.press("Tab")
        focused = view.evaluate("document.activeElement.className")
        browser.close()
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert (told, wider, broken, focused) == ([], 0, 0, "skip")
