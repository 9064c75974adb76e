"""Which device, and which number format on it."""

from __future__ import annotations

from typing import Literal

import torch

from facegan.errors import DeviceError, SettingsError, suggest
from facegan.machine import cpu_flags

Precision = Literal["fp32", "bf16", "fp16"]

_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_KINDS = ("auto", "cpu", "cuda", "mps")


def choose_device(asked: str) -> torch.device:
    """``auto`` takes a GPU where there is one.

    Raises:
        DeviceError: no such device here.
    """
    if asked == "auto":
        found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(found)
    kind, _, index = asked.partition(":")
    if kind not in _KINDS or (index and not (kind == "cuda" and index.isdecimal())):
        raise DeviceError(
            f"--device {asked} is not known: choose auto, cpu, cuda, cuda:N or mps.{suggest(kind, _KINDS)}"
        )
    if kind == "cuda":
        _check_cuda(asked, int(index or 0))
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps is not there: this is no Apple GPU. Use --device auto.")
    return torch.device(asked)


def _check_cuda(asked: str, index: int) -> None:
    if not torch.cuda.is_available():
        built = "this torch was built without CUDA" if torch.version.cuda is None else "torch sees no NVIDIA GPU"
        raise DeviceError(f"--device {asked} is not there: {built}. Use --device auto or --device cpu.")
    if index >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise DeviceError(f"--device {asked} is not there: the GPUs are cuda:0 to cuda:{last}. Use one of them.")


def choose_precision(asked: str, device: torch.device) -> Precision:
    """``auto`` takes bf16 where the hardware has instructions for it, else fp32.

    Raises:
        SettingsError: fp16 without a CUDA GPU.
    """
    if asked == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    if asked == "fp16" and device.type != "cuda":
        raise SettingsError(
            f"--precision fp16 needs a CUDA GPU, and the device is {device}: fp16 is slow there and its gradients\n"
            "underflow. Use --precision auto, bf16 or fp32."
        )
    return "bf16" if asked == "bf16" else "fp16" if asked == "fp16" else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, _DTYPES[precision], enabled=precision != "fp32")


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # By flags: torch.ops.mkldnn._is_mkldnn_bf16_supported() is true on CPUs that only emulate it, slower than fp32.
    return device.type == "cpu" and not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})
