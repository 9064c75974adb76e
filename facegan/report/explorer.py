"""The latent explorer: a run's page in a folder with its generator, which runs in the reader's browser.

A page opened from disk cannot fetch files, but it can run scripts beside it. So the generator and the runtime are
scripts with base64 text; the runtime is compressed by gzip.

N latents, Z length of a latent, A activations of the first layer, K directions.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facegan.errors import ExportError, SettingsError
from facegan.export.onnx import onnx_bytes, require_onnx
from facegan.export.torch_export import trace
from facegan.files import disk_errors, make_folder, write_bytes
from facegan.nets import Generator, load_generator
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.report.runs import Run
from facegan.report.sections import Baseline
from facegan.report.write import run_page
from facegan.sample.directions import read_directions
from facegan.sample.latents import sample_inputs, sample_latents
from facegan.web import known_packages, web_files

INDEX, FOLDER = "index.html", "explorer"
FACES = 16  # to choose from
SAMPLES = 1_024  # latents whose activations give the directions
_BATCH = 256
_SEED = 0
_RUNTIME = "ort.wasm.min.js"
_PACKED = {"module": "ort-wasm-simd-threaded.mjs", "program": "ort-wasm-simd-threaded.wasm"}
_DIGITS = 7  # of float32
# Generators do not end with these.
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.PReLU, nn.Softplus)


def write_explorer(run: Run, out: Path, baseline: Baseline | None = None, *, trust_code: Trust = False) -> Path:
    """Write ``explorer/`` and then ``index.html``, to be opened from disk, into the folder ``out``.

    Raises SettingsError if ``out`` is another folder, or the extra ``facegan[onnx]`` is not installed.
    """
    with disk_errors(out):
        is_used = out.exists() and (not out.is_dir() or any(path.name != FOLDER for path in out.iterdir()))
        if is_used and not (out / FOLDER / "generator.js").is_file():
            raise SettingsError(f"{out} exists and is not an explorer. Name a new folder with --out.")
    require_onnx()
    generator = load_generator(run.folder / FILE_NAME, trust_code=trust_code)
    onnx = onnx_bytes(trace(generator), generator)
    runtime = web_files(known_packages()["onnxruntime-web"])
    page = run_page(run, baseline, _page_data(generator, run.folder))
    folder = make_folder(out / FOLDER)
    packed = {name: gzip.compress(runtime[file], 6, mtime=0) for name, file in _PACKED.items()}
    for name, data in {"generator": onnx, **packed}.items():
        write_bytes(folder / f"{name}.js", _as_script(name, data))
    write_bytes(folder / "runtime.js", runtime[_RUNTIME])
    write_bytes(out / INDEX, page)
    return out / INDEX


def _page_data(generator: Generator, run: Path) -> dict[str, Any]:
    """The values for the page's script."""
    spec, (steps, shares) = generator.spec, main_directions(generator)
    faces = sample_latents(FACES, spec.latent, 0, distribution=spec.distribution)
    condition = spec.condition
    directions = zip(_rounded(steps), shares, strict=True)
    named = list[dict[str, Any]]()
    with suppress(SettingsError):  # there are none, or they are those of an older checkpoint
        found = read_directions(run, spec.latent)
        effects = found.effects.diagonal().tolist()
        parts = zip(found.names, effects, _rounded(found.steps), strict=True)
        named = [{"step": step, "name": name, "effect": round(effect, 4)} for name, effect, step in parts]
    return {
        "size": spec.size,
        "channels": spec.channels,
        "latent": spec.latent,
        "distribution": spec.distribution,
        "faces": _rounded(faces),
        "condition": condition
        and {
            "names": condition.names,
            "classes": condition.classes,
            "known": sorted({row[0] for row in condition.table}) if condition.classes else [],
            "usual": list(condition.usual.values()),
        },
        "directions": [*named, *({"step": step, "share": round(share, 4)} for step, share in directions)],
    }


def _rounded(rows: Tensor) -> list[list[float]]:
    return [[float(f"{value:.{_DIGITS}g}") for value in row] for row in rows.tolist()]


def _as_script(name: str, data: bytes) -> bytes:
    text = base64.b64encode(data).decode()
    return f"(self.facegan ??= {{}})[{json.dumps(name)}] = {json.dumps(text)};\n".encode()


@torch.inference_mode()
def main_directions(generator: Generator, count: int = 8) -> tuple[Tensor, list[float]]:
    """Latent steps (K, Z) of one standard deviation of the activations along each of their main directions, and the
    directions' shares of the activations' variance (K,), descending.

    They are principal components of the first layer's activations, mapped back to latents by regression.
    Härkönen, Hertzmann, Lehtinen & Paris 2020, "GANSpace: discovering interpretable GAN controls" (arXiv:2004.02546),
    section 2.2. With Y the centred activations (N, A) of latents X (N, Z), and Y = U S Vᵀ, the coordinates along
    direction k have the standard deviation S_k / √N; in units of it they are √N U_k. They are uncorrelated, so the
    least-squares fit of X by each of them is Uᵀ_k X / √N, the step of one unit. The latents are those of seed 0,
    with the most frequent condition.
    """
    spec, condition = generator.spec, generator.spec.condition
    if condition:
        spec = replace(spec, condition=condition.given(condition.usual))
    inputs = sample_inputs(spec, SAMPLES, _SEED)
    latents, activations = inputs[:, : spec.latent], _first_activations(generator, inputs)
    activations -= activations.mean(dim=0)
    # U and S² are the eigenvectors and eigenvalues of Y Yᵀ, which is (N, N) however wide the layer is.
    values, vectors = torch.linalg.eigh((activations @ activations.T).double())
    count = min(count, spec.latent)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)[:, :count]
    steps = vectors.T @ latents.double() / SAMPLES**0.5
    # The sign of an eigenvector is arbitrary: make the largest part of a step positive on every machine.
    largest = steps.gather(1, steps.abs().argmax(dim=1, keepdim=True))
    steps *= torch.where(largest < 0, -1.0, 1.0)
    total = values.sum().clamp_min(1e-30)
    return steps.float(), (values[:count] / total).tolist()


def _first_activations(generator: Generator, latents: Tensor) -> Tensor:
    """(N, A) of the first activation module, or of the first layer with weights if there is none."""
    leaves = [layer for layer in generator.modules() if not any(True for _ in layer.children())]
    activations = [layer for layer in leaves if isinstance(layer, _ACTIVATIONS)]
    for layers in (activations, [layer for layer in leaves if any(True for _ in layer.parameters())]):
        found = [_first_output(generator, layers, part) for part in latents.split(_BATCH)]
        if found[0]:
            return torch.cat([outputs[0] for outputs in found])
    raise ExportError(
        f"The generator of train.nets = {generator.spec.name} has no layer with observable activations, so it has no\n"
        "main directions of variation. Leave --explore out."
    )


def _first_output(generator: Generator, layers: Sequence[nn.Module], latents: Tensor) -> list[Tensor]:
    """The output of the layer that runs first; empty if none runs."""
    outputs: list[Tensor] = []

    def observe(layer: nn.Module, inputs: Any, output: Any) -> None:
        if not outputs:
            outputs.append(output.float().flatten(1).clone())  # a later layer may work in place

    hooks = [layer.register_forward_hook(observe) for layer in layers]
    generator(latents)
    for hook in hooks:
        hook.remove()
    return outputs
