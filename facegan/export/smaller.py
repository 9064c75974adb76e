"""Smaller ONNX files, made of the float32 one: half precision, and 8-bit weights and activations.

Both take and give the same float32 latents and images.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from facegan.nets import NetSpec
from facegan.nets.noise import latents

FP16_NAME, INT8_NAME = "generator-fp16.onnx", "generator-int8.onnx"
_CALIBRATED_BY, _BATCH = 128, 32  # latents whose activations give the ranges of 8 bits
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
            self.left = iter(draws.split(_BATCH))

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
