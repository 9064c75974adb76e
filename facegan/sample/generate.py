"""Images from a generator, and many of them as one picture."""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.config import LatentDistribution, SampleConfig
from facegan.errors import DamagedFile, SettingsError
from facegan.files import parsing, read_tensors, write_bytes
from facegan.nets import Generator, NetSpec, load_generator
from facegan.nets.random import latents
from facegan.plugins import Trust
from facegan.system import choose_device, usable_cpus

GAP, _PAPER = 2, 255  # pixels between images, and their grey


def sample_latents(count: int, length: int, seed: int, first: int = 0, law: LatentDistribution = "normal") -> Tensor:
    """(count, length) on the CPU; row i follows from (seed, first + i) alone, whatever the count or the device."""
    rows = [latents(1, length, seed, "sample", i, "cpu", law) for i in range(first, first + count)]
    return torch.cat(rows)


@torch.inference_mode()
def sample_images(generator: Generator, count: int, seed: int = 0, first: int = 0, batch: int = 64) -> Tensor:
    """Samples ``first`` … ``first + count − 1`` of a seed: uint8 (count, C, H, W) on the CPU.

    ``generator`` is in eval mode, so an image depends on its latent alone.
    """
    device, spec = next(generator.parameters()).device, generator.spec
    starts = range(first, first + count, batch)
    draws = (sample_latents(min(batch, first + count - i), spec.latent, seed, i, spec.law) for i in starts)
    return torch.cat([to_uint8(generator(z.to(device))).cpu() for z in draws])


def to_uint8(images: Tensor) -> Tensor:
    """float in [−1, 1] → uint8, rounded."""
    return images.float().add(1).mul(127.5).round_().clamp_(0, 255).to(torch.uint8)


def grid(images: Tensor, columns: int | None = None) -> NDArray[np.uint8]:
    """uint8 (N, C, H, W) → one uint8 (H', W', C) array, row by row; about square where ``columns`` is None."""
    return tiled(images.permute(0, 2, 3, 1).numpy(), columns)


def tiled(pixels: NDArray[np.uint8], columns: int | None = None) -> NDArray[np.uint8]:
    """`grid` of uint8 (N, H, W, C)."""
    count, height, width, channels = pixels.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    paper = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), _PAPER, np.uint8)
    for i in range(count):
        top, left = GAP + i // columns * (height + GAP), GAP + i % columns * (width + GAP)
        paper[top : top + height, left : left + width] = pixels[i]
    return paper


def png_bytes(picture: NDArray[np.uint8]) -> bytes:
    """RGB uint8 (H, W, 3) or grey (H, W, 1) → a PNG of as many channels; the same pixels give the same bytes."""
    _, data = cv2.imencode(".png", as_stored(picture))
    return data.tobytes()


def as_stored(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """As OpenCV's encoders take it."""
    return picture if picture.shape[2] == 1 else picture[..., ::-1]


def save_png(path: Path, picture: NDArray[np.uint8]) -> None:
    write_bytes(path, png_bytes(picture))


# Which latents are drawn: of one seed, one of each seed, or those of a file.
#
# N latents, Z length of a latent.

_SUFFIXES = (".npy", ".npz", ".safetensors")
_MOST_BYTES = 8 << 30
_ENTRY = "latents"  # of files that hold several arrays


class Latents(Protocol):
    """Latents by number; what stands at a number does not hang on what else is asked for."""

    def __len__(self) -> int: ...

    def rows(self, first: int, count: int) -> Tensor:
        """float32 (count, Z) on the CPU."""
        ...

    def name(self, number: int) -> str:
        """What the image of a number is called."""
        ...


@dataclass(frozen=True)
class SeedLatents:
    seed: int
    count: int
    spec: NetSpec

    def __len__(self) -> int:
        return self.count

    def rows(self, first: int, count: int) -> Tensor:
        return sample_latents(count, self.spec.latent, self.seed, first, self.spec.law)

    def name(self, number: int) -> str:
        return f"sample-{number:06d}"


@dataclass(frozen=True)
class SeedListLatents:
    """Each the first latent of its seed."""

    seeds: tuple[int, ...]
    spec: NetSpec

    def __len__(self) -> int:
        return len(self.seeds)

    def rows(self, first: int, count: int) -> Tensor:
        seeds = self.seeds[first : first + count]
        return torch.cat([sample_latents(1, self.spec.latent, seed, law=self.spec.law) for seed in seeds])

    def name(self, number: int) -> str:
        """Seeds may stand several times, so the number is told as well."""
        return f"sample-{number:06d}-seed-{self.seeds[number]}"


@dataclass(frozen=True)
class FileLatents:
    all: Tensor  # (N, Z)

    def __len__(self) -> int:
        return len(self.all)

    def rows(self, first: int, count: int) -> Tensor:
        return self.all[first : first + count]

    def name(self, number: int) -> str:
        return f"sample-{number:06d}"


def make_latents(config: SampleConfig, spec: NetSpec, n: int) -> Latents:
    """The latents that settings choose for a generator.

    Args:
        n: how many, where the settings do not say.

    Raises:
        SettingsError: a file of latents is missing, can't be read, or does not fit the generator.
    """
    if config.seeds:
        return SeedListLatents(config.seed_list, spec)
    if not config.latents:
        return SeedLatents(config.seed, config.n or n, spec)
    latents = read_latents(Path(config.latents), spec.latent)
    if config.n and config.n > len(latents):
        raise SettingsError(
            f"--n {config.n:,}: {config.latents} holds {len(latents):,} latents. Leave --n out for all."
        )
    return FileLatents(latents[: config.n])


def read_latents(path: Path, length: int) -> Tensor:
    """float32 (N, Z) of a file: one array, or the one that is called ``latents``. Nothing pickled is read.

    Raises:
        SettingsError: it can't be read, or is no finite float array (N, ``length``) with N from 1 up.
    """
    if path.suffix not in _SUFFIXES:
        raise SettingsError(f"--latents {path}: name a file that ends in {', '.join(_SUFFIXES[:2])} or {_SUFFIXES[2]}.")
    if not path.is_file():
        raise SettingsError(f"--latents {path}: there is no such file.")
    try:
        with parsing(path):
            arrays = _arrays(path)
    except DamagedFile as error:
        raise SettingsError(
            f"--latents {path} can't be read ({error.why}).\nWrite it with numpy.save or safetensors, as plain numbers."
        ) from None
    found = arrays.get(_ENTRY) if len(arrays) != 1 else next(iter(arrays.values()))
    if found is None:
        raise SettingsError(f"--latents {path} holds {len(arrays)} arrays: call one of them '{_ENTRY}'.")
    shape = "×".join(map(str, found.shape)) or "one number"
    if found.ndim != 2 or found.shape[1] != length or not len(found) or found.dtype.kind != "f":
        raise SettingsError(
            f"--latents {path} holds {found.dtype} of {shape}: this generator takes float32 (N, {length})."
        )
    with np.errstate(over="ignore"):  # what float32 can't hold is told below
        numbers = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers).all(1))[0])
        raise SettingsError(f"--latents {path}: row {row} has numbers that are not finite in float32.")
    return torch.from_numpy(numbers.copy())


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header can't ask for all memory
        if array.nbytes > _MOST_BYTES:  # nor can a file that is mostly holes
            raise ValueError("it holds more than 8 GiB")
        return {_ENTRY: array}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                raise ValueError("it unpacks to more than 8 GiB")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    return read_tensors(path, "np")[0]


# Latents to pixels in batches: while one batch is encoded by threads, the next is drawn.
#
# N images, C channels, H height, W width.

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


def sample_batches(generator: Generator, latents: Latents) -> Iterator[Pixels]:
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
