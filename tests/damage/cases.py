"""Which files there are, what harms each, and the commands that read it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.damage.harm import harm_bytes, harm_json, harm_lines, harm_npy, harm_tensors, harm_text, harm_zip
from tests.damage.world import PREP, TRAIN

Harm = Callable[[bytes, Random], bytes]
Command = Sequence[object]


@dataclass(frozen=True)
class Case:
    """A file of one kind.

    Attributes:
        folder: of the world; it is copied, and the file damaged there.
        file: a pattern below it, of which one file is damaged.
        commands: given the world and the copy.
        seal: makes what guards the file agree with it again.
    """

    folder: str
    file: str
    harm: Harm
    commands: Callable[[Path, Path], list[Command]]
    seal: Callable[[Path], None] | None = None

    @property
    def name(self) -> str:
        return f"{self.folder}/{self.file}{'+sums' if self.seal else ''}"


def training(world: Path, run: Path, *more: object) -> Command:
    return ("train", "--shards", world / "out", "--run", run, *TRAIN, "--set", "train.width=4", "--set",
            "train.latent=4", "--images", 24, *more)  # fmt: skip


def _goes_on(world: Path, run: Path) -> list[Command]:
    return [training(world, run)]


def _begins_from(world: Path, run: Path) -> list[Command]:
    newest = run / "checkpoints" / "000000016"
    return [training(world, run), training(world, run.parent / "new", "--init", newest),
            ("export", newest, run.parent / "new"),
            ("eval", newest, "--shards", world / "out", "--metrics", "swd", "--n", 4)]  # fmt: skip


def _shown(world: Path, run: Path) -> list[Command]:
    return [("report", run), ("compare", run, world / "other"), ("compare", world / "other", run, "--json"),
            ("export", run, run.parent / "new")]  # fmt: skip


def _draws(world: Path, run: Path) -> list[Command]:
    new = run.parent / "new"
    return [("sample", run, "--out", run.parent / "new.png"), ("export", run, new), training(world, new, "--init", run),
            ("eval", run / "generator.safetensors", "--shards", world / "out", "--metrics", "swd", "--n", 4),
            ("compare", run, world / "other")]  # fmt: skip


def _dataset(world: Path, out: Path) -> list[Command]:
    new = out.parent / "new"
    return [("verify", out), ("verify", out, "--deep", "--json"), ("inspect", out), ("inspect", out, "0=2F000=2Epng"),
            ("inspect", out, "--plot", out.parent / "new.png"), ("select", out, new, "--limit", 3),
            ("select", out, new, "--where", "width > 3"), ("prep", world / "photos", out, *PREP),
            ("prep", world / "photos", out, *PREP, "--repair"),
            ("train", "--shards", out, "--run", new, *TRAIN, "--images", 8, "--set", "train.width=4"),
            ("eval", world / "run", "--shards", out, "--metrics", "swd", "--n", 4)]  # fmt: skip


def _prepared(world: Path, out: Path) -> list[Command]:
    return [("prep", world / "photos", out, *PREP), ("prep", world / "photos", out, *PREP, "--dry-run"),
            ("inspect", out, "0=2F000=2Epng", "--extract", out.parent / "new"), ("verify", out)]  # fmt: skip


def _source(name: str, *options: object) -> Callable[[Path, Path], list[Command]]:
    return lambda world, folder: [("prep", folder / name if name else folder, folder.parent / "new", *PREP, *options)]


def _foreign(world: Path, out: Path) -> list[Command]:
    return [("train", "--shards", f"{out}/train-{{000000..000001}}.tar", "--run", out.parent / "new", *TRAIN,
             "--images", 8, "--set", "train.width=4")]  # fmt: skip


def _recipe(world: Path, folder: Path) -> list[Command]:
    file = folder / "tiny.toml"
    return [("recipes", "show", file), ("recipes", "check", file), ("run", file, "--dry-run", "--to", folder / "new"),
            ("train", "--recipe", file, "--shards", world / "out", "--dry-run")]  # fmt: skip


def _latents(suffix: str) -> Callable[[Path, Path], list[Command]]:
    return lambda world, folder: [
        ("sample", world / "run", "--out", folder / "new.png", "--set", f"sample.latents={folder}/latents{suffix}")
    ]


def seal_tensors(file: Path) -> None:
    """state.json as a checkpoint with this file would have it."""
    state, about = file.with_name("state.json"), file.read_bytes()
    record = json.loads(state.read_bytes())
    record.pop("sha256")
    record["files"][file.name] = {"bytes": len(about), "sha256": hashlib.sha256(about).hexdigest()}
    record["sha256"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    state.write_text(json.dumps(record))


def seal_state(file: Path) -> None:
    """Its own sum, where it is JSON at all."""
    try:
        record = json.loads(file.read_bytes())
        record.pop("sha256", None)
        record["sha256"] = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        file.write_text(json.dumps(record))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return


CASES = (
    Case("run", "run.json", harm_json, lambda w, run: [*_shown(w, run), training(w, run)]),
    Case("run", "stats.jsonl", harm_lines, lambda w, run: [*_shown(w, run), training(w, run)]),
    Case("run", "eval.json", harm_json, _shown),
    Case("run", "best.json", harm_json, lambda w, run: [training(w, run), ("sample", run, "--best")]),
    Case("run", "events.*", harm_bytes, _goes_on),
    Case("run", "log.txt", harm_bytes, _goes_on),
    Case("run", "samples/*.png", harm_bytes, _shown),
    Case("run", "neighbours.png", harm_bytes, _shown),
    Case("run", "generator.safetensors", harm_tensors, _draws),
    Case("run", "checkpoints/000000016/*", harm_bytes, _begins_from),
    Case("run", "checkpoints/*/state.json", harm_json, _begins_from),
    Case("run", "checkpoints/000000016/state.json", harm_json, _begins_from, seal_state),
    Case("run", "checkpoints/000000016/state.safetensors", harm_tensors, _begins_from, seal_tensors),
    Case("run", "checkpoints/000000016/generator.safetensors", harm_tensors, _begins_from, seal_tensors),
    Case("out", "dataset.json", harm_json, _dataset),
    Case("out", "photos.parquet", harm_bytes, _dataset),
    Case("out", "*.tar", harm_bytes, _dataset),
    Case("out", "*.tar", harm_bytes, _foreign),
    Case("out", "preview.png", harm_bytes, _prepared),
    Case("out", "*.json", harm_json, _prepared),
    Case("out", "README.md", harm_bytes, _prepared),
    Case("out", ".facegan/*.json", harm_json, _prepared),
    Case("unfinished", ".facegan/*.json", harm_json, _prepared),
    Case("unfinished", ".facegan/chunks/*.json", harm_json, _prepared),
    Case("unfinished", ".facegan/chunks/*.jsonl", harm_lines, _prepared),
    Case("unfinished", ".facegan/chunks/*.tar", harm_bytes, _prepared),
    Case("moving", ".facegan/journal.json", harm_json, _prepared),
    Case("moving", ".facegan/final/*", harm_bytes, _prepared),
    Case("photos", "*/*.png", harm_bytes, _source("")),
    Case("photos", "dataset.json", harm_json, _source("")),
    Case("sources", "plain.npy", harm_npy, _source("plain.npy")),
    Case("sources", "labelled.npz", harm_zip(harm_npy), _source("labelled.npz")),
    Case("sources", "train-*-ubyte", harm_bytes, _source("train-images-idx3-ubyte")),
    Case("sources", "rows.parquet", harm_bytes, _source("rows.parquet")),
    Case("sources", "photos.tar", harm_bytes, _source("photos.tar")),
    Case("sources", "photos.tar.gz", harm_bytes, _source("photos.tar.gz")),
    Case("sources", "photos.zip", harm_bytes, _source("photos.zip")),
    Case("sources", "list_attr.txt", harm_text, lambda w, folder: [
        ("prep", w / "photos", folder / "new", *PREP, "--attributes", folder / "list_attr.txt")]),
    Case("given", "latents.npy", harm_npy, _latents(".npy")),
    Case("given", "latents.npz", harm_zip(harm_npy), _latents(".npz")),
    Case("given", "latents.safetensors", harm_tensors, _latents(".safetensors")),
    Case("given", "tiny.toml", harm_text, _recipe),
    Case("experiment", ".facegan-run.json", harm_json, lambda w, folder: [
        ("run", w / "given" / "tiny.toml", "--to", folder)]),
    Case("experiment", "**/best.json", harm_json, lambda w, folder: [
        ("run", w / "given" / "tiny.toml", "--to", folder)]),
    Case("exported", "config.json", harm_json, lambda w, folder: [("export", w / "run", folder)]),
)  # fmt: skip


def damaged(case: Case, world: Path, room: Path, random: Random) -> Command:
    """Copies the case's folder into ``room``, damages its file there, and gives a command that reads it."""
    shutil.rmtree(room, ignore_errors=True)
    copy = room / case.folder
    shutil.copytree(world / case.folder, copy)
    file = random.choice(sorted(path for path in copy.glob(case.file) if path.is_file()))
    data = file.read_bytes()
    file.write_bytes(case.harm(data, random) if data else random.randbytes(100))
    if case.seal:
        case.seal(file)
    return random.choice(case.commands(world, copy))
