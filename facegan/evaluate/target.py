"""Who is measured: a run, a checkpoint or a file with a generator, or a folder of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from facegan.console import shown
from facegan.errors import CheckpointError, DatasetError, SettingsError, one_of, suggest
from facegan.faces.crop import grey
from facegan.faces.decode import Photo, Rejected
from facegan.files import files_below, human_bytes, sha256_file
from facegan.nets import Generator, load_generator
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.run_dir import CHECKPOINTS, RECORD, STATE, count_of, newest_images, read_facts, read_run
from facegan.shards.format import has_photo_suffix
from facegan.system import available_bytes

# A folder of images, made by any program, as samples. Files are decoded as carefully as photographs are.

_MAX_BYTES = 100_000_000  # of a file: more is no image of 128×128


def image_files(folder: Path) -> list[Path]:
    """All images in a folder and below it, by their suffix, in the order of their paths; hidden ones are left out."""
    files = files_below(os.fsencode(folder), lambda _, name: not _is_hidden(name.rstrip(b"/")))
    return sorted(
        folder / os.fsdecode(name)
        for name, entry in files
        if not _is_hidden(name) and has_photo_suffix(name) and Path(os.fsdecode(entry.path)).is_file()
    )


def _is_hidden(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(b".")


def choose_files(files: list[Path], n: int, seed: int) -> list[Path]:
    """All of up to ``n``; of more, ``n`` by the seed: the first ones might be of one class, or of one day."""
    if len(files) <= n:
        return files
    chosen = np.random.default_rng(seed).choice(len(files), n, replace=False)
    return [files[i] for i in sorted(chosen)]


def read_images(files: list[Path], size: int, channels: int) -> Tensor:
    """uint8 (N, C, S, S).

    Raises:
        DatasetError: a file can't be read, or is of another size: nothing is resampled here, for whatever did it would
            be measured too.
    """
    images = torch.empty((len(files), channels, size, size), dtype=torch.uint8)
    for i, pixels in enumerate(_decoded(files)):
        height, width = pixels.shape[:2]
        if (height, width) != (size, size):
            raise DatasetError(
                f"{shown(files[i])} has {width}×{height} pixels, and the real faces have {size}×{size}: images of one "
                "size can be compared.\n"
                f"Make faces of {one_of((28, 32, 64, 128))} with facegan prep --size, or let the other program draw "
                f"{size}×{size}."
            )
        images[i] = torch.from_numpy(grey(pixels) if channels == 1 else pixels).permute(2, 0, 1)
    return images


def _decoded(files: list[Path]) -> Iterator[np.ndarray]:
    for path in files:
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise Rejected("too_large")
            yield Photo(data).pixels()
        except Rejected as rejected:
            raise DatasetError(
                f"{shown(path)} can't be read as an image: {rejected.reason}. Take it out of the folder."
            ) from None
        except OSError as error:
            raise DatasetError(f"{shown(path)} can't be read: {error.strerror or error}.") from None


# Given a generator, how many and the seed: uint8 (N, C, S, S) on the CPU.
SampleFn = Callable[[Generator, int, int], Tensor]
Kind = Literal["run", "checkpoint", "generator", "folder"]


@dataclass(frozen=True)
class EvalTarget:
    """
    Attributes:
        about: what ``measured`` tells of it beside kind and path.
        trained_on: fingerprint of the faces that it was trained on; "" where nothing tells.
    """

    kind: Kind
    path: Path
    about: dict[str, Any]
    trained_on: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "path": str(self.path), **self.about}


def find_target(path: Path) -> EvalTarget:
    """What a path names. Nothing heavy is read yet.

    Raises:
        CheckpointError: a run has no checkpoint yet.
        DatasetError: a folder holds neither a generator nor images.
        SettingsError: there is nothing.
    """
    if path.is_file():
        return _of_generator("generator", path, path.parent)
    if not path.is_dir():
        beside = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise SettingsError(
            f"There is no {path}: name a run, a generator's .safetensors or a folder of images."
            f"{suggest(path.name, beside)}"
        )
    if (path / STATE).is_file() and (path / FILE_NAME).is_file():
        return _of_generator("checkpoint", path / FILE_NAME, path)
    if (path / FILE_NAME).is_file():
        return _of_generator("run", path / FILE_NAME, path)
    if (path / RECORD).is_file() or (path / CHECKPOINTS).is_dir():
        raise CheckpointError(
            f"The run {path} has no {FILE_NAME} yet: it writes it with its first checkpoint.\n"
            "Start `facegan train` with this --run again, or name another run."
        )
    count = len(image_files(path))
    if not count:
        raise DatasetError(f"{path} holds neither a run nor images: nothing there can be measured.")
    return EvalTarget("folder", path, {"images": count})


def generator_of(subject: EvalTarget, device: str, trust_code: Trust) -> Generator | None:
    """None of a folder of images.

    Raises:
        CheckpointError, SettingsError: as `load_generator`.
    """
    return None if subject.kind == "folder" else load_generator(subject.path, device, trust_code=trust_code)


def images_of(
    subject: EvalTarget, generator: Generator | None, n: int, seed: int, shape: tuple[int, int], sampling: SampleFn
) -> Tensor:
    """uint8 (N, C, S, S): ``n`` samples, or up to as many images of the folder.

    Args:
        shape: side and channels of the real faces.

    Raises:
        SettingsError: it draws images of another size than the real faces, or too many for the memory.
        DatasetError: the folder's images can't be read, or are of another size.
    """
    size, channels = shape
    if generator is None:
        return read_images(choose_files(image_files(subject.path), n, seed), size, channels)
    spec = generator.spec
    if (spec.size, spec.channels) != shape:
        raise SettingsError(
            f"{subject.path} draws {spec.size}×{spec.size} of {spec.channels} channels, and the real faces are "
            f"{size}×{size} of {channels}.\nName the faces that it was trained on, or faces like them, with --shards."
        )
    needed, free = n * channels * size**2, available_bytes()
    if needed > free:
        raise SettingsError(
            f"--n {n:,}: so many samples take {human_bytes(needed)} of memory, and {human_bytes(free)} are free.\n"
            "Choose a smaller --n."
        )
    return sampling(generator, n, seed)


def quantisation(subject: EvalTarget) -> str:
    """How its images came to have 8 bits."""
    return "as the files have it" if subject.kind == "folder" else "round((x + 1) · 127.5), clipped to 0 … 255"


def _of_generator(kind: Kind, file: Path, folder: Path) -> EvalTarget:
    """``folder`` is the run, the checkpoint, or where a lone file lies."""
    about: dict[str, Any] = {}
    run = {"run": folder, "checkpoint": folder.parent.parent}.get(kind)
    facts = read_run(run) if run else None
    of_checkpoint = kind == "checkpoint"
    images = read_facts(folder / STATE).get("images") if of_checkpoint else newest_images(folder) if run else None
    if count_of(images) is not None:
        about["images_trained"] = images
    if facts and isinstance(facts.settings.get("method"), str):
        about["method"] = facts.settings["method"]
    about["generator_sha256"] = sha256_file(file)
    trained_on = facts.dataset.fingerprint if facts else ""
    return EvalTarget(kind, file if kind == "generator" else folder, about, trained_on)
