"""The page as a file: whole, one piece, nothing let in, nothing overwritten."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import throughtime as tt
from tests.view import studies
from throughtime.errors import InputError
from throughtime.view.markup import VOID
from throughtime.view.report import page as drawn
from throughtime.view.subject import subject

NAMES = sorted(studies.ALL)
QUESTIONS = (
    "How far back does it learn, and is that enough?",
    "What was trained, and how do I repeat it?",
    "Did it learn, and does it beat the obvious baseline?",
    "What gradient survives at each lag, against its bounds and against the untrained net?",
    "Which step blames which?",
    "What did the gates write, keep and erase?",
    "Was clipping a safety net or a step-size limiter?",
    "What to do first, and what check would prove the advice wrong?",
    "What was not measured?",
)
TEXTS = {"h1", "h2", "p", "b", "code", "td", "script", "style"}  # the elements whose text is asked for


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, the text in each, and whether all are closed."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.elements: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: dict[int, str] = {}
        self.places: list[int] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), tuple(name for name, _ in self.open)))
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))
            self.places.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1][0] == tag, f"</{tag}> closes <{self.open[-1][0]}>"
        self.open.pop()
        self.places.pop()

    def handle_data(self, data: str) -> None:
        for place in self.places:
            if self.elements[place][0] in TEXTS:
                self.texts[place] = self.texts.get(place, "") + data

    def text_of(self, tag: str, **wanted: str) -> list[str]:
        return [
            self.texts.get(i, "")
            for i, (name, attributes, _) in enumerate(self.elements)
            if name == tag and all(attributes.get(key.rstrip("_")) == value for key, value in wanted.items())
        ]


def asked_always(page: Page) -> tuple[str, ...]:
    """The questions of a page less those that only some records answer."""
    return tuple(question for question in page.text_of("h2") if question in QUESTIONS)


@pytest.fixture(scope="module", params=NAMES)
def text(request, drawn) -> str:
    return drawn(request.param).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


def test_is_balanced_and_its_anchors_are_unique(page):
    assert page.open == []
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for tag, attributes, _ in page.elements if tag == "a"}
    assert targets <= set(ids)


def test_answers_every_question_in_one_headline(page):
    assert asked_always(page) == QUESTIONS
    headlines = page.text_of("p", class_="headline")
    assert len(headlines) == len(page.text_of("h2"))
    assert all(line.strip().endswith(".") for line in headlines), headlines


def test_every_figure_has_a_title_a_note_data_and_a_table(text, page):
    figures = re.findall(r"<figure.*?</figure>", text, re.S)
    assert len(figures) == sum(tag == "figure" for tag, _, _ in page.elements)
    for written in figures:
        inside = Page(written)
        assert inside.text_of("b")[0]
        assert inside.text_of("p", class_="note")[0]
        assert sum(tag == "table" for tag, _, _ in inside.elements) >= 1
        assert len(inside.text_of("td")) >= 1
        spec = json.loads(inside.text_of("script", type="application/json")[0])
        assert spec["kind"] in ("lines", "map", "strip", "bars")


def test_reaches_for_nothing(page):
    """No attribute names an address, no style fetches, and the policy lets in what the page holds and nothing else."""
    for tag, attributes, _ in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base", "form", "audio", "video"), tag
        assert not {"src", "srcset", "action", "style", "background"} & attributes.keys(), attributes
        assert not [name for name in attributes if name.startswith("on")], attributes
        assert attributes.get("href", "#").startswith("#")
    style = page.text_of("style")
    assert "url(" not in style[0]
    assert "@import" not in style[0]
    assert "@font-face" not in style[0]
    policy = next(a["content"] for t, a, _ in page.elements if t == "meta" and a.get("http-equiv"))
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    scripts = [s for s in page.text_of("script") if s not in page.text_of("script", type="application/json")]
    for source, contents in (("script-src", scripts), ("style-src", style)):
        hashes = [base64.b64encode(hashlib.sha256(c.encode()).digest()).decode() for c in contents]
        assert rules[source] == [f"'sha256-{digest}'" for digest in hashes]
    assert rules.keys() == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["img-src"] == ["blob:"]


def test_is_small_enough_to_send(text):
    assert len(text.encode()) < 1_000_000


def test_long_sequences_stay_small(tmp_path):
    long = studies.study(*(studies.run(cell, T=400, count=2000) for cell in ("elman", "lstm", "gru")))
    assert tt.report(long, tmp_path / "long.html").stat().st_size < 1_000_000


def test_what_others_wrote_is_never_markup(drawn):
    text = drawn("hostile").read_text(encoding="utf-8")
    page = Page(text)
    assert {"img", "svg"} & {tag for tag, _, _ in page.elements} == set()
    assert page.text_of("h1") == [studies.HOSTILE]
    assert studies.HOSTILE in page.text_of("code")
    assert "<img" not in text
    assert "\u2028" not in "".join(re.findall(r'<script type="application/json".*?</script>', text, re.S))
    # The text itself arrives, in the tables and in the data.
    assert studies.HOSTILE in page.text_of("td")
    strips = [json.loads(s) for s in page.text_of("script", type="application/json") if '"strip"' in s]
    assert studies.HOSTILE in strips[0]["words"]


def test_numbers_are_for_people(drawn):
    """Outside the data blocks no number has more than seven digits after its point."""
    for name in ("digits", "reviews", "broken"):
        text = re.sub(r"<(script|style).*?</\1>", "", drawn(name).read_text(encoding="utf-8"), flags=re.S)
        assert re.findall(r"\d\.\d{8,}", text) == []
        assert re.findall(r">\s*(?:nan|inf|-inf|None)\s*<", text) == []


def test_same_records_give_the_same_page(tmp_path):
    one, two = (tt.report(studies.alone(), tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == two


def test_records_that_were_written_and_read_give_the_same_page(tmp_path):
    from throughtime import records

    study = studies.reviews()
    records.write(study, tmp_path / "study.npz")
    again = records.read(records.Study, tmp_path / "study.npz")
    pages = [tt.report(s, tmp_path / n).read_bytes() for s, n in ((study, "a.html"), (again, "b.html"))]
    assert pages[0] == pages[1]


def test_never_overwrites_without_being_asked(tmp_path):
    place = tmp_path / "report.html"
    place.write_text("mine")
    with pytest.raises(InputError, match=r"exists already.*overwrite"):
        tt.report(studies.alone(), place)
    assert place.read_text() == "mine"
    assert tt.report(studies.alone(), place, overwrite=True) == place
    assert place.read_text().startswith("<!DOCTYPE html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_bad_places_and_bad_records_are_said_plainly(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        tt.report(studies.alone(), tmp_path)
    with pytest.raises(InputError, match="its folder does not exist"):
        tt.report(studies.alone(), tmp_path / "no" / "report.html")
    with pytest.raises(InputError, match="at least one record"):
        tt.report([], tmp_path / "a.html")
    with pytest.raises(InputError, match="not from str"):
        tt.report(["x"], tmp_path / "a.html")
    with pytest.raises(InputError, match="a study is one report"):
        tt.report([studies.alone(), studies.run("gru")], tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing_half_written(tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(InputError, match=r"report\.html: cannot be written \(disk full\)"):
        tt.report(studies.alone(), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", ["run", "flow", "runs", "flows", "mixed"])
def test_any_record_can_be_drawn(tmp_path, shape):
    run, other = studies.run("lstm", count=20), studies.run("gru", count=20)
    records = {
        "run": run,
        "flow": run.flows[-1],
        "runs": [run, other],
        "flows": list(run.flows),
        "mixed": [run, other.flows[-1]],
    }[shape]
    page = Page(tt.report(records, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert asked_always(page) == QUESTIONS
    assert page.open == []


def test_needs_no_torch():
    code = "import sys, throughtime.view; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_how_the_data_were_read_stands_folded_under_the_title():
    read = dataclasses.replace(
        studies.digits().data, step="row", lengths=(3, 5, 9), notes=("2 rows skipped", studies.HOSTILE)
    )
    html = drawn(subject(dataclasses.replace(studies.digits(), data=read)))
    top = html[html.index("<header") : html.index("</header>")]
    assert "<details" in top
    assert "<details open" not in top
    lines = re.findall(r"<li>(.*?)</li>", top, re.DOTALL)
    assert lines[:2] == [
        "digits: 1,257 train, 270 valid, 270 test; each has 3 to 9 rows, 5 in the middle",
        "2 rows skipped",
    ]
    assert "<img" not in lines[2]
    assert html.count("2 rows skipped") == 1
    alike = drawn(subject(dataclasses.replace(studies.digits(), data=dataclasses.replace(read, lengths=(64, 64, 64)))))
    assert "each has 64 rows<" in alike
    silent = drawn(subject(dataclasses.replace(studies.digits(), data=dataclasses.replace(read, notes=()))))
    assert "How the data were read" not in silent
