"""A generator as an ONNX file: one graph with its weights, for onnxruntime and all that reads ONNX.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from facegan import __version__
from facegan.errors import ExportError, SettingsError
from facegan.export.torch_export import trace
from facegan.files import write_bytes
from facegan.nets import Generator, NetSpec
from facegan.nets.random import latents
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


# How far what an ONNX file draws lies from what PyTorch draws, for the same latents.

_DEVIATION_BATCH = 16
_GREYS = 127.5  # grey levels of 1 in the range −1 … 1


@dataclass(frozen=True)
class Deviation:
    """In grey levels of 0 … 255, before rounding, over all pixels of all samples."""

    samples: int
    mean_greys: float
    largest_greys: float

    def to_json(self) -> dict[str, float]:
        return asdict(self)


@torch.inference_mode()
def deviation(data: bytes, generator: Generator, samples: int, seed: int) -> Deviation:
    """
    Args:
        data: an ONNX file, run by onnxruntime on the CPU.
        generator: in eval mode, on the CPU.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    spec = generator.spec
    draws = latents(samples, spec.latent, seed, "compared", 0, "cpu", spec.law)
    total = largest = 0.0
    for batch in draws.split(_DEVIATION_BATCH):
        (images,) = session.run(["images"], {"latents": batch.numpy()})
        apart = np.abs(np.asarray(images, np.float64) - generator(batch).numpy())
        total, largest = total + float(apart.sum()), max(largest, float(apart.max()))
    mean = total / (samples * spec.channels * spec.size**2)
    return Deviation(samples, _rounded(mean * _GREYS), _rounded(largest * _GREYS))


def _rounded(value: float) -> float:
    """To three digits: what is behind them differs from CPU to CPU."""
    return float(f"{value:.3g}")


# Smaller ONNX files, made of the float32 one: half precision, and 8-bit weights and activations.
#
# Both take and give the same float32 latents and images.

FP16_NAME, INT8_NAME = "generator-fp16.onnx", "generator-int8.onnx"
_CALIBRATED_BY, _CALIBRATION_BATCH = 128, 32  # latents whose activations give the ranges of 8 bits
_QUANTISED = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")  # tells onnxruntime that shapes are inferred


def to_fp16(data: bytes) -> bytes:
    """Weights and operations in float16, but those that ONNX has in float32 alone."""
    import onnx

    model = _onnxruntime_tools()[0].convert_float_to_float16(onnx.load_from_string(data), keep_io_types=True)
    return _bytes(model, data)


def to_int8(data: bytes, spec: NetSpec) -> bytes:
    """Weights in int8 with a scale a channel; what goes through them in uint8, between the limits that it reaches for
    latents of a fixed seed (onnxruntime's static quantisation, QDQ)."""
    import onnx

    tools = _onnxruntime_tools()[1]

    class Calibration(tools.CalibrationDataReader):
        def __init__(self) -> None:
            draws = latents(_CALIBRATED_BY, spec.latent, 0, "calibration", 0, "cpu", spec.law)
            self.left = iter(draws.split(_CALIBRATION_BATCH))

        def get_next(self) -> Any:
            batch = next(self.left, None)
            return None if batch is None else {"latents": batch.numpy()}

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    onnx.helper.set_model_props(model, {_PREPARED[0]: _PREPARED[1]})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / INT8_NAME
        tools.quantize_static(
            model,
            out,
            Calibration(),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTISED,
            per_channel=True,
            reduce_range=True,  # 7 bits of weights: CPUs without VNNI overflow with 8
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
        )
        return _bytes(onnx.load(out), data)


def _bytes(model: Any, made_of: bytes) -> bytes:
    """With what the float32 file tells of itself, and without what was inferred on the way."""
    import onnx

    model.graph.ClearField("value_info")
    before = onnx.load_from_string(made_of)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in before.metadata_props})
    return model.SerializeToString(deterministic=True)


def _onnxruntime_tools() -> tuple[Any, Any]:
    """``onnxruntime.transformers.float16`` and ``onnxruntime.quantization``.

    The former's package adds its own folder, whose modules have common names, to where Python looks, and the latter
    finds some of them there: both are imported at once, and the folder is taken out again.
    """
    before = list(sys.path)
    try:
        from onnxruntime import quantization
        from onnxruntime.transformers import float16
    finally:
        sys.path[:] = before
    return float16, quantization
