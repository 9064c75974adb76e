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

from facegan.bench import baseline
from facegan.bench.baseline import Bench, interleaved
from facegan.bench.roofline import roofline
from facegan.config import TrainConfig
from facegan.console import Console
from facegan.errors import SettingsError
from facegan.shards.inspect import extract
from facegan.stream import FaceShards
from facegan.system import choose_device
from facegan.training.precision import choose_precision
from facegan.training.trainer import Trainer, spec_of

_SIZE, _CHANNELS = 64, 3
_LOOPS = {"dcgan": baseline.dcgan, "wgan-gp": baseline.wgan_gp}


def bench_train(
    config: TrainConfig,
    *,
    steps: int,
    device: str,
    pairs: int,
    with_roofline: bool = False,
    shards: Path | None = None,
    console: Console,
) -> Bench:
    """``steps`` steps per measurement, after a warm-up.

    Args:
        with_roofline: also measure the device's limits, and our shares of them.
        shards: a dataset that both read: we from the shards, decoded before (the first epoch is `bench_stream`'s), the
            baseline from a folder of its images. None: one batch in memory for both.

    Raises:
        DatasetError: ``shards`` is not a dataset.
        SettingsError: its faces are not 64×64 in colour, or fewer than a batch.
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
    origin = " from shards" if shards else ""
    what = (
        f"facegan train --method {config.method}{origin}, batch {config.batch}, {precision} on {chosen_device}{graphs}"
    )
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
        notes |= roofline(trainer, pixels, statistics.median(without_data or rates[0]))
    return Bench(
        what, f"a tutorial's loop in float32{', from an image folder' if shards else ''}", "images/s", *rates, notes
    )


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
                f"{shards} has {len(faces):,} faces of {faces.size}×{faces.size} in {faces.channels} channels."
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
