"""The latent explorer: a run's page in a folder, with its generator beside it, drawn by the reader's own browser.

Pages that are opened from a disk may fetch nothing, not even what lies beside them, but they may run scripts that lie
there. So the generator and the runtime are scripts that hold them as base64 text, the runtime packed by gzip before.
"""

from __future__ import annotations

import base64
import gzip
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facegan.errors import ExportError, SettingsError
from facegan.export.onnx import write_onnx
from facegan.files import disk_errors, make_folder, write_bytes
from facegan.nets import Generator, load_generator
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.report.runs import Run
from facegan.report.sections import Baseline
from facegan.report.write import run_page
from facegan.sample.generate import sample_latents
from facegan.web import known_packages, web_files

# The main directions in which a generator's images vary, found without looking at an image.
#
# Härkönen, Hertzmann, Lehtinen & Paris 2020, "GANSpace: discovering interpretable GAN controls" (arXiv:2004.02546),
# section 2.2: principal components of the first layer's activations, brought back to latents by regression.
#
# N latents, Z length of a latent, A activations of the first layer, K directions.

SAMPLES = 1_024
_BATCH = 256
_SEED = 0
# None with which a generator ends.
_BENDS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.PReLU, nn.Softplus)


@dataclass(frozen=True)
class Directions:
    """What a step along each direction adds to a latent.

    Attributes:
        steps: float32 (K, Z); one standard deviation of the activations along each direction.
        shares: of the activations' variance, (K,), falling.
    """

    steps: Tensor
    shares: list[float]


@torch.inference_mode()
def main_directions(generator: Generator, count: int = 8) -> Directions:
    """Deterministic: the latents are those that ``facegan sample`` draws with seed 0.

    With Y the activations (N, A) of latents X (N, Z), centred, and Y = U S Vᵀ, the coordinates of the samples along
    direction k have the standard deviation S_k / √N; in units of it they are √N U_k. Since these are not correlated,
    the least-squares fit of X by them is, for each k by itself, Uᵀ_k X / √N: what one unit adds to a latent.

    Raises:
        ExportError: the generator has no layer whose activations could be looked at.
    """
    spec = generator.spec
    latents = sample_latents(SAMPLES, spec.latent, _SEED, distribution=spec.law)
    activations = _first_activations(generator, latents)
    activations -= activations.mean(dim=0)
    # U and S² of Y are vectors and values of Y Yᵀ, which is (N, N) however wide the layer is.
    values, vectors = torch.linalg.eigh((activations @ activations.T).double())
    count = min(count, spec.latent)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)[:, :count]
    steps = vectors.T @ latents.double() / SAMPLES**0.5
    # An eigenvector's sign is any: the largest part of a step is to be positive, wherever this runs.
    largest = steps.gather(1, steps.abs().argmax(dim=1, keepdim=True))
    steps *= torch.where(largest < 0, -1.0, 1.0)
    total = values.sum().clamp_min(1e-30)
    return Directions(steps.float(), (values[:count] / total).tolist())


class _Enough(Exception):
    """The first layer was seen: what comes behind it need not be computed."""


def _first_activations(generator: Generator, latents: Tensor) -> Tensor:
    """(N, A): what the first non-linearity gives; or the first layer with weights, where none is a module."""
    leaves = [layer for layer in generator.modules() if not any(True for _ in layer.children())]
    bends: list[nn.Module] = [layer for layer in leaves if isinstance(layer, _BENDS)]
    weighted = [layer for layer in leaves if any(True for _ in layer.parameters())]
    for layers in (bends, weighted):
        found = [_seen(generator, layers, part) for part in latents.split(_BATCH)]
        if all(part is not None for part in found):
            return torch.cat([part for part in found if part is not None])
    raise ExportError(
        f"The generator of train.nets = {generator.spec.name} has no layer that could be looked at:\n"
        "its main directions of variation can't be found. Leave --explore out."
    )


def _seen(generator: Generator, layers: list[nn.Module], latents: Tensor) -> Tensor | None:
    """What the first of the layers to be reached gives; None where none is reached."""
    kept: list[Tensor] = []

    def keep(layer: nn.Module, given: Any, made: Any) -> None:
        kept.append(made.detach().float().flatten(1).clone())
        raise _Enough

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        generator(latents)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return kept[0] if kept else None


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
    faces = sample_latents(FACES, spec.latent, 0, distribution=spec.law)
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
