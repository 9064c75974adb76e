"""``facegan report`` and ``facegan compare``: pages, printed differences, and errors, also of damaged runs."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import re
import shlex
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from facegan.config import TrainConfig
from facegan.errors import CheckpointError
from facegan.report.charts import MAX_POINTS, compared_curves, curves_of
from facegan.report.pictures import MAX_FRAMES
from facegan.report.runs import read_run, titles
from facegan.report.sections import baseline_of, dataset_section, metrics_section, repeating_command, settings_diff
from facegan.report.write import differences, write_report
from facegan.run_dir import run_title
from facegan.stream import FaceShards
from facegan.training.log import read_stats
from tests.recipes.program import facegan
from tests.report.conftest import add_rows, edit_record
from tests.training.toy import toy_train

MOST_BYTES = 5_000_000


def page_data(page: Path, which: str) -> Any:
    """The JSON values for a script of the page."""
    found = re.search(rf'<script type="application/json" id="{which}">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_command_writes_one_file(run: Path, tmp_path: Path) -> None:
    planned = facegan("report", run, "--dry-run")
    assert planned.stdout == f"A page of {run} with 320 images would be written to {run / 'report.html'}\n"
    assert not (run / "report.html").exists()
    done = facegan("report", run)
    assert (done.code, done.stdout, done.stderr) == (0, f"{run / 'report.html'}\n", "")
    page = tmp_path / "deep" / "page.html"
    printed = json.loads(facegan("report", run, "--out", page, "--json", "--quiet").stdout)
    assert printed == {"run": str(run), "out": str(page), "bytes": page.stat().st_size, "explore": False}
    assert page.read_bytes() == (run / "report.html").read_bytes()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", page.read_text())


def test_wrong_arguments_are_errors(run: Path, tmp_path: Path) -> None:
    def refused(code: int, *arguments: object) -> str:
        ended = facegan("report", *arguments)
        assert (ended.code, ended.stdout) == (code, "")
        assert len(ended.stderr.splitlines()) <= 3
        return ended.stderr

    assert "contains no run.json. Name the folder of a run" in refused(1, tmp_path)
    assert "use a name that ends in .html" in refused(2, run, "--out", tmp_path / "page.pdf")
    assert "with --explore it is a folder" in refused(2, run, "--explore", "--out", tmp_path / "page.html")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/index.html").write_text("mine")
    assert "is not an explorer. Name a new folder" in refused(2, run, "--explore", "--out", tmp_path / "mine")
    assert "a file is in the way" in refused(1, run, "--out", run / "run.json" / "page.html")
    (run / "stats.jsonl").write_text("")
    assert "has no row of losses yet" in refused(1, run)
    assert (tmp_path / "mine/index.html").read_text() == "mine"


@pytest.mark.slow
def test_large_grids_fit_the_page(run: Path) -> None:
    shutil.rmtree(run / "samples")
    (run / "samples").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        noise = rng.integers(0, 256, (1042, 1042, 3), np.uint8)
        cv2.imwrite(str(run / f"{number}.png"), noise, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    for number in range(200):
        os.link(run / f"{number % 4}.png", run / "samples" / f"{number * 5_000:09d}.png")
    page = write_report(read_run(run), run / "report.html")
    assert page.stat().st_size < MOST_BYTES
    images = [frame["images"] for frame in page_data(page, "frames")]
    assert (images[0], images[-1]) == (0, 995_000)
    assert 8 <= len(images) <= MAX_FRAMES
    assert "of 200 grids, evenly spread" in page.read_text()


def test_frames_are_the_grids(run: Path) -> None:
    (run / "samples" / "000000100.png").write_bytes(b"no picture")
    (run / "samples" / "notes.png").write_bytes(b"mine")
    page = write_report(read_run(run), run / "report.html")
    frames = page_data(page, "frames")
    assert [frame["images"] for frame in frames] == [0, 64, 128, 192, 256, 320]
    for frame in frames:
        data = np.frombuffer(base64.b64decode(frame["src"].removeprefix("data:image/webp;base64,")), np.uint8)
        shown, original = cv2.imdecode(data, 1), cv2.imread(str(run / "samples" / f"{frame['images']:09d}.png"))
        assert shown is not None
        assert original is not None
        assert shown.shape == original.shape
        assert np.abs(shown.astype(int) - original).mean() < 12  # colour noise, whose resolution WebP halves


def test_changed_settings_are_marked(run: Path) -> None:
    read = read_run(run)
    changed = {setting.name: setting for setting in settings_diff(read, baseline_of(read)) if setting.differs}
    small = {"width", "latent", "batch", "precision", "images", "log_every", "save_every", "sample_every", "lr_g"}
    assert set(changed) == small
    assert (changed["lr_g"].value, changed["lr_g"].default) == ("0.001", "0.0002")
    edit_record(run, command="facegan train --shards x --recipe smoke --batch 16")
    page = facegan("report", run)
    assert page.code == 0
    text = (run / "report.html").read_text()
    assert "differ from the recipe smoke" in text
    assert '<tr class="differs"><th scope="row"><code>lr_g</code>' in text
    assert '<tr><th scope="row"><code>batch</code></th><td>16</td><td>16</td>' in text  # smoke's, not the method's


def test_command_repeats_the_run(run: Path) -> None:
    edit_record(run, command="", dataset={"path": "/some where"})
    words = shlex.split(repeating_command(read_run(run)))
    assert words[:6] == ["facegan", "train", "--shards", "/some where", "--run", str(run)]
    sets: dict[str, Any] = dict(
        word.removeprefix("train.").split("=", 1) for word in words if word.startswith("train.")
    )
    again = TrainConfig.for_method(words[words.index("--method") + 1], **sets)
    assert again.model_dump(mode="json") == read_run(run).record["settings"]
    edit_record(run, command="facegan train --shards 'a b'")
    assert repeating_command(read_run(run)) == "facegan train --shards 'a b'"


def test_dataset_section(run: Path, dataset: Path) -> None:
    assert "in memory" in dataset_section(read_run(run))["why"]
    edit_record(run, dataset={"path": str(dataset), "fingerprint": FaceShards(dataset).fingerprint})
    found, totals = dataset_section(read_run(run)), json.loads((dataset / "dataset.json").read_text())["totals"]
    assert (found["why"], found["photos"], found["kept"]) == ("", 60, totals["kept"])
    assert {reason: count for reason, _, count in found["rejected"]} == {
        reason: count for reason, count in totals["rejected"].items() if count
    }
    assert found["preview"] is not None
    page = write_report(read_run(run), run / "a.html").read_text()
    assert f"{found['kept']} kept, {60 - found['kept']} rejected" in page
    edit_record(run, dataset={"fingerprint": "0" * 64})
    assert "has changed since this run started" in dataset_section(read_run(run))["why"]
    edit_record(run, dataset={"path": "s3://bucket/faces"})
    assert "is not available here" in dataset_section(read_run(run))["why"]


def test_metrics_section(run: Path) -> None:
    assert "facegan eval" in metrics_section(run)["command"]
    result = {
        "measured": {"kind": "run", "images_trained": 320},
        "metrics": {"swd": 12.5, "coverage": 0.25},
        "floors": {"swd": 5.5},
        "absent": {"fid": "its weights are missing"},
        "protocol": {"split": "test", "swd": {"samples": 1_000}},
        "warnings": ["few images"],
        "neighbours": "neighbours.png",
    }
    (run / "eval.json").write_text(json.dumps(result))
    shutil.copy(run / "samples/000000320.png", run / "neighbours.png")
    found = metrics_section(run)
    metrics = [(metric.name, metric.value, metric.real_vs_real) for metric in found["metrics"]]
    assert metrics == [("swd", 12.5, 5.5), ("coverage", 0.25, None)]
    assert ("swd.samples", "1000") in found["protocol"]
    text = write_report(read_run(run), run / "report.html").read_text()
    for shown in ("its weights are missing", "few images", "Nearest real faces", "swd.samples"):
        assert shown in text
    (run / "eval.json").write_text(json.dumps(result | {"neighbours": None}))  # of an evaluation without a picture
    assert metrics_section(run)["neighbours"] is None
    for damaged in ("{", "[]", '{"metrics": {"swd": "much"}}', '{"metrics": 3}'):
        (run / "eval.json").write_text(damaged)
        assert "cannot be read" in metrics_section(run)["why"]


def test_missed_groups_have_commands(run: Path) -> None:
    """Names from files are quoted for the shell; damaged groups are not shown."""
    group = {"name": "Open mouth", "terms": [["Open mouth", True]], "real": 0.06, "samples": 0.01, "low": 0.0,
             "high": 0.02, "coverage": 0.31, "coverage_real": 0.97, "p_value": 0.0, "is_missed": True,
             "remedies": [["--balance", "Open mouth=0.18"], ["--condition", "Open mouth"]]}  # fmt: skip
    groups = {"groups": [group], "coverage": 0.74, "left_out": {"Male": None, "Smiling": 0.7}}
    result = {
        "measured": {"method": "wgan-gp", "images_trained": 320},
        "metrics": {"swd": 12.5},
        "protocol": {"dataset": {"path": "my faces"}},
        "groups": groups,
    }
    (run / "eval.json").write_text(json.dumps(result))
    found = metrics_section(run)["groups"]
    start = f"facegan train --shards 'my faces' --run {run}-"
    assert found["missed"] == [
        (
            "Open mouth: 6.0 % of faces, 1.0 % of samples (0.0–2.0), coverage 0.31 against 0.74 (real faces 0.97)",
            [
                f"{start}balanced --method wgan-gp --images 320 --balance 'Open mouth=0.18'",
                f"{start}conditional --method wgan-gp --images 320 --condition 'Open mouth'",
            ],
        )
    ]
    assert found["left_out"] == [
        "Male: fewer than 40 held-out faces with or without them",
        "Smiling: the classifier cannot tell them",
    ]
    assert "&#39;Open mouth=0.18&#39;" in write_report(read_run(run), run / "report.html").read_text()
    for change in ({"coverage": "x"}, {"left_out": 5}, {"groups": [{**group, "terms": 5}]}):
        (run / "eval.json").write_text(json.dumps(result | {"groups": groups | change}))
        assert metrics_section(run)["groups"] is None
    (run / "eval.json").write_text(json.dumps(result | {"measured": {"method": []}, "protocol": {}}))
    assert "--shards OUT --run" in metrics_section(run)["groups"]["missed"][0][1][0]
    write_report(read_run(run), run / "report.html")


def test_curves_have_rows_or_their_means(run: Path) -> None:
    read = read_run(run)
    losses = curves_of(read).charts[0]
    assert losses.x == [row["images"] for row in read.rows]
    assert losses.curves["generator"] == pytest.approx([row["loss_g"] for row in read.rows], rel=1e-4)
    rows = [{**read.last, "images": 16 * i, "loss_g": float(i % 3)} for i in range(1, 3 * MAX_POINTS + 1)]
    thinned = curves_of(dataclasses.replace(read, rows=rows))
    assert (thinned.thinned, len(thinned.charts[0].x)) == (3, MAX_POINTS)
    assert set(thinned.charts[0].curves["generator"]) == {1.0}


def test_compared_runs_share_an_axis(run: Path) -> None:
    read = read_run(run)
    rows = [{**row, "images": row["images"] + 1} for row in read.rows[:3]]
    shorter = dataclasses.replace(read, folder=run.parent / "shorter", rows=rows)
    chart = compared_curves([read, shorter]).charts[0]
    known = {name: sum(value is not None for value in curve) for name, curve in chart.curves.items()}
    assert (len(chart.x), known) == (len(read.rows) + 3, {"discs": len(read.rows), "shorter": 3})


def test_periodic_evaluation_has_curves(run: Path) -> None:
    add_rows(
        run,
        {"protocol": {"metric": "swd"}, "floor": {"swd": 5.0}},
        {"measured": {"swd": 30.0}, "best": True},
        {"images": 128, "measured": {"swd": 20.0}, "best": True},
        {"images": 192, "measured": {"swd": 25.0}, "best": False},
    )
    chart = curves_of(read_run(run)).charts[-1]
    assert (chart.title, chart.x, chart.curves) == ("swd", [64, 128, 192], {"swd": [30, 20, 25]})
    assert (chart.real_vs_real, chart.best) == (5.0, 1)


def test_damaged_rows_are_named(run: Path) -> None:
    """Only the last row may be unfinished, as a killed process leaves it."""
    whole = read_run(run).rows
    lines = (run / "stats.jsonl").read_text().splitlines()
    (run / "stats.jsonl").write_text("\n".join([*lines[:2], "", *lines[2:], '{"images": 9']))
    assert read_run(run).rows == whole
    (run / "stats.jsonl").write_text("\n".join([*lines[:2], "", lines[2][:-5], *lines[3:]]))
    with pytest.raises(CheckpointError, match="in line 4: the row is invalid"):
        read_run(run)
    wrong = json.dumps({**json.loads(lines[2]), "loss_d": "much"})
    (run / "stats.jsonl").write_text("\n".join(["", *lines[:2], "", wrong, *lines[3:]]))
    with pytest.raises(CheckpointError, match="in line 5: loss_d is invalid"):
        read_run(run)


def test_damaged_record_is_named(run: Path) -> None:
    edit_record(run, dataset={"faces": "many"})
    for command in ("report", "compare"):
        found = facegan(command, run, "--json")
        assert (found.code, found.stdout) == (1, "")
        assert "run.json is damaged: dataset.faces is missing or has the wrong type" in found.stderr


def test_huge_grids_are_left_out(run: Path) -> None:
    for number, side in ((384, 20_000), (448, 2**31 - 1)):
        header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)
        png = b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", zlib.crc32(header[4:])) + b"\0" * 20
        (run / f"samples/{number:09d}.png").write_bytes(png)
    assert "after 320 images" in write_report(read_run(run), run / "report.html").read_text()


def test_folder_name_that_is_not_utf8(run: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(run.parent) + b"/\xff<b>'\n\xf0\x9f\x98\x80"))
    run.rename(odd)
    for command in ("report", "compare"):
        found = facegan(command, odd, "--json")
        assert found.code == 0, found.stderr
        assert isinstance(json.loads(found.stdout), dict)
    page = (odd / "report.html").read_bytes().decode()
    assert "<b>" not in page.partition("<title>")[2].partition("</title>")[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    top = tmp_path_factory.mktemp("runs")
    toy_train(top / "a/run", images=64, lr_g=1e-3)
    toy_train(top / "b/run", "wgan-gp", images=64, batch=8)
    return [top / "a/run", top / "b/run"]


def test_differences_and_figures(runs: list[Path]) -> None:
    read = [read_run(folder) for folder in runs]
    found = differences(read)
    assert found["method"] == ["dcgan", "wgan-gp"]
    assert found["lr_g"] == [1e-3, 1e-4]
    assert found["batch"] == [16, 8]
    assert not {"seed", "width", "images", "precision", "dataset"} & found.keys()
    last = [row for row in read_stats(runs[0]) if "loss_g" in row][-1]
    assert read[0].figures()["loss_g"] == last["loss_g"]
    assert read[0].images_per_second == pytest.approx(64 / last["seconds"])
    assert differences([read[0], read[0]]) == {}


def test_titles_are_different(runs: list[Path], tmp_path: Path) -> None:
    first, second = (read_run(folder) for folder in runs)
    assert titles([first, second]) == ["a/run", "b/run"]
    assert titles([first]) == ["run"]
    assert (run_title(first.folder), run_title(tmp_path / "discs")) == ("a/run", "discs")


def test_command_prints_and_draws(runs: list[Path], tmp_path: Path) -> None:
    picture = tmp_path / "both.png"
    done = facegan("compare", *runs, "--out", picture)
    assert done.code == 0, done.stderr
    lines = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert lines["method"] == ["dcgan", "wgan-gp"]
    assert lines["health"] == ["healthy", "healthy"]
    assert str(picture) in done.stdout
    with Image.open(picture) as drawn:
        assert min(drawn.size) > 500
    page = tmp_path / "both.html"
    made = json.loads(facegan("compare", *runs, "--out", page, "--json").stdout)
    assert made["out"] == str(page)
    assert "data:image/webp" in page.read_text()
    again = json.loads(facegan("compare", *runs, "--json").stdout)
    assert [run["run"] for run in again["runs"]] == [str(folder) for folder in runs]
    assert again["differences"]["method"] == ["dcgan", "wgan-gp"]


def test_smallest_measurements_are_compared(runs: list[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "stats.jsonl"):
        shutil.copy(runs[0] / name, run)
    add_rows(run, *({"measured": {"fid": value}, "best": False} for value in (3.0, 2.0, None, 2.5)))
    add_rows(run, {"health": "collapse", "value": 0.1, "text": "x"})
    assert read_run(run).measured == {"fid": 2.0}
    assert read_run(run).figures()["health"] == ["collapse"]


def test_other_folders_are_errors(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"contains no run\.json. Name the folder of a run"):
        read_run(tmp_path)
    done = facegan("compare", runs[0], tmp_path / "nothing")
    assert done.code == 1
    assert "contains no run.json" in done.stderr
    assert facegan("compare", runs[0], "--out", "x.jpg").code == 2
