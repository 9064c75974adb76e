"""`export_generator`: a generator into a folder that other programs can use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from facegan.config import ExportConfig
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.export import card as cards
from facegan.export.onnx import FILE_NAME as ONNX_NAME
from facegan.export.onnx import (
    FP16_NAME,
    INT8_NAME,
    OPSET,
    Deviation,
    about,
    deviation,
    onnx_bytes,
    refuse_missing_packages,
    to_fp16,
    to_int8,
)
from facegan.export.provenance import Provenance, find_provenance
from facegan.export.torch_export import FILE_NAME as PROGRAM_NAME
from facegan.export.torch_export import NoGraph, graph_of, program_bytes, trace
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

# The picture is the one that facegan sample draws: these are pure functions, and nothing else of train is used.
from facegan.sample.generate import grid, png_bytes, sample_images

FORMAT = 1
CONFIG_NAME = "config.json"  # written last: where it stands, the folder is whole
NAMES = (
    WEIGHTS_NAME,
    PROGRAM_NAME,
    ONNX_NAME,
    FP16_NAME,
    INT8_NAME,
    cards.PICTURE_NAME,
    cards.FILE_NAME,
    CONFIG_NAME,
)
_FRONT_MATTER_BYTES = 4_096
_LOCK, _STAGING = ".facegan-export.lock", f".export{TEMPORARY}"


@dataclass(frozen=True)
class Exported:
    """What came of it: sizes of files by name, and how far ONNX files are from PyTorch."""

    folder: Path
    generator: Path
    files: Mapping[str, int]
    differences: Mapping[str, Deviation]

    def to_json(self) -> dict[str, Any]:
        return {
            "out": str(self.folder),
            "generator": str(self.generator),
            "files": dict(self.files),
            "differences": {name: apart.to_json() for name, apart in self.differences.items()},
        }

    def rows(self) -> list[list[str]]:
        """For people: name, size, difference."""
        apart = {
            name: f"{found.mean_greys:.2g}, at most {found.largest_greys:.2g} grey levels"
            for name, found in self.differences.items()
        }
        return [[name, human_bytes(size), apart.get(name, "")] for name, size in self.files.items()]


def plan_export(run: Path, folder: Path, config: ExportConfig) -> list[str]:
    """Names of the files that `export_generator` would write. Touches nothing; raises what it would at its start."""
    _refuse(find_provenance(run), folder, config)
    with_graphs = {PROGRAM_NAME: config.program, ONNX_NAME: config.with_onnx}
    asked = {**with_graphs, FP16_NAME: config.fp16, INT8_NAME: config.int8}
    return [name for name in NAMES if asked.get(name, True)]


def export_generator(
    run: Path,
    folder: Path,
    config: ExportConfig | None = None,
    *,
    console: Console | None = None,
    trust_code: Trust = False,
) -> Exported:
    """Weights, their description, graphs, samples and a card of a generator, into ``folder``.

    Files of an earlier export there are replaced, and those that this one does not write are removed; others are left
    alone. Stopped, it leaves a folder without config.json, which the same call completes. The same generator, settings
    and versions give the same bytes. Nothing is pickled.

    Args:
        run: a run, one of its checkpoints, or a generator's file.
        trust_code: as `facegan.load_generator` has it.

    Raises:
        CheckpointError: there is no generator, or it can't be read.
        SettingsError: the generator names code that is not trusted; ``folder`` is the run's own, or holds files of
            these names that are of no export; or packages for ONNX are missing.
        ExportError: the generator's operations can't be followed, or written.
        DiskError: ``folder`` can't be written.
    """
    config, console = config or ExportConfig(), console or Console(quiet=True)
    origin = find_provenance(run)
    _refuse(origin, folder, config)
    generator = load_generator(origin.file, trust_code=trust_code)
    for sentence in origin.missing:
        console.warn(sentence)
    made = not folder.exists()
    make_folder(folder)
    try:
        with exclusive(folder / _LOCK, f"Another facegan export is at work in {folder}"), disk_errors(folder):
            staging = folder / _STAGING
            try:
                remove_partials(folder)
                make_folder(staging)
                exported = _fill(staging, origin, generator, config, console)
                _put(staging, folder, exported)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
                (folder / _LOCK).unlink(missing_ok=True)
    except BaseException:
        if made:
            with suppress(OSError):  # it holds something by now
                folder.rmdir()
        raise
    return Exported(folder, origin.file, exported.files, exported.differences)


def _refuse(origin: Provenance, folder: Path, config: ExportConfig) -> None:
    if folder.resolve() == origin.file.resolve().parent:
        raise SettingsError(f"{folder} is where the generator itself lies. Choose another folder to export it to.")
    with disk_errors(folder):
        foreign = [] if is_export(folder) else [name for name in NAMES if os.path.lexists(folder / name)]
    if foreign:
        raise SettingsError(
            f"{folder} holds {', '.join(foreign)}, and facegan export did not write it: it would be lost.\n"
            "Choose another folder, or move it away."
        )
    if config.with_onnx:
        refuse_missing_packages()


def is_export(folder: Path) -> bool:
    """Whether `export_generator` has written into a folder, though it may have been stopped."""
    config = read_facts(folder / CONFIG_NAME)
    if "facegan" in config and "latents" in config:
        return True
    try:
        with (folder / cards.FILE_NAME).open("rb") as file:
            return cards.LIBRARY.encode() in file.read(_FRONT_MATTER_BYTES).splitlines()
    except OSError:
        return False


def _fill(staging: Path, origin: Provenance, generator: Generator, config: ExportConfig, console: Console) -> Exported:
    """All files, in ``staging``."""
    sizes: dict[str, int] = {}
    sums: dict[str, str] = {}

    def put(name: str, data: bytes) -> None:
        write_bytes(staging / name, data)
        sizes[name], sums[name] = len(data), hashlib.sha256(data).hexdigest()

    put(WEIGHTS_NAME, origin.file.read_bytes())
    program = trace(generator)
    try:
        graph, no_graph = graph_of(program), ""
    except NoGraph as reason:
        graph, no_graph = None, f"config.json can't say what it does: {reason}"
        console.warn(f"{no_graph}. Its card has no lines that draw without facegan.")
    differences = _onnx_files(program, generator, config, put)
    if config.program:
        put(PROGRAM_NAME, program_bytes(program))
    samples = sample_images(generator, config.samples, config.seed)
    put(cards.PICTURE_NAME, png_bytes(grid(samples)))
    told = _config(origin, generator, graph, differences)
    listed = {name: sizes[name] for name in NAMES if name in sizes}
    made = cards.CardFacts(listed, differences, no_graph, config.samples)
    put(cards.FILE_NAME, cards.card(generator.spec, origin, made).encode())
    told["files"] = {name: {"bytes": sizes[name], "sha256": sums[name]} for name in NAMES if name in sizes}
    put(CONFIG_NAME, config_text(told).encode())
    return Exported(staging, origin.file, {name: sizes[name] for name in NAMES if name in sizes}, differences)


def _onnx_files(
    program: Any, generator: Generator, config: ExportConfig, put: Callable[[str, bytes], None]
) -> dict[str, Deviation]:
    if not config.with_onnx:
        return {}
    files = {ONNX_NAME: onnx_bytes(program, generator)}
    if config.fp16:
        files[FP16_NAME] = to_fp16(files[ONNX_NAME])
    if config.int8:
        files[INT8_NAME] = to_int8(files[ONNX_NAME], generator.spec)
    for name, data in files.items():
        put(name, data)
    return {name: deviation(data, generator, config.compared, config.seed) for name, data in files.items()}


def _config(
    origin: Provenance, generator: Generator, graph: dict[str, Any] | None, differences: Mapping[str, Deviation]
) -> dict[str, Any]:
    told: dict[str, Any] = {"format": FORMAT, **about(generator), "nets": asdict(generator.spec)}
    if origin.images is not None:
        told["images_trained"] = origin.images
    if differences:
        told["onnx"] = {"opset": OPSET, "differences": {name: d.to_json() for name, d in differences.items()}}
    return {**told, "graph": graph}


def config_text(told: dict[str, Any]) -> str:
    """JSON in which a step of the graph is one line."""
    graph = told["graph"]
    text = json.dumps({**told, "graph": None}, indent=1, ensure_ascii=False)
    if graph is not None:
        steps = ",\n".join(f"   {json.dumps(step)}" for step in graph["steps"])
        rest = f'"constants": {json.dumps(graph["constants"])},\n  "output": {json.dumps(graph["output"])}'
        text = text.replace('"graph": null', f'"graph": {{\n  "steps": [\n{steps}\n  ],\n  {rest}\n }}', 1)
    return text + "\n"


def _put(staging: Path, folder: Path, exported: Exported) -> None:
    """config.json goes first and comes last: without it the folder is not whole. The card comes first: by it a folder
    that was left half done is known as ours."""
    (folder / CONFIG_NAME).unlink(missing_ok=True)
    for name in NAMES:
        if name not in exported.files:
            (folder / name).unlink(missing_ok=True)
    for name in sorted(exported.files, key=lambda name: (name != cards.FILE_NAME, NAMES.index(name))):
        (staging / name).replace(folder / name)
    fsync(folder)
