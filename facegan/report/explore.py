"""The latent explorer: a run's page in a folder, with its generator beside it, drawn by the reader's own browser.

Pages that are opened from a disk may fetch nothing, not even what lies beside them, but they may run scripts that lie
there. So the generator and the runtime are scripts that hold them as base64 text, the runtime packed by gzip before.
"""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

from facegan.errors import SettingsError
from facegan.export.onnx import write_onnx
from facegan.files import disk_errors, make_folder, write_bytes
from facegan.nets import Generator, load_generator
from facegan.nets.weights import FILE_NAME
from facegan.own import Trust
from facegan.report.directions import main_directions
from facegan.report.marked import Baseline
from facegan.report.runs import Run
from facegan.report.write import run_page
from facegan.train.grid import sample_latents
from facegan.web import known_packages, web_files

INDEX, BESIDE = "index.html", "explorer"
FACES = 16  # to choose from
_RUNTIME, _MODULE, _PROGRAM = "ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"
_DIGITS = 7  # of float32: its value again when read


def write_explorer(run: Run, out: Path, baseline: Baseline | None = None, *, trust_code: Trust = False) -> Path:
    """Fills the folder ``out``: ``index.html``, to be opened as it lies there, and ``explorer/``; the page comes last.

    Raises:
        CheckpointError: the run has no generator, or one that can't be read.
        ExportError: the generator can't be written as ONNX.
        SettingsError: ``out`` holds something else, or the extra ``facegan[onnx]`` is not installed.
        WebPackageError: the runtime or the chart library can't be had.
        DiskError: ``out`` can't be written.
    """
    refuse_foreign(out)
    generator = load_generator(run.folder / FILE_NAME, trust_code=trust_code)
    onnx, runtime = _onnx(generator), web_files(known_packages()["onnxruntime-web"])
    page = run_page(run, baseline, _told(generator))
    make_folder(out)
    beside = make_folder(out / BESIDE)
    write_bytes(beside / "generator.js", _as_script("generator", onnx))
    packed = {name: gzip.compress(runtime[name], 6, mtime=0) for name in (_MODULE, _PROGRAM)}
    write_bytes(beside / "module.js", _as_script("module", packed[_MODULE]))
    write_bytes(beside / "program.js", _as_script("program", packed[_PROGRAM]))
    write_bytes(beside / "runtime.js", runtime[_RUNTIME])
    write_bytes(out / INDEX, page)
    return out / INDEX


def refuse_foreign(out: Path) -> None:
    """
    Raises:
        SettingsError: ``out`` is a file, or a folder that no explorer was written into.
    """
    with disk_errors(out):
        # One that was killed leaves what lies beside the page alone.
        stands = out.exists() and (not out.is_dir() or any(path.name != BESIDE for path in out.iterdir()))
        if stands and not (out / BESIDE / "generator.js").is_file():
            raise SettingsError(f"{out} is there already, and no explorer: name a new folder with --out.")


def _onnx(generator: Generator) -> bytes:
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / "generator.onnx"
        write_onnx(generator, path)
        return path.read_bytes()


def _told(generator: Generator) -> dict[str, Any]:
    """What the page's script has to know."""
    spec, directions = generator.spec, main_directions(generator)
    faces = sample_latents(FACES, spec.latent, 0, law=spec.law)
    return {
        "size": spec.size,
        "channels": spec.channels,
        "latent": spec.latent,
        "law": spec.law,
        "faces": _rounded(faces.tolist()),
        "directions": [
            {"step": step, "share": round(share, 4)}
            for step, share in zip(_rounded(directions.steps.tolist()), directions.shares, strict=True)
        ],
    }


def _rounded(rows: list[list[float]]) -> list[list[float]]:
    return [[float(f"{value:.{_DIGITS}g}") for value in row] for row in rows]


def _as_script(name: str, data: bytes) -> bytes:
    text = base64.b64encode(data).decode()
    return f"(self.facegan ??= {{}})[{json.dumps(name)}] = {json.dumps(text)};\n".encode()
