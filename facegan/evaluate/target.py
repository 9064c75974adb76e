"""What is evaluated: a run, a checkpoint, a generator's file, or a folder of images made by any program."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from facegan.console import shown
from facegan.errors import CheckpointError, DatasetError, SettingsError, suggest
from facegan.faces.crop import grey
from facegan.faces.decode import Photo, Rejected
from facegan.files import files_below, human_bytes, sha256_file
from facegan.nets import Generator
from facegan.nets.weights import FILE_NAME
from facegan.run_dir import CHECKPOINTS, RECORD, STATE, count_of, newest_images, read_facts, read_run
from facegan.shards.format import has_photo_suffix
from facegan.system import available_bytes

_MAX_FILE_BYTES = 100_000_000  # an image of 128×128 is smaller
SampleFn = Callable[[Generator, int, int], Tensor]  # generator, number, seed → uint8 (N, C, S, S) on the CPU
Kind = Literal["run", "checkpoint", "generator", "folder"]


@dataclass(frozen=True)
class EvalTarget:
    """
    Attributes:
        about: what ``measured`` of eval.json contains besides kind and path.
        trained_on: fingerprint of the training faces, "" if unknown.
    """

    kind: Kind
    path: Path
    about: dict[str, Any]
    trained_on: str = ""

    @property
    def quantization(self) -> str:
        """How its images are converted to 8 bits."""
        return "as the files have it" if self.kind == "folder" else "round((x + 1) · 127.5), clipped to 0 … 255"

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


def _generator_target(kind: Kind, file: Path, folder: Path) -> EvalTarget:
    about: dict[str, Any] = {}
    run = {"run": folder, "checkpoint": folder.parent.parent}.get(kind)
    facts = read_run(run) if run else None
    if kind == "checkpoint":
        images = read_facts(folder / STATE).get("images")
    else:
        images = newest_images(folder) if run else None
    if count_of(images) is not None:
        about["images_trained"] = images
    if facts and isinstance(facts.settings.get("method"), str):
        about["method"] = facts.settings["method"]
    about["generator_sha256"] = sha256_file(file)
    trained_on = facts.dataset.fingerprint if facts else ""
    return EvalTarget(kind, file if kind == "generator" else folder, about, trained_on)


def images_of(
    target: EvalTarget, generator: Generator | None, n: int, seed: int, shape: tuple[int, int], sample: SampleFn
) -> Tensor:
    """uint8 (N, C, S, S): ``n`` samples, or up to ``n`` images of the folder.

    Args:
        shape: side and channels of the real faces.

    Raises:
        SettingsError: the generator draws images of another shape, or ``n`` images do not fit in memory.
        DatasetError: the folder's images cannot be read, or have another size.
    """
    size, channels = shape
    if generator is None:
        return read_images(choose_files(image_files(target.path), n, seed), size, channels)
    spec = generator.spec
    if (spec.size, spec.channels) != shape:
        raise SettingsError(
            f"{target.path} draws {spec.size}×{spec.size} in {spec.channels} channels, but the real faces are "
            f"{size}×{size} in {channels}.\nName the faces that it was trained on, or similar ones, with --shards."
        )
    needed, free = n * channels * size**2, available_bytes()
    if needed > free:
        raise SettingsError(
            f"--n {n:,} needs {human_bytes(needed)} of memory, and {human_bytes(free)} are free. Choose a smaller --n."
        )
    return sample(generator, n, seed)


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


def choose_files(files: list[Path], n: int, seed: int) -> list[Path]:
    """Up to ``n`` files, chosen by the seed: the first ones may all belong to one class."""
    if len(files) <= n:
        return files
    chosen = np.random.default_rng(seed).choice(len(files), n, replace=False)
    return [files[i] for i in sorted(chosen)]


def read_images(files: list[Path], size: int, channels: int) -> Tensor:
    """uint8 (N, C, S, S). Nothing is resampled, because resampling changes metrics.

    Raises:
        DatasetError: a file cannot be read, or has another size.
    """
    images = torch.empty((len(files), channels, size, size), dtype=torch.uint8)
    for i, path in enumerate(files):
        pixels = _decode(path)
        height, width = pixels.shape[:2]
        if (height, width) != (size, size):
            raise DatasetError(
                f"{shown(path)} has {width}×{height} pixels, and the real faces have {size}×{size}.\n"
                f"Prepare faces with facegan prep --size 28, 32, 64 or 128, or draw {size}×{size} with the other "
                "program."
            )
        images[i] = torch.from_numpy(grey(pixels) if channels == 1 else pixels).permute(2, 0, 1)
    return images


def _decode(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) > _MAX_FILE_BYTES:
            raise Rejected("too_large")
        return Photo(data).pixels()
    except Rejected as rejected:
        raise DatasetError(
            f"{shown(path)} cannot be read as an image: {rejected.reason}. Remove it from the folder."
        ) from None
    except OSError as error:
        raise DatasetError(f"{shown(path)} cannot be read: {error.strerror or error}.") from None
