"""Our rounds beside the usual tutorial loop in plain float32: on one random batch of 64×64 images, or whole, from
shards and from an image folder."""

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

from facegan.bench import baseline as by_hand
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
_LOOPS = {"dcgan": by_hand.dcgan, "wgan-gp": by_hand.wgan_gp}


def bench_train(
    method: str,
    *,
    steps: int,
    device: str,
    pairs: int,
    batch: int | None = None,
    precision: str = "auto",
    graphs: bool = True,
    with_roofline: bool = False,
    shards: Path | None = None,
    console: Console,
) -> Bench:
    """``steps`` rounds a measurement, after some that are not counted.

    Args:
        batch: None: the method's own.
        with_roofline: measure the device's limits too, and state our shares of them.
        shards: a dataset: both read its faces as they train, we from the shards (all decoded before: the first epoch is
            `bench_stream`'s), the loop by hand from a folder of its images. None: the data are at hand for both.

    Raises:
        DatasetError: ``shards`` is no dataset.
        SettingsError: its faces are not 64×64 in colour, or fewer than a batch.
    """
    given = {"batch": batch} if batch else {}
    config = TrainConfig.for_method(method, precision=precision, graphs=graphs, **given)
    place = choose_device(device)
    chosen = choose_precision(config.precision, place)
    pixels = torch.randint(0, 256, (config.batch, _CHANNELS, _SIZE, _SIZE), dtype=torch.uint8, device=place)
    trainer = Trainer(config, spec_of(config, _SIZE, _CHANNELS), place, chosen)
    at_hand = itertools.repeat(pixels.contiguous(memory_format=torch.channels_last))
    warm_up = 5 if place.type == "cuda" else 1

    def rate(one_round: Callable[[], object]) -> float:
        for _ in range(warm_up):
            one_round()
        _wait(place)
        start = time.perf_counter()
        for _ in range(steps):
            one_round()
        _wait(place)
        return steps * trainer.config.step_images / (time.perf_counter() - start)

    alone: list[float] = []

    def whole(reals: Iterator[Tensor]) -> float:
        alone.append(rate(lambda: trainer.train_step(at_hand)))
        return rate(lambda: trainer.train_step(reals))

    with _data(shards, config, place, pixels, console) as (ours, theirs):
        loop = _LOOPS[config.method](config, theirs, place)
        first = (lambda: whole(ours)) if ours else (lambda: rate(lambda: trainer.train_step(at_hand)))
        rates = interleaved(first, lambda: rate(lambda: next(loop)), pairs, console)
    recorded = "" if trainer.no_graphs_reason else ", CUDA graphs"
    origin = " from shards" if shards else ""
    what = f"facegan train --method {method}{origin}, batch {config.batch}, {chosen} on {place}{recorded}"
    notes: dict[str, Any] = {
        "method": method,
        "batch": config.batch,
        "precision": chosen,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
        "cuda_graphs": not trainer.no_graphs_reason,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
    }
    if alone:
        notes["compute_alone"] = [round(value, 1) for value in alone]
        # Of neighbours, as the ratio is. On a noisy machine it may come out below 0.
        shares = [1 - with_stream / without for with_stream, without in zip(rates[0], alone, strict=True)]
        notes["share_of_the_stream"] = round(statistics.median(shares), 3)
    if with_roofline:
        console.note("measuring the device's limits, and what a round takes of them")
        notes |= roofline(trainer, pixels, statistics.median(alone or rates[0]))
    hand = "the tutorial's loop in float32" + (", from an image folder" if shards else "")
    return Bench(what, hand, "images/s", *rates, notes)


@contextmanager
def _data(
    shards: Path | None, config: TrainConfig, place: torch.device, pixels: Tensor, console: Console
) -> Iterator[tuple[Iterator[Tensor] | None, Iterator[Tensor]]]:
    """Our batches of the dataset (None without one), and those of the loop by hand."""
    if shards is None:
        yield None, itertools.repeat(pixels.float() / 127.5 - 1)
        return
    with closing(FaceShards(shards)) as faces, tempfile.TemporaryDirectory(prefix="facegan-bench-") as folder:
        if (faces.size, faces.channels) != (_SIZE, _CHANNELS) or len(faces) < config.batch:
            raise SettingsError(
                f"{shards} has {len(faces):,} faces of {faces.size}×{faces.size} in {faces.channels} channels:\n"
                f"the loop by hand takes {_SIZE}×{_SIZE} in colour, and at least --batch {config.batch} of them."
            )
        console.note(f"writing the {len(faces):,} faces as a folder of images, for the loop by hand")
        extract(shards, Path(folder) / "images" / "faces", console)
        ours = faces.batches(config.batch, device=str(place))
        try:
            for _ in range(len(faces) // config.batch + 1):  # decodes all
                next(ours)
            yield ours, by_hand.folder_batches(Path(folder) / "images", config.batch)
        finally:
            ours.close()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
