"""`export_generator`: a generator in a folder that other programs can use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facegan.config import ExportConfig
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.export import card as cards
from facegan.export import onnx, torch_export
from facegan.files import (
    TEMPORARY,
    disk_errors,
    exclusive,
    fsync,
    human_bytes,
    make_folder,
    remove_partials,
    write_bytes,
)
from facegan.nets import Generator, load_generator
from facegan.nets.weights import FILE_NAME as WEIGHTS_NAME
from facegan.plugins import Trust
from facegan.run_dir import read_facts
from facegan.sample.generate import grid, png_bytes, sample_images

FORMAT = 1
CONFIG_NAME = "config.json"  # written last: if it exists, the folder is complete
_GRAPHS = (torch_export.FILE_NAME, onnx.FILE_NAME, onnx.FP16_NAME, onnx.INT8_NAME)
NAMES = (WEIGHTS_NAME, *_GRAPHS, cards.PICTURE_NAME, cards.FILE_NAME, CONFIG_NAME)
_FRONT_MATTER_BYTES = 4_096
_LOCK, _STAGING = ".facegan-export.lock", f".export{TEMPORARY}"
Deviations = dict[str, onnx.Deviation]


@dataclass(frozen=True)
class Exported:
    """Sizes of the files by name, and how far the ONNX files are from PyTorch."""

    folder: Path
    generator: Path
    files: Mapping[str, int]
    differences: Mapping[str, onnx.Deviation]

    def to_json(self) -> dict[str, Any]:
        differences = {name: asdict(found) for name, found in self.differences.items()}
        paths = {"out": str(self.folder), "generator": str(self.generator)}
        return {**paths, "files": dict(self.files), "differences": differences}

    def rows(self) -> list[list[str]]:
        """Rows of a table for people: name, size, difference."""
        differences = {name: f"{found} grey levels" for name, found in self.differences.items()}
        return [[name, human_bytes(size), differences.get(name, "")] for name, size in self.files.items()]


def plan_export(run: Path, folder: Path, config: ExportConfig) -> list[str]:
    """Names of the files that `export_generator` would write; raises what it raises first, and writes nothing."""
    _check_folder(cards.find_provenance(run), folder, config)
    wanted = (True, config.program, config.with_onnx, config.fp16, config.int8, True, True, True)
    return [name for name, is_wanted in zip(NAMES, wanted, strict=True) if is_wanted]


def export_generator(
    run: Path,
    folder: Path,
    config: ExportConfig | None = None,
    *,
    console: Console | None = None,
    trust_code: Trust = False,
) -> Exported:
    """Write a generator's weights, graphs, description, samples and model card into ``folder``.

    ``run`` is a run, one of its checkpoints, or a generator's file. Files of an earlier export are replaced or removed;
    other files stay. An interrupted export leaves no config.json, and the same call completes it. The same generator,
    settings and versions give the same bytes. Nothing is pickled.

    Raises:
        CheckpointError: there is no generator, or it cannot be read.
        SettingsError: the generator names untrusted code; ``folder`` is the run's own or contains files of these names
            that no export wrote; or the packages for ONNX are missing.
        ExportError: the generator cannot be traced or written.
        DiskError: ``folder`` cannot be written.
    """
    config, console = config or ExportConfig(), console or Console(quiet=True)
    provenance = cards.find_provenance(run)
    _check_folder(provenance, folder, config)
    generator = load_generator(provenance.file, trust_code=trust_code)
    for sentence in provenance.missing:
        console.warn(sentence)
    is_new, staging = not folder.exists(), folder / _STAGING
    try:
        make_folder(folder)
        with exclusive(folder / _LOCK, f"Another facegan export is at work in {folder}"), disk_errors(folder):
            try:
                remove_partials(folder)
                make_folder(staging)
                contents, differences = _contents(provenance, generator, config)
                for name, data in contents.items():
                    write_bytes(staging / name, data)
                _move_files(staging, folder, contents)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                (folder / _LOCK).unlink(missing_ok=True)
    finally:
        if is_new:
            with suppress(OSError):  # it has files, unless the export failed
                folder.rmdir()
    return Exported(folder, provenance.file, {name: len(data) for name, data in contents.items()}, differences)


def is_export(folder: Path) -> bool:
    """Whether `export_generator` has written into a folder, completely or not."""
    config = read_facts(folder / CONFIG_NAME)
    if "facegan" in config and "latents" in config:
        return True
    with suppress(OSError), (folder / cards.FILE_NAME).open("rb") as file:
        return cards.LIBRARY.encode() in file.read(_FRONT_MATTER_BYTES).splitlines()
    return False


def _check_folder(provenance: cards.Provenance, folder: Path, config: ExportConfig) -> None:
    if folder.resolve() == provenance.file.resolve().parent:
        raise SettingsError(f"{folder} contains the generator itself. Choose another folder for the export.")
    with disk_errors(folder):
        foreign = [] if is_export(folder) else [name for name in NAMES if os.path.lexists(folder / name)]
    if foreign:
        raise SettingsError(
            f"{folder} contains {', '.join(foreign)}, which facegan export did not write and would overwrite.\n"
            "Choose another folder, or move the files away."
        )
    if config.with_onnx:
        onnx.require_onnx()


def _contents(
    provenance: cards.Provenance, generator: Generator, config: ExportConfig
) -> tuple[dict[str, bytes], Deviations]:
    """The files by name, in the order of `NAMES`, and how far each ONNX file is from PyTorch."""
    graphs, differences = _graphs(generator, config)
    picture = png_bytes(grid(sample_images(generator, config.samples, config.seed)))
    files = {WEIGHTS_NAME: provenance.file.read_bytes(), **graphs, cards.PICTURE_NAME: picture}
    facts = cards.CardFacts({name: len(data) for name, data in files.items()}, differences, config.samples)
    files[cards.FILE_NAME] = cards.card(generator.spec, provenance, facts).encode()
    description: dict[str, Any] = {"format": FORMAT, **onnx.describe(generator), "nets": generator.spec.to_json()}
    if provenance.images is not None:
        description["images_trained"] = provenance.images
    if differences:
        description["onnx"] = {"opset": onnx.OPSET, "differences": {name: asdict(d) for name, d in differences.items()}}
    description["files"] = {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }
    files[CONFIG_NAME] = (json.dumps(description, indent=1, ensure_ascii=False) + "\n").encode()
    return files, differences


def _graphs(generator: Generator, config: ExportConfig) -> tuple[dict[str, bytes], Deviations]:
    """The program and the ONNX files, and how far each ONNX file is from PyTorch."""
    if not (config.program or config.with_onnx):
        return {}, {}
    program, files = torch_export.trace(generator), dict[str, bytes]()
    if config.with_onnx:
        files[onnx.FILE_NAME] = onnx.onnx_bytes(program, generator)
    if config.fp16:
        files[onnx.FP16_NAME] = onnx.to_fp16(files[onnx.FILE_NAME])
    if config.int8:
        files[onnx.INT8_NAME] = onnx.to_int8(files[onnx.FILE_NAME], generator.spec)
    differences = {name: onnx.deviation(data, generator, config.compared, config.seed) for name, data in files.items()}
    if config.program:
        files = {torch_export.FILE_NAME: torch_export.program_bytes(program), **files}
    return files, differences


def _move_files(staging: Path, folder: Path, names: Collection[str]) -> None:
    """Move the card first, by which a half-filled folder is recognized as ours, and config.json last."""
    for name in (CONFIG_NAME, *(set(NAMES) - set(names))):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: (name != cards.FILE_NAME, NAMES.index(name))):
        (staging / name).replace(folder / name)
    fsync(folder)
