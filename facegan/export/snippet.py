"""Lines of Python that draw with an exported generator, and need no facegan: printed in the card, run by a test."""

from __future__ import annotations

from facegan.config import Law
from facegan.nets import NetSpec

# How a latent is drawn.
_TORCH_DRAWS: dict[Law, str] = {
    "normal": "torch.randn({shape})",
    "uniform": "torch.rand({shape}) * 2 - 1",
    "uniform01": "torch.rand({shape})",
    "sphere": "torch.nn.functional.normalize(torch.randn({shape})) * {length} ** 0.5",
}
_NUMPY_DRAWS: dict[Law, str] = {
    "normal": "numpy.random.randn({shape})",
    "uniform": "numpy.random.rand({shape}) * 2 - 1",
    "uniform01": "numpy.random.rand({shape})",
    "sphere": "numpy.random.randn({shape})\n"
    "latents *= {length} ** 0.5 / numpy.linalg.norm(latents, axis=1, keepdims=True)",
}

_TORCH = """\
import json, operator, torch
from functools import reduce
from safetensors.torch import load_file

graph, values = json.load(open("config.json"))["graph"], load_file("generator.safetensors")
values |= {{name: torch.tensor(value) for name, value in graph["constants"].items()}}
values["latents"] = {draw}
def named(path, roots={{"aten": torch.ops.aten, "operator": operator, "torch": torch}}):
    return reduce(getattr, path.split(".")[1:], roots[path.split(".")[0]])
def filled(x):
    if isinstance(x, list): return [filled(part) for part in x]
    return x if not isinstance(x, str) or x[:1] not in "%!" else values[x[1:]] if x[0] == "%" else named(x[1:])
for name, operation, arguments, more in graph["steps"]:
    values[name] = named(operation)(*filled(arguments), **{{key: filled(x) for key, x in more.items()}})
images = values[graph["output"]]  # {images}
"""

_ONNX = """\
import numpy, onnxruntime

latents = {draw}
(images,) = onnxruntime.InferenceSession("{file}").run(None, {{"latents": latents.astype("float32")}})
# images is {images}
"""

_PROGRAM = """\
import torch

generator = torch.export.load("generator.pt2").module()
images = generator({draw})  # {images}
"""


def torch_snippet(spec: NetSpec, count: int = 16) -> str:
    """By torch and safetensors, in the exported folder: at most 15 lines; ``images`` is (count, C, H, W)."""
    draw = _TORCH_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _TORCH.format(draw=draw, images=_shape(spec, count))


def onnx_snippet(spec: NetSpec, file: str, count: int = 16) -> str:
    """By onnxruntime alone."""
    draw = _NUMPY_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _ONNX.format(draw=draw, file=file, images=_shape(spec, count))


def program_snippet(spec: NetSpec, count: int = 16) -> str:
    """By torch alone."""
    draw = _TORCH_DRAWS[spec.law].format(shape=f"{count}, {spec.latent}", length=spec.latent)
    return _PROGRAM.format(draw=draw, images=_shape(spec, count))


def _shape(spec: NetSpec, count: int) -> str:
    return f"({count}, {spec.channels}, {spec.size}, {spec.size}), in −1 … 1"
