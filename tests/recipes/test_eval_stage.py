"""The stage ``[eval]``: run after training, when it is out of date, and only then."""

from __future__ import annotations

import json
from typing import Any

from tests.recipes.conftest import Experiment
from tests.recipes.program import facegan

EVAL = '\n[eval]\nn = 5\nmetrics = "swd,ms_ssim"\nneighbours = 4\ndevice = "cpu"\n'


def stages(done: Experiment, *options: object) -> dict[str, dict[str, Any]]:
    ended = facegan("run", done.recipe, "--to", done.to, "--json", *options)
    assert ended.code == 0, ended.stderr
    return {stage["stage"]: stage for stage in json.loads(ended.stdout)["stages"]}


def test_it_is_run_where_it_is_out_of_date(done: Experiment) -> None:
    done.recipe.write_text(done.recipe.read_text() + EVAL)
    planned = stages(done, "--dry-run")
    assert (planned["train"]["state"], planned["eval"]["state"]) == ("up to date", "to do")
    assert planned["eval"]["told"] == "5 samples against real faces: swd, ms_ssim"
    first = stages(done)
    assert {name: stage["state"] for name, stage in first.items() if name != "eval"} == {
        "prep": "up to date",
        "train": "up to date",
        "sample": "up to date",
    }
    assert first["eval"]["state"] == "done"
    told = json.loads((done.to / "run/eval.json").read_text())
    assert told == first["eval"]["result"]
    assert first["eval"]["told"].startswith(f"swd {told['metrics']['swd']:.3g} (real ")
    assert stages(done)["eval"]["state"] == "up to date"
    (done.to / "run/neighbours.png").unlink()
    again = stages(done)["eval"]
    assert (again["state"], again["why"]) == ("done", "neighbours.png is gone")
    assert again["result"]["metrics"] == told["metrics"]
    other = stages(done, "--set", "eval.n=4")["eval"]
    assert (other["state"], other["why"]) == ("done", "n is 4, and was 5")


def test_it_is_shown_with_units(done: Experiment) -> None:
    done.recipe.write_text(done.recipe.read_text() + EVAL)
    shown = json.loads(facegan("recipes", "show", done.recipe, "--json").stdout)
    settings = {row["name"]: row for row in shown["settings"] if row["section"] == "eval"}
    assert (settings["n"]["value"], settings["n"]["default"], settings["n"]["unit"]) == (5, 10_000, "images")
    assert settings["split"]["value"] == "auto"
    assert settings["inception_weights"]["value"] == ""


def test_it_needs_files_that_are_there(done: Experiment) -> None:
    done.recipe.write_text(done.recipe.read_text() + EVAL + 'statistics = "none.npz"\n')
    ended = facegan("run", done.recipe, "--to", done.to)
    assert (ended.code, "There is no none.npz." in ended.stderr) == (2, True)
