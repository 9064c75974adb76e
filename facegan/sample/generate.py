"""Latents → images: which latents are drawn, passes of the generator over them, and the images as PNGs and grids.

N images, C channels (1 or 3), H height, W width, Z length of a latent, K numbers of a condition.
"""

from __future__ import annotations

import contextlib
import math
from collections import abc, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.config import AttributeChoice, LatentDistribution, SampleConfig
from facegan.console import Console, shown
from facegan.errors import CheckpointError, DamagedFile, SettingsError
from facegan.files import parsing, read_tensors, write_bytes
from facegan.nets import Generator, NetSpec, load_generator
from facegan.nets.random import inside, latents
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.run_dir import CHECKPOINTS, checkpoint_folders, read_best
from facegan.sample.directions import read_directions
from facegan.system import choose_device, usable_cpus

Pixels = NDArray[np.uint8]  # (N, H, W, C), or (H, W, C) for one picture
T = TypeVar("T")
R = TypeVar("R")

SAMPLES = 64  # if the settings give no number
_GAP, _BACKGROUND = 2, 255  # pixels between the images of a grid, and their grey level
_MOST_PIXELS = 178_956_970  # Pillow, and programs built on it, refuse larger pictures
_MOST_WIDTH = 1_000_000  # libpng's limit
_BATCH = 64
_GPU_BATCH = 512  # at 64×64: about 600 MB of a DCGAN's activations, and enough work for any GPU
_MOST_THREADS = 16
_LATENT_ARRAY = "latents"  # its name in files with several arrays
_MOST_LATENT_BYTES = 8 << 30


def sample_latents(
    count: int, length: int, seed: int, first: int = 0, distribution: LatentDistribution = "normal"
) -> Tensor:
    """(count, length) on the CPU; row i depends on (seed, first + i) alone, whatever the count or the device."""
    return torch.cat([latents(1, length, seed, "sample", i, "cpu", distribution) for i in range(first, first + count)])


def sample_inputs(spec: NetSpec, count: int, seed: int, first: int = 0) -> Tensor:
    """What a generator maps to samples, (count, Z + K) on the CPU: latents, and beside them conditions as frequent as
    among the training faces. Row i depends on (seed, first + i) alone."""
    return _beside(sample_latents(count, spec.latent, seed, first, spec.distribution), spec, seed, first)


def _beside(z: Tensor, spec: NetSpec, seed: int, first: int) -> Tensor:
    numbers = torch.arange(first, first + len(z))
    return torch.cat([z, spec.condition.draw(seed, "sample", numbers)], 1) if spec.condition else z


def sample_attributes(spec: NetSpec, count: int, seed: int) -> dict[str, list[int]]:
    """The attributes that the first samples of a seed are drawn with, as `facegan.nets.Condition.values_of`, or {}."""
    condition = spec.condition
    return condition.values_of(condition.draw(seed, "sample", torch.arange(count))) if condition else {}


def contrast_inputs(spec: NetSpec, seed: int, columns: int) -> Tensor:
    """For a grid with a row for each of the condition's `contrasts`: the first samples of the seed, the same in each
    row but for that attribute, (rows · columns, Z + K)."""
    inputs, condition = sample_inputs(spec, columns, seed), spec.condition
    if not condition:
        return inputs
    z, codes = inputs.tensor_split([spec.latent], 1)
    rows = [condition.replaced(codes, name, value) for name, value in condition.contrasts().values()]
    return torch.cat([torch.cat([z, row], 1) for row in rows])


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


@dataclass(frozen=True)
class Latents:
    """Latents by number, with their conditions; ``row`` gives one as float32 (1, Z + K) on the CPU, whatever else is
    drawn."""

    count: int
    row: Callable[[int], Tensor]

    def rows(self, first: int, count: int) -> Tensor:
        return torch.cat([self.row(number) for number in range(first, first + count)])


def make_latents(config: SampleConfig, spec: NetSpec, n: int = SAMPLES, step: Tensor | None = None) -> Latents:
    """The latents that the settings choose, and their conditions; ``n`` of them if the settings give no number.
    ``step``, (Z,), is added to each latent.

    ``config.truncation`` scales them towards 0, their mean. BigGAN (Brock et al. 2019, arXiv:1809.11096) draws
    coordinates beyond a threshold again, which shortens latents as well, but to another face at each threshold. Scaled
    ones keep their direction: a seed shows one face that changes gradually, and so do latents of a file.

    Raises:
        SettingsError: a file of latents is missing, cannot be read, or does not fit the generator; or the generator
            does not know the attributes, or its latents cannot be truncated.
    """
    spec = with_attributes(config, spec)
    chosen = _chosen_latents(config, spec, n)
    if config.truncation == 1 and step is None:
        return chosen
    if config.truncation < 1 and spec.distribution != "normal":
        raise SettingsError(
            f"--truncation {config.truncation:g} needs normal latents, and this generator's are {spec.distribution}. "
            "Leave it out."
        )

    def row(number: int) -> Tensor:
        z, codes = chosen.row(number).tensor_split([spec.latent], 1)
        z = config.truncation * z
        return torch.cat([z if step is None else inside(z + step, spec.distribution), codes], 1)

    return Latents(chosen.count, row)


def _chosen_latents(config: SampleConfig, spec: NetSpec, n: int) -> Latents:
    if seeds := config.seed_list:
        return Latents(len(seeds), lambda i: sample_inputs(spec, 1, seeds[i]))
    if not config.latents:
        return Latents(config.n or n, lambda i: sample_inputs(spec, 1, config.seed, i))
    latents, codes = _read_latents(Path(config.latents), spec)
    if config.n and config.n > len(latents):
        raise SettingsError(
            f"--n {config.n:,}: {config.latents} has only {len(latents):,} latents. Leave out --n to use all of them."
        )
    if codes is None or config.asked.keys() - {"along"}:
        return Latents(config.n or len(latents), lambda i: _beside(latents[i : i + 1], spec, 0, i))
    inputs = torch.cat([latents, codes], 1)
    return Latents(config.n or len(latents), lambda i: inputs[i : i + 1])


def with_attributes(config: AttributeChoice, spec: NetSpec) -> NetSpec:
    """The spec whose conditions have the attributes that the settings ask for; SettingsError if it has none of them."""
    if not config.asked:
        return spec
    name, value = next(iter(config.asked.items()))
    condition, option = spec.condition, f"--{name} {shown(value)}"
    if not condition:
        raise SettingsError(
            f"{option} needs a generator that was trained with --condition, and this one was not. Leave it out."
        )
    if (config.class_ is not None and not condition.classes) or (config.attributes and condition.classes):
        use = f"--class with one of {condition.choices}" if condition.classes else "--with and --without"
        raise SettingsError(f"{option} cannot be used here: the generator knows {condition.kind}. Use {use}.")
    if along := config.asked.get("along"):
        condition.given({along: condition.values[0]})
    classes = {} if config.class_ is None else {condition.names[0]: config.class_}
    return replace(spec, condition=condition.given(config.attributes | classes))


def _read_latents(path: Path, spec: NetSpec) -> tuple[Tensor, Tensor | None]:
    """float32 (N, Z) from a file with one array, or one named ``latents``; and (N, K) if it has a fitting
    ``condition``. Nothing pickled is loaded."""
    length = spec.latent
    try:
        with parsing(path):
            arrays = _read_arrays(path)
    except OSError as error:
        raise SettingsError(f"--latents {path} cannot be read: {error.strerror}.") from None
    except DamagedFile as error:
        raise SettingsError(
            f"--latents {path} cannot be read ({error.why}).\nSave plain numbers with numpy.save or safetensors."
        ) from None
    array = next(iter(arrays.values())) if len(arrays) == 1 else arrays.get(_LATENT_ARRAY)
    if array is None:
        raise SettingsError(f"--latents {path} has {len(arrays)} arrays. Name one of them '{_LATENT_ARRAY}'.")
    if array.ndim != 2 or array.shape[1] != length or not len(array) or array.dtype.kind != "f":
        raise SettingsError(
            f"--latents {path} has {array.dtype} of {array.shape}; this generator needs floats (N, {length})."
        )
    with np.errstate(over="ignore"):  # reported below
        numbers = np.array(array, np.float32, order="C")
    if len(bad := np.flatnonzero(~np.isfinite(numbers).all(1))):
        raise SettingsError(f"--latents {path}: row {bad[0]} has values that are not finite in float32.")
    codes, shape = arrays.get("condition"), (len(numbers), spec.inputs - length)
    if not spec.condition or codes is None or codes.shape != shape or not np.isin(codes, (-1, 0, 1)).all():
        return torch.from_numpy(numbers), None
    return torch.from_numpy(numbers), torch.from_numpy(np.array(codes, np.float32))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return read_tensors(path, "np")[0]
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot request all memory
        arrays, unpacked_bytes = {_LATENT_ARRAY: array}, array.nbytes  # nor can a sparse file
    elif path.suffix == ".npz":
        arrays = np.load(path, allow_pickle=False)
        unpacked_bytes = sum(entry.file_size for entry in arrays.zip.infolist())
    else:
        raise SettingsError(f"--latents {path}: the file name must end in .npy, .npz or .safetensors.")
    if unpacked_bytes > _MOST_LATENT_BYTES:
        raise ValueError("it has more than 8 GiB")
    return dict(arrays)


def best_of(run: Path) -> Path:
    """The folder of a run's best checkpoint.

    Raises:
        CheckpointError: the run was not evaluated, or the checkpoint was deleted.
    """
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
