"""Every kind of file that facegan reads, damaged: a sentence, and never a fault, without end of time or memory."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.damage.attempt import attempt, problem_of
from tests.damage.cases import CASES, Case, seal_state, seal_tensors, training
from tests.damage.world import PREP, call, make_world

QUIET = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return make_world(tmp_path_factory.mktemp("damage") / "world")


@settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(case=st.sampled_from(CASES), seed=st.integers(0, 2**32))
def test_damaged_files_give_sentences(case: Case, seed: int, world: Path, tmp_path: Path) -> None:
    assert attempt(case, world, tmp_path / "room", seed) == ""


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_many_damaged_files_give_sentences(case: Case, world: Path, tmp_path: Path) -> None:
    random = Random(case.name)
    for _ in range(12):
        assert attempt(case, world, tmp_path / "room", random.randrange(2**32)) == ""


def changed(**values: object) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def header(change: Callable[[dict], None] | None) -> Callable[[Path], None]:
    """Another header of a safetensors file; an empty one for None."""

    def write(file: Path) -> None:
        data = file.read_bytes()
        (length,) = struct.unpack_from("<Q", data)
        about = json.loads(data[8 : 8 + length])
        if change:
            change(about)
        head = json.dumps(about).encode() if change else b""
        file.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])
        seal_tensors(file)

    return write


def overlapping(about: dict) -> None:
    first, second, *_ = (entry for name, entry in about.items() if name != "__metadata__")
    second["data_offsets"] = first["data_offsets"]


def negative(about: dict) -> None:
    next(iter(about.values()))["data_offsets"] = [-8, 0]


def state(**values: object) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        changed(**values)(file)
        seal_state(file)

    return write


def first_loss(value: object) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        lines = file.read_text().splitlines()
        at = next(number for number, line in enumerate(lines) if "loss_g" in line)
        lines[at] = json.dumps({**json.loads(lines[at]), "loss_g": value})
        file.write_text("\n".join(lines) + "\n")

    return write


CHECKPOINT = "checkpoints/000000016"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (f"{CHECKPOINT}/state.safetensors", header(None)),
        (f"{CHECKPOINT}/state.safetensors", header(overlapping)),
        (f"{CHECKPOINT}/state.safetensors", header(negative)),
        (f"{CHECKPOINT}/state.json", lambda file: file.write_text("[" * 100_000)),
        (f"{CHECKPOINT}/state.json", state(files=[])),
        (f"{CHECKPOINT}/state.json", state(images=None)),
        (f"{CHECKPOINT}/state.json", state(spec={"name": [1]})),
        (f"{CHECKPOINT}/state.json", state(health=7)),
        ("stats.jsonl", first_loss([[]])),
    ],
)
def test_a_training_goes_on_from_the_checkpoint_before(
    name: str, damage: Callable[[Path], None], world: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(world / "run", tmp_path / "run"))
    damage(run / name)
    code, said = call(*training(world, run))
    assert code == 0, said
    if name.startswith(CHECKPOINT):
        assert f"the checkpoint {run / CHECKPOINT} is damaged" in said
        assert f"Resuming {run} from 8 images" in said


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("run.json", changed(parameters={"generator": "x"})),
        ("run.json", changed(versions=[], precision={}, settings=3)),
        ("run.json", changed(dataset={"path": ["x"], "faces": "many"})),
        ("run.json", lambda file: file.write_text(file.read_text().replace('"faces": 12', f'"faces": {"9" * 5_000}'))),
        ("eval.json", changed(floors=[1])),
        ("eval.json", changed(warnings=7, protocol=[], measured="x")),
        ("eval.json", changed(metrics={"swd": {}, "fid": 10**400})),
    ],
)
@pytest.mark.parametrize("command", ["report", "export", "compare"])
def test_values_of_another_kind_are_left_out(
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


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("plain.npy", lambda data: data[:10] + b"{'descr': (" + data[21:]),
        ("train-labels-idx1-ubyte", lambda data: data[:-5]),
        ("train-labels-idx1-ubyte", lambda data: b"x" + data[1:]),
        ("labelled.npz", lambda data: data[: len(data) // 2]),
        ("rows.parquet", lambda data: data[:-9] + b"\xff" + data[-8:]),
    ],
)
def test_a_damaged_source_is_named(name: str, damage: Callable[[bytes], bytes], world: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(world / "sources", tmp_path / "sources"))
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    source = folder / name.replace("labels-idx1", "images-idx3")
    code, said = call("prep", source, tmp_path / "new", *PREP)
    assert code in (1, 2), said
    assert problem_of(code, said) == ""
    assert str(folder) in said


def test_a_checkpoint_that_does_not_fit_names_no_fault(world: Path, tmp_path: Path) -> None:
    """Another stream's state: checksums hold, and the position is none."""
    run = Path(shutil.copytree(world / "run", tmp_path / "run"))
    for file in (run / "checkpoints").glob("*/state.json"):
        state(stream={"position": -1, "fingerprint": json.loads(file.read_text())["stream"]["fingerprint"]})(file)
    code, said = call(*training(world, run))
    assert (code, problem_of(code, said)) == (1, "")
    assert "position" in said
