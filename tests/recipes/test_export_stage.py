"""``[export]`` in a recipe: done once, and again where the generator or what was measured of it is another."""

from __future__ import annotations

import json

import facegan as library
from tests.recipes.conftest import Experiment
from tests.recipes.test_run import UP_TO_DATE, run, states


def test_the_stage_is_done_where_it_is_out_of_date(done: Experiment) -> None:
    done.recipe.write_text(done.recipe.read_text() + "\n[export]\nsamples = 2\nprogram = false\n")
    assert states(run(done, "--dry-run", "--json")) == UP_TO_DATE | {"export": "to do"}
    ended = run(done, "--json")
    assert states(ended) == UP_TO_DATE | {"export": "done"}
    out = done.to / "export"
    files = ["README.md", "config.json", "generator.safetensors", "samples.png"]
    assert sorted(path.name for path in out.iterdir()) == files
    assert library.load_generator(out).spec.width == 4
    assert states(run(done, "--json")) == UP_TO_DATE | {"export": "up to date"}
    (done.to / "run" / "eval.json").write_text(json.dumps({"metrics": {"swd": 12.5}}))
    assert states(run(done, "--json")) == UP_TO_DATE | {"export": "done"}
    assert "| `swd` | 12.5 |" in (out / "README.md").read_text()
    (out / "config.json").unlink()
    assert states(run(done, "--json")) == UP_TO_DATE | {"export": "done"}


def test_the_command_takes_the_recipes_section(done: Experiment, tmp_path_factory) -> None:
    from tests.recipes.program import facegan

    done.recipe.write_text(done.recipe.read_text() + "\n[export]\nprogram = false\nonnx = true\n")
    out = tmp_path_factory.mktemp("out") / "export"
    ended = facegan("export", done.to / "run", out, "--recipe", done.recipe, "--set", "export.onnx=false", "--dry-run")
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith("generator.safetensors, samples.png, README.md, config.json of ")
