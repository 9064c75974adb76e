"""``[eval]``, ``[export]`` and ``[report]``: run last, again if their inputs changed, and only then."""

from __future__ import annotations

import json
from pathlib import Path

import facegan as library
from tests.recipes.conftest import UP_TO_DATE, Experiment, run, stages_of, states
from tests.recipes.program import facegan

EVAL = '\n[eval]\nn = 5\nmetrics = "frechet_random,ms_ssim"\nneighbours = 4\ndevice = "cpu"\n'


def add(done: Experiment, text: str) -> None:
    done.recipe.write_text(done.recipe.read_text() + text)


def test_eval_runs_when_out_of_date(done: Experiment) -> None:
    add(done, EVAL)
    planned = stages_of(run(done, "--dry-run", "--json"))
    assert (planned["train"]["state"], planned["eval"]["state"]) == ("up to date", "to do")
    assert planned["eval"]["summary"] == "5 samples against real faces: frechet_random, ms_ssim"
    first = stages_of(run(done, "--json"))
    assert {name: stage["state"] for name, stage in first.items()} == UP_TO_DATE | {"eval": "done"}
    record = json.loads((done.to / "run/eval.json").read_text())
    assert record == first["eval"]["result"]
    assert first["eval"]["summary"].startswith(f"frechet_random {record['metrics']['frechet_random']:.3g} (real ")
    assert states(run(done, "--json"))["eval"] == "up to date"
    (done.to / "run/neighbours.png").unlink()
    again = stages_of(run(done, "--json"))["eval"]
    assert (again["state"], again["why"]) == ("done", "neighbours.png is missing")
    assert again["result"]["metrics"] == record["metrics"]
    other = stages_of(run(done, "--json", "--set", "eval.n=4"))["eval"]
    assert (other["state"], other["why"]) == ("done", "n is 4, and was 5")


def test_export_follows_generator_and_metrics(done: Experiment, tmp_path: Path) -> None:
    add(done, "\n[export]\nsamples = 2\nprogram = false\n")
    assert states(run(done, "--dry-run", "--json")) == UP_TO_DATE | {"export": "to do"}
    assert states(run(done, "--json")) == UP_TO_DATE | {"export": "done"}
    out = done.to / "export"
    files = ["README.md", "config.json", "generator.safetensors", "samples.png"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert library.load_generator(out).spec.width == 4
    assert states(run(done, "--json")) == UP_TO_DATE | {"export": "up to date"}
    (done.to / "run" / "eval.json").write_text(json.dumps({"metrics": {"swd": 12.5}}))
    assert states(run(done, "--json")) == UP_TO_DATE | {"export": "done"}
    assert "| `swd` | 12.5 |" in (out / "README.md").read_text()
    ended = facegan("export", done.to / "run", tmp_path / "export", "--recipe", done.recipe, "--dry-run")
    assert ended.stdout.startswith("generator.safetensors, samples.png, README.md, config.json of ")


def test_report_follows_the_run(done: Experiment) -> None:
    add(done, "\n[report]\n")
    assert states(run(done, "--dry-run", "--json")) == {**UP_TO_DATE, "report": "to do"}
    assert states(run(done, "--json")) == {**UP_TO_DATE, "report": "done"}
    assert "recipe tiny" in (done.to / "report.html").read_text()
    assert 'href="dataset.html"' in (done.to / "report.html").read_text()
    assert "What became of the photographs" in (done.to / "dataset.html").read_text()
    assert states(run(done, "--json")) == {**UP_TO_DATE, "report": "up to date"}
    (done.to / "run/eval.json").write_text('{"metrics": {"swd": 12.5}}')
    assert states(run(done, "--json")) == {**UP_TO_DATE, "report": "done"}
    assert "12.5" in (done.to / "report.html").read_text()
    assert states(run(done, "--json", "--set", "train.images=32"))["report"] == "done"
    assert "1 differs from the recipe tiny" in (done.to / "report.html").read_text()
