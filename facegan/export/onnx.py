"""A generator as ONNX: float32, float16 and 8-bit files, and how far each is from PyTorch.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from facegan import __version__
from facegan.errors import ExportError, SettingsError
from facegan.nets import Generator, NetSpec, draw_inputs
from facegan.nets.layers import IMAGE_RANGE

FILE_NAME, FP16_NAME, INT8_NAME = "generator.onnx", "generator-fp16.onnx", "generator-int8.onnx"
OPSET = 23  # the newest that PyTorch's exporter declares; onnxruntime reads it since 1.22
_EXTRA = ("onnx", "onnxscript", "onnxruntime")
_CALIBRATION_LATENTS, _CALIBRATION_BATCH = 128, 32
_QUANTIZED_OPS = ["Conv", "ConvTranspose", "Gemm", "MatMul"]
_PREPROCESSED = {"onnx.quant.pre_process": "onnxruntime.quant"}  # says to onnxruntime that shapes are inferred
_DEVIATION_BATCH = 16
_GREY_LEVELS = 127.5  # grey levels per unit of the image range −1 … 1


def require_onnx() -> None:
    """Raise SettingsError unless the extra ``facegan[onnx]`` is installed."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise SettingsError(f"ONNX files need {', '.join(missing)}. Install the extra: pip install 'facegan[onnx]'")


def onnx_bytes(program: ExportedProgram, generator: Generator) -> bytes:
    """The trace of a generator in eval mode as float32 ONNX for any N: ``latents`` (N, Z), and ``condition`` (N, K) if
    it is conditional → ``images`` (N, C, H, W).

    The same weights and versions give the same bytes, without paths of this machine. The metadata entry ``facegan`` is
    `describe` as JSON. Raises ExportError if it uses an operation that ONNX lacks.
    """
    inputs = list(generator.spec.split(torch.zeros(0, generator.spec.inputs)))
    names: Any = {"input_names": inputs, "output_names": ["images"]}
    try:
        exported: Any = torch.onnx.export(program, (), **names, opset_version=OPSET, dynamo=True, verbose=False)
    except torch.onnx.errors.OnnxExporterError as error:
        text = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"The generator of train.nets = {generator.spec.name} cannot be written as ONNX: {text}\n"
            "facegan export works without --onnx; facegan report --explore needs ONNX."
        ) from error
    model = exported.model_proto
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""  # this and the metadata name files and lines of this machine
        part.ClearField("metadata_props")
    graph.ClearField("value_info")  # inner shapes, which every reader infers
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "N"
    entry = model.metadata_props.add()
    entry.key, entry.value = "facegan", json.dumps(describe(generator), sort_keys=True)
    return model.SerializeToString(deterministic=True)


def describe(generator: Generator) -> dict[str, Any]:
    """A generator's inputs and outputs as plain values."""
    spec, condition = generator.spec, generator.spec.condition
    conditional: dict[str, Any] = {}
    if condition:
        values: Any = {"classes": condition.classes} if condition.classes else {"values": [-1, 1]}
        shape = {"shape": ["N", condition.length], "dtype": "float32"}
        conditional = {"condition": {**shape, "names": list(condition.names), **values}}
    return {
        "facegan": __version__,
        "latents": {"shape": ["N", spec.latent], "dtype": "float32", "law": spec.distribution},
        **conditional,
        "images": {
            "shape": ["N", spec.channels, spec.size, spec.size],
            "dtype": "float32",
            "range": list(IMAGE_RANGE),
            "channels": "RGB" if spec.channels == 3 else "grey",
        },
    }


@dataclass(frozen=True)
class Deviation:
    """Differences from PyTorch over all pixels of all samples, in grey levels (0 … 255) before rounding."""

    samples: int
    mean_greys: float
    largest_greys: float

    def __str__(self) -> str:
        return f"{self.mean_greys:.2g}, at most {self.largest_greys:.2g}"


@torch.inference_mode()
def deviation(data: bytes, generator: Generator, samples: int, seed: int) -> Deviation:
    """Compare an ONNX file, run by onnxruntime on the CPU, with the generator in eval mode on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    spec = generator.spec
    draws = draw_inputs(spec, samples, seed, "compared")
    total = largest = 0.0
    for batch in draws.split(_DEVIATION_BATCH):
        (images,) = session.run(["images"], _feeds(spec, batch))
        differences = np.abs(np.asarray(images, np.float64) - generator(batch).numpy())
        total, largest = total + float(differences.sum()), max(largest, float(differences.max()))
    mean = total / (samples * spec.channels * spec.size**2)
    # Three digits: the others differ from CPU to CPU.
    return Deviation(samples, *(float(f"{_GREY_LEVELS * value:.3g}") for value in (mean, largest)))


def _feeds(spec: NetSpec, inputs: Tensor) -> dict[str, np.ndarray]:
    return {name: part.contiguous().numpy() for name, part in spec.split(inputs).items()}


def to_fp16(data: bytes) -> bytes:
    """The float32 file in half precision; inputs and images stay float32."""
    import onnx

    float16, _ = _onnxruntime_tools()
    return _finish(float16.convert_float_to_float16(onnx.load_from_string(data), keep_io_types=True), data)


def to_int8(data: bytes, spec: NetSpec) -> bytes:
    """The float32 file by static quantization: int8 weights per channel, uint8 activations. Latents and images stay."""
    import onnx

    _, quantization = _onnxruntime_tools()

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            draws = draw_inputs(spec, _CALIBRATION_LATENTS, 0, "calibration")
            self.batches = iter(draws.split(_CALIBRATION_BATCH))

        def get_next(self) -> Any:
            batch = next(self.batches, None)
            return None if batch is None else _feeds(spec, batch)

    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    onnx.helper.set_model_props(model, _PREPROCESSED)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / INT8_NAME
        quantization.quantize_static(
            model,
            out,
            Calibration(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=_QUANTIZED_OPS,
            per_channel=True,
            reduce_range=True,  # 7-bit weights: CPUs without VNNI overflow with 8
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return _finish(onnx.load(out), data)


def _finish(model: Any, float32: bytes) -> bytes:
    """With the metadata of the float32 file, without inferred shapes."""
    import onnx

    model.graph.ClearField("value_info")
    original = onnx.load_from_string(float32)
    onnx.helper.set_model_props(model, {entry.key: entry.value for entry in original.metadata_props})
    return model.SerializeToString(deterministic=True)


def _onnxruntime_tools() -> tuple[Any, Any]:
    """``onnxruntime.transformers.float16`` and ``onnxruntime.quantization``.

    The former's package adds its folder, whose modules have common names, to ``sys.path``; it is removed again.
    """
    path = list(sys.path)
    try:
        from onnxruntime import quantization
        from onnxruntime.transformers import float16
    finally:
        sys.path[:] = path
    return float16, quantization
