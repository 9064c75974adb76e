"""What is evaluated: a run, a checkpoint, a generator's file, or a folder of images made by any program."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from facegan.config import EvalConfig
from facegan.console import Console, shown
from facegan.errors import CheckpointError, DatasetError, SettingsError, suggest
from facegan.faces.crop import grey
from facegan.faces.decode import Photo, Rejected
from facegan.files import files_below, human_bytes, sha256_file
from facegan.nets import Generator
from facegan.nets.weights import FILE_NAME
from facegan.run_dir import CHECKPOINTS, RECORD, STATE, count_of, newest_images, read_facts, read_run
from facegan.sample.generate import channels_last, sample_images
from facegan.shards.format import has_photo_suffix
from facegan.stream import FaceShards
from facegan.system import available_bytes

_MAX_FILE_BYTES = 100_000_000  # an image of 128×128 is smaller
_BLOCK = 256  # samples per step of the progress bar


@dataclass(frozen=True)
class EvalTarget:
    """
    Attributes:
        about: what ``measured`` of eval.json contains besides kind and path.
        trained_on: fingerprint of the training faces, "" if unknown.
    """

    kind: Literal["run", "checkpoint", "generator", "folder"]
    path: Path
    about: dict[str, Any]
    trained_on: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": str(self.path), **self.about}


def find_target(path: Path) -> EvalTarget:
    """The target at a path. Reads no weights and no images.

    Raises:
        CheckpointError: a run has no checkpoint yet.
        DatasetError: a folder contains neither a generator nor images.
        SettingsError: the path does not exist.
    """
    if path.is_file():
        return _generator_target("generator", path, path.parent)
    if not path.is_dir():
        siblings = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SettingsError(
            f"There is no {path}. Name a run, a generator's .safetensors or a folder of images."
            f"{suggest(path.name, siblings)}"
        )
    if (path / FILE_NAME).is_file():
        return _generator_target("checkpoint" if (path / STATE).is_file() else "run", path / FILE_NAME, path)
    if (path / RECORD).is_file() or (path / CHECKPOINTS).is_dir():
        raise CheckpointError(
            f"The run {path} has no {FILE_NAME} yet: it is written with the first checkpoint.\n"
            "Resume it by `facegan train` with the same --run, or name another run."
        )
    count = len(image_files(path))
    if not count:
        raise DatasetError(f"{path} contains neither a run nor images. Name a run or a folder of images.")
    return EvalTarget("folder", path, {"images": count})


def _generator_target(kind: Literal["run", "checkpoint", "generator"], file: Path, folder: Path) -> EvalTarget:
    run = {"run": folder, "checkpoint": folder.parent.parent}.get(kind)
    facts = read_run(run) if run else None
    images = newest_images(folder) if kind == "run" else read_facts(folder / STATE).get("images")
    about: dict[str, Any] = {}
    if run and count_of(images) is not None:
        about["images_trained"] = images
    if facts and isinstance(facts.settings.get("method"), str):
        about["method"] = facts.settings["method"]
    about["generator_sha256"] = sha256_file(file)
    return EvalTarget(kind, file if kind == "generator" else folder, about, facts.dataset.fingerprint if facts else "")


def images_of(
    target: EvalTarget, generator: Generator | None, faces: FaceShards, config: EvalConfig, console: Console
) -> Tensor:
    """uint8 (N, C, S, S): ``config.n`` samples, or up to as many images of the folder.

    Raises:
        SettingsError: the generator draws images of another shape than the real faces', or they do not fit in memory.
        DatasetError: the folder's images cannot be read, or have another size.
    """
    size, channels, n = faces.size, faces.channels, config.n
    if generator is None:
        return _read_images(_choose_files(image_files(target.path), n, config.seed), size, channels)
    spec = generator.spec
    if (spec.size, spec.channels) != (size, channels):
        raise SettingsError(
            f"{target.path} draws {spec.size}×{spec.size} in {spec.channels} channels, but the real faces are "
            f"{size}×{size} in {channels}.\nName the faces that it was trained on, or similar ones, with --shards."
        )
    needed, free = n * channels * size**2, available_bytes()
    if needed > free:
        raise SettingsError(
            f"--n {n:,} needs {human_bytes(needed)} of memory, and {human_bytes(free)} are free. Choose a smaller --n."
        )
    images = torch.empty((n, channels, size, size), dtype=torch.uint8)
    with console.progress(n, "samples") as progress:
        for first in range(0, n, _BLOCK):
            block = sample_images(channels_last(generator), min(_BLOCK, n - first), config.seed, first)
            images[first : first + len(block)] = block
            progress.advance(len(block))
    return images


def image_files(folder: Path) -> list[Path]:
    """All images below a folder by suffix, sorted by path, without hidden files."""
    files = files_below(os.fsencode(folder), lambda _, name: not _is_hidden(name.rstrip(b"/")))
    return sorted(
        folder / os.fsdecode(name)
        for name, entry in files
        if not _is_hidden(name) and has_photo_suffix(name) and Path(os.fsdecode(entry.path)).is_file()
    )


def _is_hidden(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(b".")


def _choose_files(files: list[Path], n: int, seed: int) -> list[Path]:
    """Up to ``n`` files, chosen by the seed: the first ones may all belong to one class."""
    if len(files) <= n:
        return files
    return [files[i] for i in sorted(np.random.default_rng(seed).choice(len(files), n, replace=False))]


def _read_images(files: list[Path], size: int, channels: int) -> Tensor:
    """uint8 (N, C, S, S). Nothing is resampled, because resampling changes metrics."""
    images = torch.empty((len(files), channels, size, size), dtype=torch.uint8)
    for i, path in enumerate(files):
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise Rejected("too_large")
            pixels = Photo(path.read_bytes()).pixels()
        except Rejected as rejected:
            raise DatasetError(
                f"{shown(path)} cannot be read as an image: {rejected.reason}. Remove it from the folder."
            ) from None
        except OSError as error:
            raise DatasetError(f"{shown(path)} cannot be read: {error.strerror or error}.") from None
        height, width = pixels.shape[:2]
        if (height, width) != (size, size):
            raise DatasetError(
                f"{shown(path)} has {width}×{height} pixels, and the real faces have {size}×{size}.\n"
                f"Prepare faces with facegan prep --size 28, 32, 64 or 128, or draw {size}×{size} with the other "
                "program."
            )
        images[i] = torch.from_numpy(grey(pixels) if channels == 1 else pixels).permute(2, 0, 1)
    return images
