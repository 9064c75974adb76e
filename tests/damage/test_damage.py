"""Every kind of file that facegan reads, damaged: a sentence, never a traceback, in bounded time and memory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage.cases import CASES, RESUME, Case, attempt, filled, problem_of, seal_tensors
from tests.damage.world import call, make_world

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return make_world(tmp_path_factory.mktemp("damage") / "world")


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(case=st.sampled_from(CASES), seed=st.integers(0, 2**32))
def test_damaged_files_give_sentences(case: Case, seed: int, world: Path, tmp_path: Path) -> None:
    assert attempt(case, world, tmp_path / "room", seed) == ""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_many_damaged_files_give_sentences(case: Case, world: Path, tmp_path: Path) -> None:
    random = Random(case.name)
    for _ in range(8):
        assert attempt(case, world, tmp_path / "room", random.randrange(2**32)) == ""


def changed(**values: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def without_header(file: Path) -> None:
    file.write_bytes(bytes(8) + file.read_bytes()[8:])
    seal_tensors(file)


CHECKPOINT = "checkpoints/000000016"


@pytest.mark.parametrize(
    ("name", "damage"),
    [("state.safetensors", without_header), ("state.json", lambda file: file.write_text("[" * 100_000))],
)
def test_training_resumes_from_an_older_checkpoint(
    name: str, damage: Callable[[Path], None], world: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(world / "run", tmp_path / "run"))
    damage(run / CHECKPOINT / name)
    code, said = call(*filled(RESUME, world, run))
    assert code == 0, said
    assert f"the checkpoint {run / CHECKPOINT} is damaged" in said
    assert f"Resuming {run} from 8 images" in said


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("run.json", changed(versions=[], precision={}, settings=3)),
        ("run.json", changed(dataset={"path": ["x"], "faces": "many"})),
        ("run.json", lambda file: file.write_text(file.read_text().replace('"faces": 12', f'"faces": {"9" * 5_000}'))),
        ("eval.json", changed(warnings=7, protocol=[], measured="x")),
        ("eval.json", changed(metrics={"swd": {}, "fid": 10**400})),
    ],
)
@pytest.mark.parametrize("command", ["report", "export", "compare"])
def test_values_of_other_types_are_ignored(
    command: str, name: str, damage: Callable[[Path], None], world: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(world / "run", tmp_path / "run"))
    damage(run / name)
    code, said = call(command, run, *([tmp_path / "new"] if command == "export" else []))
    assert problem_of(code, said) == ""
    if name == "eval.json" or command == "export":
        assert code == 0, said
    else:
        assert "run.json is" in said
        assert "--resume never" in said
