"""Samples as one picture, or as a folder of single ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facegan.config import SampleConfig
from facegan.console import Console
from facegan.errors import CheckpointError, SettingsError
from facegan.files import atomic_dir, human_bytes, make_folder, require_empty
from facegan.nets import NetSpec
from facegan.nets.weights import FILE_NAME, read_generator
from facegan.plugins import Trust
from facegan.run_dir import CHECKPOINTS, checkpoint_folders, read_best
from facegan.sample import interpolate as grown
from facegan.sample.generate import (
    GAP,
    Pixels,
    in_threads,
    make_latents,
    open_generator,
    png_bytes,
    sample_batches,
    save_png,
    tiled,
)
from facegan.sample.interpolate import make_interpolation, refuse_large_interpolation
from facegan.system import available_bytes

# What one picture or a film can hold, told before anything is drawn.

MOST_PIXELS = 178_956_970  # more than that Pillow, and what is built on it, refuses to open
_WIDEST = 1_000_000  # libpng's own limit
_HELD = 3  # times the frames: as pixels, in the film's colours, and encoded


def refuse_large_picture(samples: int, spec: NetSpec, columns: int | None = None) -> None:
    """
    Args:
        columns: of the picture; None: it is about square.

    Raises:
        SettingsError: so many samples are more than a picture can hold.
    """
    side = spec.size + GAP
    if samples * side**2 > MOST_PIXELS or (columns or 0) * side > _WIDEST:
        most = min(MOST_PIXELS // side**2, _WIDEST // side if columns else MOST_PIXELS)
        raise SettingsError(
            f"{samples:,} samples are too many for one picture, which most programs open up to "
            f"{MOST_PIXELS // 10**6} megapixels: {most:,} of {spec.size}×{spec.size}.\n"
            "Choose a smaller --n, or single pictures with --dir."
        )


def refuse_long_animation(frames: int, samples: int, spec: NetSpec) -> None:
    """
    Args:
        samples: in each frame.

    Raises:
        SettingsError: its frames do not fit the memory, which GIF and WebP need for all of them at once.
    """
    needed, free = _HELD * frames * samples * spec.size**2 * spec.channels, available_bytes()
    if needed > free:
        raise SettingsError(
            f"{frames:,} frames of {samples:,} samples take {human_bytes(needed)} of memory as a GIF or WebP, and "
            f"{human_bytes(free)} are free.\n"
            "Choose fewer --frames, --n or --walks; or .mp4, which takes them one by one."
        )


SAMPLES = 64  # where the settings do not say how many


def write_grid(
    run: Path, out: Path, config: SampleConfig | None = None, *, device: str = "auto", trust_code: Trust = False
) -> int:
    """One picture of all samples, about square. ``run`` is a run folder or a generator's file.

    Args:
        trust_code: as `facegan.load_generator` has it.

    Returns:
        How many samples are in it.

    Raises:
        CheckpointError: there is no generator, or it can't be read.
        SettingsError: the generator names code that is not trusted; the latents do not fit it, or are too many for one
            picture.
        DiskError: ``out`` can't be written.
    """
    generator = open_generator(run, device, trust_code)
    latents = make_latents(config or SampleConfig(), generator.spec, SAMPLES)
    refuse_large_picture(len(latents), generator.spec)
    make_folder(out.absolute().parent)
    save_png(out, tiled(np.concatenate(list(sample_batches(generator, latents)))))
    return len(latents)


def write_pictures(
    run: Path,
    folder: Path,
    config: SampleConfig | None = None,
    *,
    device: str = "auto",
    console: Console | None = None,
    trust_code: Trust = False,
) -> int:
    """PNGs, 000000.png and on, of the generator's channels. The folder appears when all of them are in it.

    Memory does not grow with their number. Returns and raises what `write_grid` does.

    Raises:
        FaceganError: ``folder`` is there, and not empty.
    """
    generator = open_generator(run, device, trust_code)
    latents = make_latents(config or SampleConfig(), generator.spec, SAMPLES)
    with atomic_dir(folder) as room, (console or Console(quiet=True)).progress(len(latents), "samples") as progress:

        def write(piece: tuple[int, Pixels]) -> int:
            first, pictures = piece
            for number, picture in enumerate(pictures, first):
                (room / f"{number:06d}.png").write_bytes(png_bytes(picture))
            return len(pictures)

        with in_threads(write, _counted(sample_batches(generator, latents))) as written:
            for count in written:
                progress.advance(count)
    return len(latents)


def _counted(batches: Iterator[Pixels]) -> Iterator[tuple[int, Pixels]]:
    first = 0
    for batch in batches:
        yield first, batch
        first += len(batch)


# Which generators a run has.


def best_of(run: Path) -> Path:
    """The checkpoint that is the best of a run so far, which all that draws takes for a generator.

    Raises:
        CheckpointError: nothing was measured there, or the checkpoint is gone.
    """
    best = read_best(run)
    if best is None:
        raise CheckpointError(
            f"{run} names no best checkpoint: nothing was measured there. Train it with --eval-every 50k, say,\n"
            "or leave --best out for the newest."
        )
    path = run / CHECKPOINTS / f"{best.images:09d}"
    if not path.is_dir():
        raise CheckpointError(f"{path}, the best checkpoint of {run}, is gone. Leave --best out for the newest.")
    return path


def generator_file(run: Path) -> Path:
    """The file that a run's folder, a checkpoint's or a file stands for; it need not be there."""
    return run / FILE_NAME if run.is_dir() else run


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """Images seen and folder of every checkpoint that has a generator, the oldest first.

    Raises:
        CheckpointError: there are not two of them.
    """
    paths = [path for path in reversed(checkpoint_folders(run)) if (path / FILE_NAME).is_file()]
    if len(paths) < 2:
        many = "one checkpoint alone" if paths else "no checkpoints"
        raise CheckpointError(
            f"{run} holds {many}, and --training-progress shows what came between two of them and more.\n"
            "Trainings keep the last --keep 3 and those at --set train.milestones=10k,50k,200k."
        )
    return [(int(path.name), path) for path in paths]


# What `facegan sample` would do, found out without drawing anything.


def count_samples(run: Path, kind: str, target: Path, config: SampleConfig) -> tuple[int, str]:
    """How many samples a ``kind`` of target (out, dir, shards, interpolate, training_progress) would hold, and which
    nets draw them. Touches nothing, and imports no nets of somebody's own.

    Raises:
        FaceganError: whatever drawing them would raise before it begins.
    """
    if kind in ("dir", "shards"):
        require_empty(target)
    checkpoints = checkpoints_of(run) if kind == "training_progress" else []
    _, _, spec = read_generator(checkpoints[0][1] if checkpoints else run)
    if kind == "interpolate":
        walk = make_interpolation(config, spec)
        refuse_large_interpolation(walk, spec, target)
        return len(walk.stops), spec.name
    count = len(make_latents(config, spec, grown.PROGRESS_SAMPLES if kind == "training_progress" else SAMPLES))
    if kind == "out":
        refuse_large_picture(count, spec)
    if kind == "training_progress":
        grown.refuse_large_rows(count, len(checkpoints) if target.suffix.lower() == ".png" else 0, spec)
    return count, spec.name
