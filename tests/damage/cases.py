"""Files of every kind, what damages each, and the commands that read it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.damage.harm import Harm, harm_bytes, harm_json, harm_lines, harm_npy, harm_npz, harm_tensors, harm_text
from tests.damage.world import PREP, TRAIN, call

_MOST_SECONDS, _MOST_BYTES = 20, 1_000_000_000
_MOST_LINES = 4  # of an error

# Commands, one a line: {world} is the undamaged folder, {copy} the damaged part of it, {new} a path that is free.
RESUME = f"train --shards {{world}}/out --run {{copy}} {TRAIN} --images 24"
_SHOW = """report {copy}
compare {copy} {world}/other
compare {world}/other {copy} --json
export {copy} {new}"""
_START = f"""{RESUME}
train --shards {{world}}/out --run {{new}} {TRAIN} --images 24 --init {{copy}}/checkpoints/000000016
export {{copy}}/checkpoints/000000016 {{new}}
eval {{copy}}/checkpoints/000000016 --shards {{world}}/out --metrics ms_ssim --n 4"""
_DRAW = f"""sample {{copy}} --out {{new}}.png
export {{copy}} {{new}}
train --shards {{world}}/out --run {{new}} {TRAIN} --images 24 --init {{copy}}
eval {{copy}}/generator.safetensors --shards {{world}}/out --metrics ms_ssim --n 4
compare {{copy}} {{world}}/other"""
_DATASET = f"""verify {{copy}}
verify {{copy}} --deep --json
inspect {{copy}}
inspect {{copy}} 0=2F000=2Epng
inspect {{copy}} --plot {{new}}.png
select {{copy}} {{new}} --limit 3
select {{copy}} {{new}} --where width>3
prep {{world}}/photos {{copy}} {PREP}
prep {{world}}/photos {{copy}} {PREP} --repair
train --shards {{copy}} --run {{new}} {TRAIN} --images 8
eval {{world}}/run --shards {{copy}} --metrics ms_ssim --n 4"""
_PREPARED = f"""prep {{world}}/photos {{copy}} {PREP}
prep {{world}}/photos {{copy}} {PREP} --dry-run
inspect {{copy}} 0=2F000=2Epng --extract {{new}}
verify {{copy}}"""
_RECIPE = """recipes show {copy}/tiny.toml
recipes check {copy}/tiny.toml
run {copy}/tiny.toml --dry-run --to {new}
train --recipe {copy}/tiny.toml --shards {world}/out --dry-run"""
_RUN_AGAIN = "run {world}/given/tiny.toml --to {copy}"


def _source(name: str) -> str:
    return f"prep {{copy}}{name} {{new}} {PREP}"


def _latents(suffix: str) -> str:
    return f"sample {{world}}/run --out {{new}}.png --set sample.latents={{copy}}/latents{suffix}"


@dataclass(frozen=True)
class Case:
    """A file of one kind."""

    folder: str  # of the world; it is copied, and the file damaged there
    file: str  # a pattern below it; one file is damaged
    harm: Harm
    commands: str
    seal: Callable[[Path], None] | None = None  # makes the file's checksums agree with it again

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.file}{'+sums' if self.seal else ''}"


def seal_tensors(file: Path) -> None:
    """The file's checksum in state.json, and that of state.json."""
    state, data = file.with_name("state.json"), file.read_bytes()
    record = json.loads(state.read_bytes())
    record["files"][file.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    state.write_text(json.dumps(record))
    seal_state(state)


def seal_state(file: Path) -> None:
    with _if_possible():
        record = json.loads(file.read_bytes())
        record.pop("sha256", None)
        record["sha256"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        file.write_text(json.dumps(record))


def _if_possible() -> contextlib.suppress:
    """Damaged JSON may have no place for a checksum."""
    return contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError)


CASES = (
    Case("run", "run.json", harm_json, f"{_SHOW}\n{RESUME}"),
    Case("run", "stats.jsonl", harm_lines, f"{_SHOW}\n{RESUME}"),
    Case("run", "eval.json", harm_json, _SHOW),
    Case("run", "best.json", harm_json, f"{RESUME}\nsample {{copy}} --best"),
    Case("run", "events.*", harm_bytes, RESUME),
    Case("run", "log.txt", harm_bytes, RESUME),
    Case("run", "**/*.png", harm_bytes, _SHOW),
    Case("run", "generator.safetensors", harm_tensors, _DRAW),
    Case("run", "checkpoints/000000016/*", harm_bytes, _START),
    Case("run", "checkpoints/*/state.json", harm_json, _START),
    Case("run", "checkpoints/000000016/state.json", harm_json, _START, seal_state),
    Case("run", "checkpoints/000000016/state.safetensors", harm_tensors, _START, seal_tensors),
    Case("run", "checkpoints/000000016/generator.safetensors", harm_tensors, _START, seal_tensors),
    Case("out", "dataset.json", harm_json, _DATASET),
    Case("out", "photos.parquet", harm_bytes, _DATASET),
    Case("out", "*.tar", harm_bytes, f"{_DATASET}\ntrain --shards {{copy}}/train-{{{{000000..000001}}}}.tar "
         f"--run {{new}} {TRAIN} --images 8"),
    Case("out", "*.json", harm_json, _PREPARED),
    Case("out", "README.md", harm_bytes, _PREPARED),
    Case("out", ".facegan/*.json", harm_json, _PREPARED),
    Case("unfinished", ".facegan/*.json", harm_json, _PREPARED),
    Case("unfinished", ".facegan/chunks/*.json", harm_json, _PREPARED),
    Case("unfinished", ".facegan/chunks/*.jsonl", harm_lines, _PREPARED),
    Case("unfinished", ".facegan/chunks/*.tar", harm_bytes, _PREPARED),
    Case("moving", ".facegan/journal.json", harm_json, _PREPARED),
    Case("moving", ".facegan/final/*", harm_bytes, _PREPARED),
    Case("photos", "*/*.png", harm_bytes, _source("")),
    Case("photos", "dataset.json", harm_json, _source("")),
    Case("sources", "plain.npy", harm_npy, _source("/plain.npy")),
    Case("sources", "labelled.npz", harm_npz, _source("/labelled.npz")),
    Case("sources", "train-*-ubyte", harm_bytes, _source("/train-images-idx3-ubyte")),
    *(Case("sources", name, harm_bytes, _source(f"/{name}")) for name in (
        "rows.parquet", "photos.tar", "photos.tar.gz", "photos.zip")),
    Case("sources", "list_attr.txt", harm_text,
         f"prep {{world}}/photos {{new}} {PREP} --attributes {{copy}}/list_attr.txt"),
    Case("given", "latents.npy", harm_npy, _latents(".npy")),
    Case("given", "latents.npz", harm_npz, _latents(".npz")),
    Case("given", "latents.safetensors", harm_tensors, _latents(".safetensors")),
    Case("given", "tiny.toml", harm_text, _RECIPE),
    Case("experiment", ".facegan-run.json", harm_json, _RUN_AGAIN),
    Case("experiment", "**/best.json", harm_json, _RUN_AGAIN),
    Case("exported", "config.json", harm_json, "export {world}/run {copy}"),
)  # fmt: skip


def filled(command: str, world: Path, copy: Path) -> list[str]:
    return command.format(world=world, copy=copy, new=copy.parent / "new").split()


def attempt(case: Case, world: Path, folder: Path, seed: int) -> str:
    """Damage a file in a copy of its folder and run a command that reads it; return what is wrong with how it ends."""
    random, copy = Random(seed), folder / case.folder
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world / case.folder, copy)
    file = random.choice(sorted(path for path in copy.glob(case.file) if path.is_file()))
    data = file.read_bytes()
    file.write_bytes(case.harm(data, random) if data else random.randbytes(100))
    if case.seal:
        case.seal(file)
    command = filled(random.choice(case.commands.splitlines()), world, copy)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of memory
    before, start = _peak(), time.process_time()  # of the CPU: a machine may be busy
    code, said = call(*command)
    seconds, taken = time.process_time() - start, _peak() - before
    problem = problem_of(code, said)
    if not problem and (seconds > _MOST_SECONDS or taken > _MOST_BYTES):
        problem = f"{seconds:.0f} s, {taken / 1e6:,.0f} MB"
    return problem and f"{' '.join(command)}: {problem}"


def problem_of(code: int, said: str) -> str:
    error = said[said.rfind("error: ") :] if code else ""
    if code not in (0, 1, 2) or "fault in facegan" in said or (code and not said.strip()):
        return f"exit code {code}, {said[-800:]}"
    if "Traceback" in said or len(error.splitlines()) > _MOST_LINES or len(error) > 2_000:
        return f"it says {said[-800:]}"
    return ""


def _peak() -> int:
    """The most memory of this process, in bytes."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
