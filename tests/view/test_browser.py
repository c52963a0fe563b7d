"""The page in a browser: silent, drawn, read by keyboard, saved as files; wide and narrow, light and dark, on paper."""

from __future__ import annotations

import csv
import io
import math
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.view import studies

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1400, "height": 900}, {"width": 420, "height": 900}
# Pixels of each canvas in a figure that differ from its first one.
INK = """() => [...document.querySelectorAll('[data-figure]')].map(home => {
  let ink = 0
  for (const canvas of home.querySelectorAll('canvas')) {
    const pixels = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)
    for (const pixel of pixels) if (pixel !== pixels[0]) ink++
  }
  return [home.dataset.figure, ink]
})"""
HOLDER = """document.activeElement.closest('.canvas, .legend, .save, nav, summary, .copy')?.className
  ?? document.activeElement.tagName"""
WATCH = """addEventListener('securitypolicyviolation',
  event => console.error('policy: ' + event.violatedDirective + ' ' + event.blockedURI))"""


@pytest.fixture
def visit(browser, drawn):
    """Open a study's page; whatever the page says, asks for or violates ends the test."""
    contexts = []
    heard: list[str] = []

    def go(name: str, *, viewport=WIDE, scheme="light", scripts=True):
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, java_script_enabled=scripts, accept_downloads=True
        )
        contexts.append(context)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: heard.append(f"dialog: {dialog.message}"))
        address = drawn(name).as_uri()
        # A picture becomes a PNG through an address of its own making; anything else is a request to somewhere.
        page.on(
            "request",
            lambda r: None if r.url.split("#")[0] == address or r.url.startswith("blob:") else heard.append(r.url),
        )
        page.goto(address)
        if scripts:
            page.wait_for_function(
                "() => [...document.querySelectorAll('[data-figure]')].every(home => home.querySelector('canvas'))"
            )
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return page

    yield go
    for context in contexts:
        context.close()
    assert heard == []


def saved(page, figure: str, kind: str) -> bytes:
    with page.expect_download() as download:
        page.click(f"#{figure} .save button:text-is('{kind}')")
    with open(download.value.path(), "rb") as file:
        return file.read()


def rows(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))


def number(text: str) -> float:
    return float(text) if text else math.nan


@pytest.mark.parametrize(("viewport", "scheme"), [(WIDE, "light"), (NARROW, "dark")], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", ["digits", "last", "reviews", "hostile", "blank", "zeros", "broken", "unmeasured"])
def test_every_figure_is_drawn_and_nothing_is_said(visit, name, viewport, scheme):
    page = visit(name, viewport=viewport, scheme=scheme)
    for figure, ink in page.evaluate(INK):
        assert ink > 200, f"{figure} is blank"
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= viewport["width"], "the page runs out of the window"
    assert page.locator(".headline").count() == page.locator("h2").count() >= 9
    assert page.locator("img").count() == 0


def test_reads_without_scripts(visit):
    page = visit("digits", scripts=False)
    assert all(line.is_visible() for line in page.locator(".headline").all())
    figure = page.locator("#fig-lags")
    assert not figure.locator("table").is_visible()
    figure.locator("summary").click()
    assert figure.locator("table").is_visible()
    assert figure.locator("tbody tr").count() == 64
    assert page.locator("button").count() == 0


def test_the_numbers_of_a_lines_figure_come_out_as_csv(visit):
    lags = studies.digits().runs[1].flows[-1].lags
    table = rows(saved(visit("digits"), "fig-lags", "CSV"))
    assert table[0] == ["series", "lag τ, steps back", "log10 of share of the gradient left", "lower", "upper"]
    lstm = [row for row in table[1:] if row[0] == "lstm"]
    assert [int(row[1]) for row in lstm] == list(lags.lags)
    for column, expected in ((2, lags.median), (3, lags.lower), (4, lags.upper)):
        np.testing.assert_allclose([float(row[column]) for row in lstm], expected, rtol=1e-4, atol=1e-12)


def test_the_numbers_of_a_map_come_out_as_csv(visit):
    blame = studies.digits().runs[0].flows[-1].blame
    table = rows(saved(visit("digits"), "fig-blame-0", "CSV"))
    found = {(int(t), int(k)): float(v) for panel, t, k, v in table[1:] if panel == "elman, trained"}
    assert len(found) == 64 * 65 // 2
    t, k = zip(*found, strict=True)
    np.testing.assert_allclose(list(found.values()), blame[list(t), list(k)], rtol=1e-4)


def test_words_and_marks_come_out_as_csv_and_no_formula_does(visit):
    example = studies.hostile().runs[0].flows[-1].examples[0]
    table = rows(saved(visit("hostile"), "fig-example-0-0", "CSV"))
    assert [row[1].removeprefix("'") for row in table[1:]] == list(example.steps)
    assert not [row for row in table for cell in row if cell[:1] in ("=", "+", "@")]
    memory = table[0].index("log10 of still in memory")
    np.testing.assert_allclose([number(row[memory]) for row in table[1:]], example.memory, rtol=1e-4)
    blamed = [number(row[memory + 1]) for row in table[1:]]
    np.testing.assert_allclose(blamed, example.blame, rtol=1e-4)
    assert math.isnan(blamed[0])
    assert -math.inf in blamed


@pytest.mark.parametrize("figure", ["fig-horizon", "fig-lags", "fig-blame-0", "fig-example-0-0"])
def test_pictures_come_out_as_files(visit, figure):
    page = visit("hostile")
    svg = saved(page, figure, "SVG")
    root = ElementTree.fromstring(svg)
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "defs", "pattern", "rect", "path", "text"}
    assert len(list(root.iter())) > 20
    assert b"onerror=alert(1)&gt;" in svg
    png = saved(page, figure, "PNG")
    assert png.startswith(b"\x89PNG")
    assert int.from_bytes(png[16:20], "big") == 1920
    assert len(png) > 5_000


def test_the_keyboard_reaches_and_reads_everything(visit):
    page = visit("alone")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate(HOLDER))
    assert {"canvas", "canvas lines", "save", "legend", "copy"} <= reached, reached
    page.focus("#fig-lags .canvas")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#fig-lags .reading") == "lag τ, steps back 1"
    median = studies.alone().runs[0].flows[-1].lags.median[1]
    assert float(page.locator("#fig-lags .legend output").first.inner_text()) == pytest.approx(10**median, rel=1e-2)
    page.focus("#fig-blame-0 .canvas")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert "step t 62 ← step k 1, 61 back" in page.inner_text("#fig-blame-0 .reading")


def test_the_pointer_reads_and_the_legend_hides(visit):
    page = visit("reviews")
    page.hover("#fig-example-0-0 canvas", position={"x": 96, "y": 8})
    assert "word 0 the" in page.inner_text("#fig-example-0-0 .reading")
    before = page.locator("#fig-example-1-0").bounding_box()["height"]
    first = page.locator("#fig-example-1-0 .legend button").first
    first.click()
    assert first.get_attribute("aria-pressed") == "false"
    page.wait_for_function(f"document.querySelector('#fig-example-1-0').getBoundingClientRect().height < {before}")


def test_light_and_dark_can_be_chosen(visit):
    page = visit("alone", scheme="light")
    look = "getComputedStyle(document.body).backgroundColor"
    light, pixels = page.evaluate(look), page.locator("#fig-blame-0 canvas").screenshot()
    page.click("[data-theme-home] button")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.wait_for_timeout(200)
    assert page.evaluate(look) != light
    assert page.locator("#fig-blame-0 canvas").screenshot() != pixels
    assert visit("alone", scheme="dark").evaluate(look) == page.evaluate(look)


def test_prints_light_with_every_figure_as_vectors(visit):
    page = visit("alone", scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    figures = page.locator("figure").count()
    assert page.locator(".printed > svg").count() == figures
    assert page.locator("canvas:visible").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".printed").count() == 0
    assert page.pdf(format="A4").startswith(b"%PDF")
