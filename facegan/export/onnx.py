"""A generator as an ONNX file: one graph with its weights, for onnxruntime and all that reads ONNX.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan import __version__
from facegan.errors import ExportError, SettingsError
from facegan.export.trace import trace
from facegan.files import write_bytes
from facegan.nets import Generator
from facegan.nets.spec import IMAGE_RANGE

if TYPE_CHECKING:
    from torch.export import ExportedProgram

FILE_NAME = "generator.onnx"
OPSET = 23  # the newest that PyTorch's exporter declares; onnxruntime reads it from 1.22 on
_EXTRA = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(generator: Generator, path: Path) -> None:
    """``latents`` (N, Z) float32 → ``images`` (N, C, H, W) float32 in [−1, 1], for any N, in eval mode.

    The same weights and versions give the same bytes; they tell no path of this machine. What goes in and comes out
    stands in the file's metadata as well: ``facegan`` is JSON as `about` has it.

    Raises:
        SettingsError: the packages of the extra ``facegan[onnx]`` are not there.
        ExportError: the generator can't be followed, or has an operation that ONNX has not.
        DiskError: ``path`` can't be written.
    """
    refuse_missing_packages()
    write_bytes(path, onnx_bytes(trace(generator), generator))


def refuse_missing_packages() -> None:
    """
    Raises:
        SettingsError: the extra is not installed.
    """
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"ONNX files need {', '.join(missing)}, not installed here. Install the extra: pip install 'facegan[onnx]'"
        )


def onnx_bytes(program: ExportedProgram, generator: Generator) -> bytes:
    """The file of a generator's trace; raises ExportError as `write_onnx` does."""
    import torch

    try:
        exported = torch.onnx.export(
            program,
            (),
            input_names=["latents"],
            output_names=["images"],
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    except torch.onnx.errors.OnnxExporterError as error:
        text = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"The generator of train.nets = {generator.spec.name} can't be written as ONNX: {text}\n"
            "facegan export without --onnx writes its weights all the same; facegan report needs ONNX for --explore."
        ) from error
    if exported is None:  # only without dynamo
        raise ExportError("torch.onnx gave no model.")
    model = exported.model_proto
    _tidy(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = "facegan", json.dumps(about(generator), sort_keys=True)
    return model.SerializeToString(deterministic=True)


def about(generator: Generator) -> dict[str, Any]:
    """What goes into a generator and comes out of it, as plain values."""
    spec = generator.spec
    return {
        "facegan": __version__,
        "latents": {"shape": ["N", spec.latent], "dtype": "float32", "law": spec.law},
        "images": {
            "shape": ["N", spec.channels, spec.size, spec.size],
            "dtype": "float32",
            "range": list(IMAGE_RANGE),
            "channels": "RGB" if spec.channels == 3 else "grey",
        },
    }


def _tidy(model: Any) -> None:
    """Takes out what the exporter tells of this machine and of its own work, and calls the batch N."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        part.ClearField("metadata_props")
    graph.ClearField("value_info")  # shapes inside, which every reader infers
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
