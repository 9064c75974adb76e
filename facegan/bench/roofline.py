"""The measured limits of a device, and the share of them that a training uses.

Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures".
The limits are those of PyTorch's matrix product in the training's precision, and of copying large tensors. Work is
counted, not measured: multiplications and additions of convolutions and matrix products by PyTorch's counter, bytes as
the inputs and outputs of every operation, without caches. So the share of the bandwidth is an upper bound and may
exceed 1.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from facegan.config import TrainConfig
from facegan.training.precision import DTYPES, Precision
from facegan.training.trainer import Trainer

_SIDES = {"cuda": 8192, "cpu": 2048}  # of the matrices
_COPIED_BYTES = {"cuda": 2**31, "cpu": 2**28}
_SECONDS = 0.5
_COUNTED_BATCH = 8  # work grows with the batch, except the optimizers'


def roofline(trainer: Trainer, pixels: Tensor, images_per_second: float) -> dict[str, Any]:
    """The limits, the work per image, and the shares, for a batch of ``pixels`` uint8 (N, C, H, W)."""
    with trainer.math():
        limit_flops = matmul_flops(trainer.device, trainer.precision)
    limit_bytes = copied_bytes(trainer.device)
    flops, moved = work_of_an_image(trainer, pixels)
    return {
        "matmul_precision": trainer.precision,
        "matmul_tflops": round(limit_flops / 1e12, 4),
        "memory_gbytes_per_second": round(limit_bytes / 1e9, 1),
        "gflop_an_image": round(flops / 1e9, 3),
        "mbytes_an_image": round(moved / 1e6, 2),
        "share_of_matmul": round(flops * images_per_second / limit_flops, 3),
        "share_of_memory": round(moved * images_per_second / limit_bytes, 3),
    }


def matmul_flops(device: torch.device, precision: Precision) -> float:
    """Floating-point operations per second of a large square matrix product."""
    side = _SIDES.get(device.type, 4096)
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 * _rate(lambda: torch.mm(a, b, out=out), device)


def copied_bytes(device: torch.device) -> float:
    """Bytes per second, read and written, of copying a tensor larger than caches."""
    size = _COPIED_BYTES.get(device.type, 2**29)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size * _rate(lambda: target.copy_(source), device)


def work_of_an_image(trainer: Trainer, pixels: Tensor) -> tuple[float, float]:
    """(floating-point operations, bytes) a real image of a round, both nets and all their steps together."""
    batches = [pixels[:count] for count in (len(pixels), max(1, min(_COUNTED_BATCH, len(pixels) // 2)))]
    if len(batches[0]) > 4 * _COUNTED_BATCH:
        batches[0] = pixels[: 2 * _COUNTED_BATCH]
    counts = [_count(trainer, batch) for batch in batches]
    images = [len(batch) for batch in batches]
    if images[0] == images[1]:
        return counts[0][0] / images[0], counts[0][1] / images[0]
    # A step does a·N + b operations, b in the optimizers.
    slopes = [(one - other) / (images[0] - images[1]) for one, other in zip(*counts, strict=True)]
    rests = [count - slope * images[0] for count, slope in zip(counts[0], slopes, strict=True)]
    batch, steps = trainer.config.batch, trainer.config.d_steps
    return slopes[0] / steps + rests[0] / (batch * steps), slopes[1] / steps + rests[1] / (batch * steps)


def _count(trainer: Trainer, batch: Tensor) -> tuple[float, float]:
    changes = {"batch": len(batch), "grad_accum_steps": 1, "graphs": False}
    config = TrainConfig.of({**trainer.config.model_dump(), **changes})
    probe = Trainer(config, trainer.spec, trainer.device, trainer.precision)
    reals = itertools.repeat(batch)
    flops, traffic = FlopCounterMode(display=False), _Traffic()
    with flops, traffic:
        probe.train_step(reals)
    return float(flops.get_total_flops()), float(traffic.bytes)


class _Traffic(TorchDispatchMode):
    """Bytes of the inputs and outputs of every operation that computes; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not getattr(func, "is_view", False):
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return out


def _rate(work: Callable[[], object], device: torch.device) -> float:
    """Calls per second."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    wait()
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        work()
        wait()
        count += 1
    return count / (time.perf_counter() - start)
