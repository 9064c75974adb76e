"""Our training steps against the usual tutorial loop in float32: on one random batch, or with data from shards."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from facegan.bench import baseline
from facegan.bench.baseline import Bench, interleaved
from facegan.config import TrainConfig
from facegan.console import Console, counted
from facegan.errors import SettingsError
from facegan.shards.inspect import extract
from facegan.stream import FaceShards
from facegan.system import choose_device
from facegan.training.precision import DTYPES, Precision, choose_precision
from facegan.training.trainer import Trainer, spec_of

_SIZE, _CHANNELS = 64, 3
_MATRIX_SIDES = {"cuda": 8192, "cpu": 2048}
_COPIED_BYTES = {"cuda": 2**31, "cpu": 2**28}
_SECONDS = 0.5  # of measuring a limit
_LOOPS = {"dcgan": baseline.dcgan, "wgan-gp": baseline.wgan_gp, "fast": baseline.relativistic}


def bench_train(
    config: TrainConfig, shards: Path | None, device: str, steps: int, pairs: int, with_roofline: bool, console: Console
) -> Bench:
    """``steps`` steps per measurement, after a warm-up. ``with_roofline``: also the device's limits, and our shares.

    ``shards``: a dataset that both read, we from the shards, decoded before (the first epoch is `bench_stream`'s), the
    baseline from a folder of its images; None: one batch in memory for both.
    """
    chosen_device = choose_device(device)
    precision = choose_precision(config.precision, chosen_device)
    shape = (config.batch, _CHANNELS, _SIZE, _SIZE)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, device=chosen_device)
    trainer = Trainer(config, spec_of(config, _SIZE, _CHANNELS), chosen_device, precision)
    in_memory = itertools.repeat(pixels.contiguous(memory_format=torch.channels_last))
    without_data: list[float] = []

    def rate(step: Callable[[], object]) -> float:
        for _ in range(5 if chosen_device.type == "cuda" else 1):
            step()
        _wait(chosen_device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        _wait(chosen_device)
        return steps * config.step_images / (time.perf_counter() - start)

    with _data(shards, config, pixels, console) as (reals, their_reals):
        loop = _LOOPS[config.method](config, their_reals, chosen_device)

        def ours() -> float:
            alone = rate(lambda: trainer.train_step(in_memory))
            if (streamed := reals) is None:
                return alone
            without_data.append(alone)
            return rate(lambda: trainer.train_step(streamed))

        rates = interleaved(ours, lambda: rate(lambda: next(loop)), pairs, console)
    graphs = "" if trainer.no_graphs_reason else ", CUDA graphs"
    what = f"facegan train --method {config.method}{' from shards' if shards else ''}, batch {config.batch}, "
    what += f"{precision} on {chosen_device}{graphs}"
    notes: dict[str, Any] = {
        "method": config.method,
        "batch": config.batch,
        "precision": precision,
        "device": torch.cuda.get_device_name(chosen_device) if chosen_device.type == "cuda" else str(chosen_device),
        "cuda_graphs": not trainer.no_graphs_reason,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
    }
    if without_data:
        notes["compute_alone"] = [round(value, 1) for value in without_data]
        # Of neighbours, as the ratio is; negative on a noisy machine.
        shares = [1 - with_data / without for with_data, without in zip(rates[0], without_data, strict=True)]
        notes["share_of_the_stream"] = round(statistics.median(shares), 3)
    if with_roofline:
        console.note("measuring the device's limits and the work of a step")
        notes |= _roofline(trainer, pixels, statistics.median(without_data or rates[0]))
    baseline_is = "a tutorial's loop in float32" + (", from an image folder" if shards else "")
    return Bench(what, baseline_is, "images/s", *rates, notes)


@contextmanager
def _data(
    shards: Path | None, config: TrainConfig, pixels: Tensor, console: Console
) -> Iterator[tuple[Iterator[Tensor] | None, Iterator[Tensor]]]:
    """Our batches of the dataset (None without one), and those of the baseline."""
    if shards is None:
        yield None, itertools.repeat(pixels.float() / 127.5 - 1)
        return
    with closing(FaceShards(shards)) as faces, tempfile.TemporaryDirectory(prefix="facegan-bench-") as folder:
        if (faces.size, faces.channels) != (_SIZE, _CHANNELS) or len(faces) < config.batch:
            raise SettingsError(
                f"The tutorial's loop needs at least --batch {config.batch} faces of {_SIZE}×{_SIZE} in colour.\n"
                f"{shards} has {counted(len(faces), 'face')} of {faces.size}×{faces.size} with "
                f"{counted(faces.channels, 'channel')}."
            )
        console.note(f"writing the {len(faces):,} faces as a folder of images for the tutorial's loop")
        extract(shards, Path(folder) / "images" / "faces", console)
        with closing(faces.batches(config.batch, device=str(pixels.device))) as batches:
            for _ in range(len(faces) // config.batch + 1):  # decode all
                next(batches)
            yield batches, baseline.folder_batches(Path(folder) / "images", config.batch)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _roofline(trainer: Trainer, pixels: Tensor, images_per_second: float) -> dict[str, Any]:
    """The measured limits of the device, the work per image, and the shares of the limits; ``pixels``: uint8, a batch.

    Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures".
    The limits are those of PyTorch's matrix product in the training's precision, and of copying large tensors. Work is
    counted, not measured: multiplications and additions by PyTorch's counter, bytes as the inputs and outputs of every
    operation, without caches. So the share of the bandwidth is an upper bound and may exceed 1.
    """
    with trainer.math():
        limit_flops = _matmul_flops(trainer.device, trainer.precision)
    limit_bytes = _copied_bytes(trainer.device)
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


def _matmul_flops(device: torch.device, precision: Precision) -> float:
    """Floating-point operations per second of a large square matrix product."""
    side = _MATRIX_SIDES.get(device.type, 4096)
    a, b = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 * _rate(lambda: torch.mm(a, b, out=out), device)


def _copied_bytes(device: torch.device) -> float:
    """Bytes per second, read and written, of copying a tensor larger than caches."""
    size = _COPIED_BYTES.get(device.type, 2**29)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size * _rate(lambda: target.copy_(source), device)


def work_of_an_image(trainer: Trainer, pixels: Tensor) -> tuple[float, float]:
    """(floating-point operations, bytes) a real image, in the steps of both nets together."""
    changes = {"batch": len(pixels), "grad_accum_steps": 1, "graphs": False}
    config = TrainConfig.of({**trainer.config.model_dump(), **changes})
    probe = Trainer(config, trainer.spec, trainer.device, trainer.precision)
    flops, traffic = FlopCounterMode(display=False), _Traffic()
    with flops, traffic:
        probe.train_step(itertools.repeat(pixels))
    return flops.get_total_flops() / config.step_images, traffic.bytes / config.step_images


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
    work()
    _wait(device)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < _SECONDS:
        work()
        _wait(device)
        count += 1
    return count / (time.perf_counter() - start)
