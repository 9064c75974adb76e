"""Latents to pixels in batches: while one batch is encoded by threads, the next is drawn.

N images, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.machine import usable_cpus
from facegan.nets import Generator, load_generator
from facegan.own import Trust
from facegan.train.grid import to_uint8
from facegan.train.rounds.precision import choose_device
from facegan.train.sample.latents import Latents

_BATCH = 64
_GPU_BATCH = 512  # at 64×64: some 600 MB of a DCGAN's activations, and enough work for any GPU
_MOST_THREADS = 16

Pixels = NDArray[np.uint8]
T = TypeVar("T")
R = TypeVar("R")


def open_generator(run: Path, device: str, trust_code: Trust) -> Generator:
    return ready_to_draw(load_generator(run, choose_device(device), trust_code=trust_code))


def ready_to_draw(generator: Generator) -> Generator:
    """The same one, channels last: a third faster on CPUs, and right for GPUs' tensor cores."""
    return generator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - typed for 4-D alone


def drawn(generator: Generator, latents: Latents) -> Iterator[Pixels]:
    """All images in order, uint8 (N, H, W, C) a batch; the batches' size hangs on the device and the image alone.

    On a GPU pixels become uint8 there, are copied to pinned memory, and the next batch computes meanwhile.
    """
    device = next(generator.parameters()).device
    batch, count = _batch(generator, device), len(latents)
    with ThreadPoolExecutor(1, "latents") as drawer:
        asked = [drawer.submit(latents.rows, 0, min(batch, count))]
        under_way = None
        for first in range(0, count, batch):
            rows, after = asked.pop().result(), first + batch
            if after < count:
                asked.append(drawer.submit(latents.rows, after, min(batch, count - after)))
            started = _start(generator, rows.to(device))
            if under_way:
                yield under_way()
            under_way = started
        if under_way:
            yield under_way()


def _batch(generator: Generator, device: torch.device) -> int:
    """The same for all images of a size: a CPU's or GPU's last bits may hang on it."""
    if device.type == "cpu":
        return _BATCH
    return max(_BATCH, _GPU_BATCH * 64**2 // max(generator.spec.size, 64) ** 2)


def _start(generator: Generator, latents: Tensor) -> Callable[[], Pixels]:
    """Draws a batch; what is returned waits for it."""
    with torch.inference_mode():
        pixels = to_uint8(generator(latents)).permute(0, 2, 3, 1).contiguous()
        here = pixels.to("cpu", non_blocking=pixels.is_cuda)  # then torch takes pinned memory for it
    if not pixels.is_cuda:
        return here.numpy
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(pixels.device))

    def wait() -> Pixels:
        done.synchronize()
        return here.numpy()

    return wait


def numbered(batches: Iterator[Pixels], size: int) -> Iterator[tuple[int, Pixels]]:
    """The same images in pieces of ``size``, the last of what is left; each with the number of its first."""
    first, waiting = 0, list[Pixels]()
    held = 0
    for batch in batches:
        waiting.append(batch)
        held += len(batch)
        while held >= size:
            together = np.concatenate(waiting)
            yield first, together[:size]
            first, held, waiting = first + size, held - size, [together[size:]]
    if held:
        yield first, np.concatenate(waiting)


@contextlib.contextmanager
def in_threads(do: Callable[[T], R], pieces: Iterator[T]) -> Iterator[Iterator[R]]:
    """``do`` of each piece, in order, by threads, which have ended when the block ends. One piece more is held at a
    time than there are threads."""
    threads = min(usable_cpus(), _MOST_THREADS)
    waiting: deque[Future[R]] = deque()

    def results() -> Iterator[R]:
        for piece in pieces:
            waiting.append(pool.submit(do, piece))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    with ThreadPoolExecutor(threads, "encode") as pool:
        try:
            yield results()
        finally:
            for future in waiting:
                future.cancel()
