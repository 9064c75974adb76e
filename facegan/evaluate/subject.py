"""Who is measured: a run, a checkpoint or a file with a generator, or a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from facegan.errors import CheckpointError, DatasetError, SettingsError, suggest
from facegan.evaluate.folder import choose_files, image_files, read_images
from facegan.files import human_bytes, sha256_file
from facegan.machine import available_bytes
from facegan.nets import Generator, load_generator
from facegan.nets.weights import FILE_NAME
from facegan.own import Trust
from facegan.run_folder import CHECKPOINTS, RECORD, STATE, count_of, newest_images, read_facts, read_run

# Given a generator, how many and the seed: uint8 (N, C, S, S) on the CPU.
Sampling = Callable[[Generator, int, int], Tensor]
Kind = Literal["run", "checkpoint", "generator", "folder"]


@dataclass(frozen=True)
class Subject:
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


def find_subject(path: Path) -> Subject:
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
    return Subject("folder", path, {"images": count})


def generator_of(subject: Subject, device: str, trust_code: Trust) -> Generator | None:
    """None of a folder of images.

    Raises:
        CheckpointError, SettingsError: as `load_generator`.
    """
    return None if subject.kind == "folder" else load_generator(subject.path, device, trust_code=trust_code)


def images_of(
    subject: Subject, generator: Generator | None, n: int, seed: int, shape: tuple[int, int], sampling: Sampling
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


def quantisation(subject: Subject) -> str:
    """How its images came to have 8 bits."""
    return "as the files have it" if subject.kind == "folder" else "round((x + 1) · 127.5), clipped to 0 … 255"


def _of_generator(kind: Kind, file: Path, folder: Path) -> Subject:
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
    return Subject(kind, file if kind == "generator" else folder, about, trained_on)
