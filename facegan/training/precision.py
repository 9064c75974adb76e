"""Number formats: fp32, TF32, bf16 and fp16."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from facegan.errors import SettingsError
from facegan.system import cpu_flags

Precision = Literal["fp32", "bf16", "fp16"]

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# torch creates these flags at run time, unseen by type checkers.
_backends: Any = torch.backends
_memory: Any = torch.utils.deterministic


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """``auto`` takes bf16 where the hardware has instructions for it, else fp32.

    Raises SettingsError for fp16 without a CUDA GPU, and bf16 on one that lacks it.
    """
    if wanted == "auto":
        return "bf16" if _has_bf16(device) else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise SettingsError(
            f"--precision fp16 needs a CUDA GPU, and the device is {device}: fp16 is slow there and underflows.\n"
            "Use --precision auto, bf16 or fp32."
        )
    if wanted == "bf16" and device.type == "cuda" and not _has_bf16(device):
        raise SettingsError(
            f"--precision bf16 is not available on {torch.cuda.get_device_name(device)}; it needs NVIDIA's Ampere.\n"
            "Use --precision auto, fp16 or fp32."
        )
    return "bf16" if wanted == "bf16" else "fp16" if wanted == "fp16" else "fp32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


@contextmanager
def gpu_math(device: torch.device, *, tf32: bool, deterministic: bool) -> Iterator[None]:
    """How an NVIDIA GPU computes inside this context; other devices do not change.

    With ``tf32``, float32 convolutions and products may round their factors to 10 bits. ``deterministic`` uses only
    kernels that give the same bits each time; otherwise cuDNN searches for the fastest.
    """
    if device.type != "cuda":
        yield
        return
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it allocates its workspace
    cudnn = _backends.cudnn
    before = cudnn.benchmark, _memory.fill_uninitialized_memory
    algorithms = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    _memory.fill_uninitialized_memory = False  # nothing here reads memory before writing it
    try:
        with float32_as("tf32" if tf32 else "ieee", device):
            yield
    finally:
        cudnn.benchmark, _memory.fill_uninitialized_memory = before
        torch.use_deterministic_algorithms(algorithms[0], warn_only=algorithms[1])


@contextmanager
def float32_as(format: Literal["ieee", "tf32"], device: torch.device) -> Iterator[None]:
    """How convolutions and matrix products on a CUDA GPU treat float32 inside this context."""
    backends = [_backends.cudnn.conv, _backends.cuda.matmul] if device.type == "cuda" else []
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = format
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # By flags: torch.ops.mkldnn._is_mkldnn_bf16_supported() is also true on CPUs that emulate it, slower than fp32.
    return device.type == "cpu" and not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})
