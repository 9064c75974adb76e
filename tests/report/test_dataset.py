"""The page of a dataset: its counts at other thresholds are those of ``facegan prep --detections``; size and text."""

from __future__ import annotations

import functools
import json
import random
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageFilter

from facegan.files import sha256_file
from facegan.prep.forget import forget
from facegan.prep.prepare import prepare
from facegan.report.dataset import write_dataset_page
from facegan.shards.format import REASONS
from tests.prep.outputs import digest
from tests.recipes.program import facegan
from tests.report.conftest import watching
from tests.report.test_page import CONTRAST, HOSTILE

COUNTS = """() => Object.fromEntries([...document.querySelectorAll("[data-reason]")]
  .map(row => [row.dataset.reason, +row.lastElementChild.textContent.replaceAll(",", "")])
  .filter(([, count]) => count))"""
NAME = HOSTILE.replace("/", "∕")
SETTINGS: dict[str, dict[str, Any]] = {
    "best": {"dedup": "exact", "min_sharpness": 20},
    "all": {"faces": "all", "min_score": 0.2, "crop": "box", "size": 32, "max_yaw": 60.5},
    "sure": {"faces": "all", "margin": 1.3, "format": "jpg"},
    "only": {"faces": "only", "min_score": 0.3, "rotate": "auto", "max_outside": 0.123, "channels": 1},
    "fixed": {"crop": "dcgan108", "min_brightness": 30},
    "squash": {"crop": "squash", "min_face": 100},
    "near": {"dedup": "near:8"},
}


@pytest.fixture(scope="session")
def photos(portraits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits as they are, and dark, blurred, small, rotated, cut and copied ones, several in a picture, none."""
    folder = tmp_path_factory.mktemp("decided") / "photos"
    folder.mkdir()
    drawn = [Image.open(portraits / f"{number:06d}.jpg").convert("RGB") for number in range(1, 31)]
    for number in range(10):
        shutil.copy(portraits / f"{number + 1:06d}.jpg", folder / f"{number:02d}.jpg")
    shutil.copy(folder / "03.jpg", folder / "copy.jpg")
    for number, face in enumerate(drawn[10:15]):
        face.filter(ImageFilter.GaussianBlur(1 + number)).save(folder / f"blurred{number}.png")
        face.point(lambda value, part=number: value * (part + 1) * 0.12).save(folder / f"dark{number}.png")
        face.crop((20 * number, 15 * number, face.width, face.height)).save(folder / f"cut{number}.png")
    for number, face in enumerate(drawn[15:18]):
        face.rotate(90 * (number + 1), expand=True).save(folder / f"turned{number}.png")
        face.resize((face.width // (2 + number), face.height // (2 + number))).save(folder / f"small{number}.png")
    for number in range(3):
        group = Image.new("RGB", (520, 240))
        for at, face in enumerate(drawn[18 + number : 21 + number - (number == 2)]):
            group.paste(
                face.filter(ImageFilter.GaussianBlur(at * number * 2)).resize((130 + 20 * at, 170)), (170 * at, 20)
            )
        group.save(folder / f"group{number}.png")
    Image.new("RGB", (200, 200), (40, 90, 40)).save(folder / f"{NAME}.png")
    (folder / f"{NAME}.jpg").write_bytes((portraits / "000023.jpg").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="session")
def made(photos: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The dataset of them by a name in `SETTINGS`, with its page."""

    @functools.cache
    def make(name: str) -> Path:
        out = tmp_path_factory.mktemp("decided") / name
        known: dict[str, Any] = {} if name == "best" else {"detections": make("best")}
        prepare(photos, out, workers=0, **known, **SETTINGS[name])
        ended = facegan("report", out)
        assert (ended.code, ended.stdout) == (0, f"{out / 'report.html'}\n"), ended.stderr
        return out

    return make


def opened(watched: Any, out: Path) -> Any:
    shown = watched.open(out / "report.html")
    shown.wait_for_selector("[data-ready]")
    return shown


def counted(totals: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in {"": totals["kept"], **totals["rejected"]}.items() if count}


TRIES = {"best": 2, "all": 1, "sure": 1, "only": 1, "fixed": 1, "squash": 1, "near": 1}


@pytest.mark.parametrize(
    ("name", "tries"),
    [*TRIES.items(), *(pytest.param(name, 12, marks=pytest.mark.slow) for name in ("best", "near", "all", "only"))],
)
def test_counts_are_those_of_the_command(chromium: Any, made: Callable[[str], Path], name: str, tries: int) -> None:
    out, choose = made(name), random.Random(f"{name} {tries}")
    expected: list[tuple[list[str], dict[str, int], str]] = []
    with watching(chromium) as watched:
        shown = opened(watched, out)
        assert shown.evaluate(COUNTS) == counted(json.loads((out / "dataset.json").read_text())["totals"])
        sliders = [
            (each.get_attribute("id"), int(each.get_attribute("max")), float(each.input_value()))
            for each in shown.locator("#thresholds input").all()
        ]
        for _ in range(tries):
            for slider, end, start in sliders:
                watched.set(f"#{slider}", choose.choice([start, choose.randint(0, end), choose.randint(0, end)]))
            found = shown.evaluate(COUNTS)
            expected.append((shlex.split(shown.text_content("#command")), found, shown.text_content("#share")))
    assert {url for url in watched.requests if not url.startswith("data:")} == {(out / "report.html").as_uri()}
    for words, counts, share in expected:
        ended = facegan(*words[1:], "--json", "--quiet", "--workers", "0", "--force")
        result = json.loads(ended.stdout)
        assert counted(result) == counts, words
        assert "faces" not in share or share.endswith(f", {result['faces']:,} faces")


def test_sliders_obey_mouse_and_keys(chromium: Any, made: Callable[[str], Path]) -> None:
    with watching(chromium) as watched:
        shown = opened(watched, made("best"))
        slider, command = shown.get_by_label("Detection score"), shown.locator("#command")
        slider.focus()
        shown.keyboard.press("ArrowRight")
        assert "--min-score 0.51" in command.text_content()
        shown.wait_for_selector("[aria-valuetext^='0.51: ']")
        across = slider.bounding_box()["width"] - 28
        slider.hover(position={"x": 14 + across * 41 / 90, "y": 60})  # waits until the page has scrolled
        box = slider.bounding_box()
        at = box["x"] + 14 + across * 41 / 90, box["y"] + 60
        shown.mouse.move(*at)
        shown.mouse.down()
        shown.mouse.move(at[0] + across / 3, at[1], steps=3)
        shown.mouse.up()
        assert "--min-score 0.81" in command.text_content()
        shown.mouse.click(at[0] - 40, at[1])
        assert "--min-score 0.81" not in command.text_content()
        shown.click("#reset")
        assert "--min-score" not in command.text_content()


def test_page_fits_a_phone_with_hostile_names(chromium: Any, made: Callable[[str], Path]) -> None:
    for scheme in ("light", "dark"):
        with watching(chromium, width=375, scheme=scheme) as watched:
            shown = opened(watched, made("best"))
            assert shown.evaluate("document.documentElement.scrollWidth") <= 375
            assert {place: ratio for place, ratio in shown.evaluate(CONTRAST).items() if ratio < 4.5} == {}
            assert shown.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert f"{NAME}.jpg" in shown.text_content("main")  # and was not run
            assert shown.locator("figure[title*=onerror]").get_attribute("title") == f"{NAME}.png"
            assert shown.locator("img[src=x]").count() == 0


def test_page_without_thresholds_or_photographs(photos: Path, made: Callable[[str], Path], tmp_path: Path) -> None:
    prepare(photos, tmp_path / "squashed", workers=0, detector="none", crop="squash")
    assert facegan("select", made("best"), tmp_path / "few", "--limit", "5").code == 0
    for name, why in (("squashed", "No faces were found or looked for"), ("few", "were selected from another dataset")):
        page = tmp_path / f"{name}.html"
        assert facegan("report", tmp_path / name, "--out", page).code == 0
        assert why in page.read_text()
        assert 'id="faces"' not in page.read_text()
    shutil.copytree(made("best"), moved := tmp_path / "moved")
    (moved / ".facegan/source.json").unlink()
    assert facegan("report", moved).code == 0
    text = (moved / "report.html").read_text()
    assert "no longer where prep found them" in text
    assert "facegan prep PHOTOS" in text
    assert text.count("<img") > 5  # those of preview.png
    for option in ("--explore", "--watch"):
        assert "is a dataset" in facegan("report", moved, option).stderr
    assert facegan("forget", moved, "--path", "01.jpg").code == 0
    assert not (moved / "report.html").exists()  # it may show that photograph


def test_command_names_the_files_of_the_dataset(portraits: Path, tmp_path: Path) -> None:
    (photos := tmp_path / "photos").mkdir()
    names = [path.name for path in sorted(portraits.glob("*"))[:4]]
    for name in names:
        shutil.copy(portraits / name, photos)
    (people := tmp_path / "people's.csv").write_text("".join(f"{name},{name[5]}\n" for name in names))
    lines = ["4", "Smiling Young", *(f"{name} 1 -1" for name in names)]
    (attributes := tmp_path / "attributes.txt").write_text("\n".join(lines))
    prepare(photos, out := tmp_path / "out", workers=0, identity=people, attributes=attributes, split="0.5,0.5")
    forget(out, names[:1])  # is left out of what the command makes, too
    page = write_dataset_page(out, tmp_path / "page.html").read_text()
    (text,) = re.findall(r'<script[^>]*id="faces"[^>]*>(.*?)</script>', page, re.DOTALL)
    command = json.loads(text)["command"]
    assert facegan(*shlex.split(f"{command['head']} {command['tail']}")[1:]).code == 0
    assert digest(tmp_path / "out-2") == digest(out)


def test_undecodable_photograph_is_not_gone(portraits: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(portraits / "000001.jpg", tmp_path / "photos")
    (tmp_path / "photos" / "torn.jpg").write_bytes(b"no photograph")
    prepare(tmp_path / "photos", tmp_path / "out", workers=0)
    assert facegan("report", tmp_path / "out").code == 0
    assert "no longer where prep found them" not in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_page_of_many_photographs_is_bounded(dataset: Path, tmp_path: Path) -> None:
    """Each of 200,000 rows has the sample of one of 60 photographs."""
    shutil.copytree(dataset, out := tmp_path / "out")
    rng, count = np.random.default_rng(0), 200_000
    photos, found = (pq.read_table(out / f"{name}.parquet") for name in ("photos", "detections"))
    at = pa.array(np.arange(count) % len(photos))
    paths = pa.array([f"{number:06d}.jpg" for number in range(count)])
    reasons = rng.choice(["", "", "", *REASONS], count)
    many = photos.take(at).set_column(0, "path", paths).set_column(6, "reason", pa.array(reasons))
    rows = found.take(pa.array(np.arange(count) % len(found))).set_column(0, "path", paths)
    for name, values in {
        "score": rng.beta(9, 2, count).round(3),
        "sharpness": rng.gamma(2, 300, count).round(3),
        "brightness": rng.uniform(0, 255, count).round(2),
        "yaw": rng.normal(0, 20, count).round(1),
    }.items():
        rows = rows.set_column(rows.column_names.index(name), name, pa.array(values))
    info = json.loads((out / "dataset.json").read_text())
    for name, table in (("photos", many), ("detections", rows)):
        pq.write_table(table, out / f"{name}.parquet")
        info[f"{name}_sha256"] = sha256_file(out / f"{name}.parquet")
    (out / "dataset.json").write_text(json.dumps(info))
    assert write_dataset_page(out, out / "report.html").stat().st_size < 8_000_000
