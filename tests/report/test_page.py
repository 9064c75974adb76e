"""Pages in a real browser: they load, react, fit, make no requests, and run no text of users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from facegan.report.runs import read_run
from facegan.report.write import write_comparison, write_report
from tests.report.conftest import add_rows, edit_record, watching

PIXELS = "plot => plot.querySelector('canvas').toDataURL()"
HOSTILE = "</script><script>alert('run')</script><img src=x onerror=alert('run')>"


@pytest.fixture(scope="module")
def page(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(read_run(toy_run), tmp_path_factory.mktemp("page") / "report.html")


def test_page_loads_and_shows_grids(chromium: Any, page: Path) -> None:
    with watching(chromium) as watched:
        shown = watched.open(page)
        assert shown.title() == "discs · FaceGAN"
        assert "200 faces of 32×32" in shown.text_content(".lede")
        assert shown.locator(".chart canvas").count() >= 5
        assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        last = shown.get_attribute("#frame", "src")
        assert shown.text_content("#frame-images") == "320 images"
        watched.set("#frame-number", 0)
        assert shown.text_content("#frame-images") == "0 images"
        assert shown.get_attribute("#frame", "alt") == "Samples after 0 images"
        assert shown.get_attribute("#frame", "src") not in (None, last)
        shown.focus("#frame-number")
        shown.keyboard.press("ArrowRight")
        assert shown.text_content("#frame-images") == "64 images"
        shown.click("#play")
        shown.get_by_text("320 images", exact=True).wait_for()
        assert shown.text_content("#play") == "Play"
    assert {url for url in watched.requests if not url.startswith("data:")} == {page.as_uri()}


def test_charts_zoom_and_smooth(chromium: Any, page: Path) -> None:
    with watching(chromium) as watched:
        shown = watched.open(page)
        plot = shown.locator(".plot").first
        whole, text = plot.evaluate(PIXELS), shown.text_content("#range")
        assert text == "All: 0 – 320 images"
        shown.click("[data-zoom=in]")
        assert shown.text_content("#range") == "80 – 240 images"
        assert plot.evaluate(PIXELS) != whole
        shown.click("[data-zoom=right]")
        assert shown.text_content("#range") == "120 – 280 images"
        shown.click("[data-zoom=all]")
        assert shown.text_content("#range") == text
        box = plot.locator(".u-over").bounding_box()
        assert box
        shown.mouse.move(box["x"] + box["width"] / 4, box["y"] + 60)
        shown.mouse.down()
        shown.mouse.move(box["x"] + box["width"] / 2, box["y"] + 60, steps=4)
        shown.mouse.up()
        low, high = (int(word) for word in shown.text_content("#range").removesuffix(" images").split(" – "))
        assert (low, high) == (pytest.approx(80, abs=5), pytest.approx(160, abs=5))
        plot.locator(".u-over").dblclick()
        assert shown.text_content("#range") == text
        shown.mouse.move(0, 0)
        rough = plot.evaluate(PIXELS)
        watched.set("#smoothing", 0.9)
        assert shown.text_content("#smoothing-value") == "0.9"
        assert plot.evaluate(PIXELS) != rough
        shown.locator(".legend button").first.click()
        assert shown.locator(".legend button").first.get_attribute("aria-pressed") == "false"


def test_colours_follow_system_and_reader(chromium: Any, page: Path) -> None:
    """With contrast: 4.5 to 1 for text (WCAG 2.2, 1.4.3)."""
    grounds = []
    for scheme in ("light", "dark"):
        with watching(chromium, scheme=scheme) as watched:
            shown = watched.open(page)
            assert {place: ratio for place, ratio in shown.evaluate(CONTRAST).items() if ratio < 4.5} == {}, scheme
            grounds.append(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
            axes = shown.locator(".plot").first.evaluate(PIXELS)
            other = "light" if scheme == "dark" else "dark"
            shown.locator(f"input[name=theme][value={other}]").check(force=True)
            assert shown.evaluate("getComputedStyle(document.body).backgroundColor") != grounds[-1]
            assert shown.locator(".plot").first.evaluate(PIXELS) != axes
    assert len(set(grounds)) == 2


CONTRAST = """() => {
  const light = text => {
    const parts = text.match(/[\\d.]+/g).slice(0, 3).map(part => part / 255);
    const [r, g, b] = parts.map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = node => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!colour.startsWith("rgba(0, 0, 0, 0")) return colour;
    }
  };
  const found = {};
  const text = "h1, h2, h3, p, dt, dd, th, td, code, button, summary, figcaption, output";
  for (const node of document.querySelectorAll(text)) {
    if (!node.checkVisibility() || !node.textContent.trim()) continue;
    const [a, b] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    found[`${node.tagName} ${node.textContent.trim().slice(0, 40)}`] = (a + 0.05) / (b + 0.05);
  }
  return found;
}"""


def test_page_fits_a_phone(chromium: Any, run: Path, page: Path, tmp_path: Path) -> None:
    name = "a-name-without-an-end" * 8
    edit_record(run, command=f"facegan train --shards {name}", dataset={"path": f"/{name}"})
    add_rows(run, {"health": "collapse", "value": 0.1, "text": name})
    long = write_report(read_run(run.rename(tmp_path / name)), tmp_path / "long.html")
    both = write_comparison([read_run(tmp_path / name)] * 2, tmp_path / "both.html")
    for file in (page, long, both):
        with watching(chromium, width=375) as watched:
            shown = watched.open(file)
            for details in shown.locator("details > summary").all():
                details.click()
            assert shown.evaluate("document.documentElement.scrollWidth") <= 375, file


def test_hostile_text_stays_text(chromium: Any, run: Path, tmp_path: Path) -> None:
    named = run.rename(tmp_path / HOSTILE.replace("/", "∕"))
    settings = {**read_run(named).record["settings"], "nets": HOSTILE, "augment": HOSTILE}
    edit_record(named, settings=settings, command=HOSTILE, versions={HOSTILE: HOSTILE}, dataset={"path": HOSTILE})
    add_rows(named, {"health": HOSTILE, "value": 0.1, "text": HOSTILE}, {"measured": {HOSTILE: 1.0}, "best": True})
    evaluation = {"metrics": {HOSTILE: 1}, "absent": {"x": HOSTILE}, "protocol": {"y": HOSTILE}, "warnings": [HOSTILE]}
    (named / "eval.json").write_text(json.dumps(evaluation))
    file = write_report(read_run(named), tmp_path / "report.html")
    both = write_comparison([read_run(named)], tmp_path / "both.html")
    with watching(chromium) as watched:
        shown = watched.open(file)
        assert shown.text_content("h1") == named.name
        assert shown.text_content("#command") == HOSTILE
        assert HOSTILE in shown.text_content(".findings")
        assert HOSTILE in shown.text_content("#charts")
        assert shown.locator("img[src=x]").count() == 0
        watched.open(both)
        assert shown.locator("img[src=x]").count() == 0


def test_warnings_are_on_the_time_line(chromium: Any, run: Path, tmp_path: Path) -> None:
    before = write_report(read_run(run), tmp_path / "before.html")
    text = "the samples look alike"
    add_rows(run, {"health": "collapse", "value": 0.1, "text": text})
    after = write_report(read_run(run), tmp_path / "after.html")
    with watching(chromium) as watched:
        shown = watched.open(before)
        assert "No warnings" in shown.text_content(".health")
        plot = shown.locator(".plot").first.evaluate(PIXELS)
        shown = watched.open(after)
        assert shown.text_content(".health").split() == ["1", "warning", "during", "training"]
        assert shown.locator(".findings li").all_text_contents() == [f"collapse at 64 images {text}"]
        assert shown.locator(".plot").first.evaluate(PIXELS) != plot
