"""Latents → images: passes of the generator over `facegan.sample.latents`, and the images as PNGs and grids.

N images, C channels (1 or 3), H height, W width, Z length of a latent.
"""

from __future__ import annotations

import contextlib
import math
from collections import abc, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.config import SampleConfig
from facegan.console import Console
from facegan.errors import CheckpointError, SettingsError
from facegan.files import write_bytes
from facegan.nets import Generator, NetSpec, load_generator
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.run_dir import CHECKPOINTS, checkpoint_folders, read_best
from facegan.sample.directions import read_directions
from facegan.sample.latents import Latents, sample_inputs
from facegan.system import choose_device, usable_cpus

Pixels = NDArray[np.uint8]  # (N, H, W, C), or (H, W, C) for one picture
T = TypeVar("T")
R = TypeVar("R")

_GAP, _BACKGROUND = 2, 255  # pixels between the images of a grid, and their grey level
_MOST_PIXELS = 178_956_970  # Pillow, and programs built on it, refuse larger pictures
_MOST_WIDTH = 1_000_000  # libpng's limit
_BATCH = 64
_GPU_BATCH = 512  # at 64×64: about 600 MB of a DCGAN's activations, and enough work for any GPU
_MOST_THREADS = 16


def sample_images(generator: Generator, count: int, seed: int = 0, first: int = 0) -> Tensor:
    """Samples ``first`` … ``first + count − 1`` of a seed: uint8 (count, C, H, W) on the CPU.

    ``generator`` must be in eval mode, so that an image depends on its latent alone.
    """
    starts = range(first, first + count, _BATCH)
    draws = (sample_inputs(generator.spec, min(_BATCH, first + count - i), seed, i) for i in starts)
    return torch.cat([images_of(generator, inputs) for inputs in draws])


@torch.inference_mode()
def images_of(generator: Generator, inputs: Tensor) -> Tensor:
    """uint8 (N, C, H, W) on the CPU."""
    return to_uint8(generator(inputs.to(next(generator.parameters()).device))).cpu()


def to_uint8(images: Tensor) -> Tensor:
    """float in [−1, 1] → uint8, rounded."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int | None = None) -> Pixels:
    """uint8 (N, C, H, W) → one uint8 (H', W', C) picture, row by row; about square if ``columns`` is None."""
    return tile(images.permute(0, 2, 3, 1).numpy(), columns)


def tile(images: Pixels, columns: int | None = None) -> Pixels:
    """`grid` for uint8 (N, H, W, C)."""
    count, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    shape = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels)
    picture = np.full(shape, _BACKGROUND, np.uint8)
    for i in range(count):
        top, left = _GAP + i // columns * (height + _GAP), _GAP + i % columns * (width + _GAP)
        picture[top : top + height, left : left + width] = images[i]
    return picture


def png_bytes(picture: Pixels) -> bytes:
    """(H, W, C) → a PNG of as many channels; the same pixels give the same bytes."""
    _, data = cv2.imencode(".png", to_opencv(picture))
    return data.tobytes()


def to_opencv(picture: Pixels) -> Pixels:
    """RGB → BGR; grey unchanged."""
    return picture if picture.shape[2] == 1 else picture[..., ::-1]


def save_png(path: Path, picture: Pixels) -> None:
    write_bytes(path, png_bytes(picture))


def refuse_large_picture(count: int, spec: NetSpec, columns: int | None = None) -> None:
    """Raises SettingsError if one picture cannot hold so many samples; it is about square if ``columns`` is None."""
    side = spec.size + _GAP
    if count * side**2 > _MOST_PIXELS or (columns or 0) * side > _MOST_WIDTH:
        most = min(_MOST_PIXELS // side**2, _MOST_WIDTH // side if columns else _MOST_PIXELS)
        raise SettingsError(
            f"{count:,} samples are too many for one picture: most programs open {_MOST_PIXELS // 10**6} "
            f"megapixels,\n{most:,} samples of {spec.size}×{spec.size}. Choose a smaller --n, or --dir for PNGs."
        )


@dataclass(frozen=True)
class SampleRequest:
    """What samples are drawn from, and which.

    Attributes:
        run: a run folder, a checkpoint or a generator's file.
        trust_code: as for `facegan.load_generator`.
    """

    run: Path
    config: SampleConfig = field(default_factory=SampleConfig)
    device: str = "auto"
    trust_code: Trust = False
    console: Console = field(default_factory=lambda: Console(quiet=True))

    def load(self, path: Path | None = None) -> Generator:
        """The generator of ``path`` (by default of the run), ready for `sample_batches`.

        Raises:
            CheckpointError: it is missing or cannot be read.
            SettingsError: it names code that is not trusted.
        """
        device = choose_device(self.device)
        return channels_last(load_generator(path or self.run, device, trust_code=self.trust_code))

    def step(self, spec: NetSpec) -> Tensor | None:
        """What ``config.move`` adds to each latent, (Z,). Raises SettingsError or DamagedFile if it has no such
        directions."""
        return read_directions(self.run, spec.latent).step(self.config.steps) if self.config.move else None


def channels_last(generator: Generator) -> Generator:
    """The same generator in this memory format: a third faster on CPUs, and needed by tensor cores."""
    return generator.to(memory_format=torch.channels_last)  # pyrefly: ignore - typed for 4-D only


def best_of(run: Path) -> Path:
    """The folder of a run's best checkpoint.

    Raises:
        CheckpointError: the run was not evaluated, or the checkpoint was deleted.
        SettingsError: it is a file.
    """
    if run.is_file():
        raise SettingsError(f"--best needs a run, and {run} is a file. Leave --best out.")
    best = read_best(run)
    if best is None:
        raise CheckpointError(
            f"{run} has no best checkpoint: it was trained without evaluation. Train with --eval-every 50k, or\n"
            "leave out --best to use the newest checkpoint."
        )
    path = run / CHECKPOINTS / f"{best.images:09d}"
    if not path.is_dir():
        raise CheckpointError(f"{path}, the best checkpoint of {run}, is missing. Leave out --best for the newest.")
    return path


def checkpoints_of(run: Path) -> list[Path]:
    """Every checkpoint with a generator, oldest first; raises CheckpointError if there are fewer than two."""
    paths = [path for path in reversed(checkpoint_folders(run)) if (path / FILE_NAME).is_file()]
    if len(paths) < 2:
        raise CheckpointError(
            f"{run} has {'only one checkpoint' if paths else 'no checkpoints'}; --training-progress needs two.\n"
            "A run keeps the last --keep 3 and those at --set train.milestones=10k,50k,200k."
        )
    return paths


def sample_batches(generator: Generator, latents: Latents) -> Iterator[Pixels]:
    """All images in order, uint8 (N, H, W, C) per batch; the batch size depends on the device and the image size alone,
    because the last bits of a result may depend on it.

    While one batch is computed, the next latents are drawn and the previous pixels are copied from the GPU.
    """
    device, count = next(generator.parameters()).device, latents.count
    batch = _BATCH if device.type == "cpu" else max(_BATCH, _GPU_BATCH * 64**2 // max(generator.spec.size, 64) ** 2)

    def draw(first: int) -> Tensor:
        return latents.rows(first, min(batch, count - first))

    waiting: Callable[[], Pixels] | None = None
    with contextlib.closing(in_threads(draw, range(0, count, batch), threads=1)) as draws:
        for z in draws:
            started = _start_batch(generator, z.to(device))
            if waiting:
                yield waiting()
            waiting = started
        if waiting:
            yield waiting()


@torch.inference_mode()
def _start_batch(generator: Generator, latents: Tensor) -> Callable[[], Pixels]:
    """Start a batch; the returned function waits for its pixels."""
    pixels = to_uint8(generator(latents)).permute(0, 2, 3, 1).contiguous()
    host = pixels.to("cpu", non_blocking=pixels.is_cuda)  # torch uses pinned memory then
    if not pixels.is_cuda:
        return host.numpy
    done = torch.cuda.current_stream(pixels.device).record_event()

    def wait() -> Pixels:
        done.synchronize()
        return host.numpy()

    return wait


def rebatch(batches: Iterable[Pixels], size: int) -> Iterator[tuple[int, Pixels]]:
    """The same images in batches of ``size`` (the last may be smaller), each with the number of its first image."""
    first, count, waiting = 0, 0, list[Pixels]()
    for batch in batches:
        waiting.append(batch)
        count += len(batch)
        while count >= size:
            together = np.concatenate(waiting)
            yield first, together[:size]
            first, count, waiting = first + size, count - size, [together[size:]]
    if count:
        yield first, np.concatenate(waiting)


def in_threads(do: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> abc.Generator[R, None, None]:
    """``do`` for each item by threads, results in order; at most one item more than threads is in work.

    The threads have ended when this generator ends or is closed.
    """
    threads = threads or min(usable_cpus(), _MOST_THREADS)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, "sample") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(do, item))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
