"""Frames as an animation: GIF and WebP by Pillow, MP4 by ffmpeg.

H height, W width, C channels (1 or 3).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import Image

from facegan.console import Console
from facegan.errors import FaceganError, SettingsError
from facegan.files import atomic_path, fsync, human_bytes, make_folder, refuse_folder, write_bytes
from facegan.nets import NetSpec
from facegan.sample.generate import Pixels
from facegan.system import available_bytes

_MOST_GIF_FPS = 50  # browsers slow down faster ones
_PALETTE_PIXELS = 50_000  # that a GIF's colours are chosen from: more do not improve them
_FRAME_COPIES = 3  # in memory: the pixels, in the animation's colours, and encoded


@dataclass(frozen=True)
class Animation:
    """What was written. A picture has 0 frames per second."""

    samples: int
    frames: int
    fps: float


def check_animation(out: Path, fps: float | None) -> None:
    """
    Raises:
        SettingsError: ``out`` has another suffix, ffmpeg is missing for it, or ``fps`` is too high.
        DiskError: ``out`` is a folder.
    """
    suffix = out.suffix.lower()
    if suffix not in (".gif", ".webp", ".mp4"):
        raise SettingsError(f"{out}: the name of an animation must end in .gif, .webp or .mp4.")
    if suffix == ".gif" and fps and fps > _MOST_GIF_FPS:
        raise SettingsError(
            f"--fps {fps:g}: a GIF shows up to {_MOST_GIF_FPS} frames per second. Choose .webp or .mp4."
        )
    refuse_folder(out)
    if suffix == ".mp4":
        find_ffmpeg()


def refuse_long_animation(frames: int, samples: int, spec: NetSpec) -> None:
    """Raises SettingsError if frames of so many samples do not fit in memory. GIF and WebP need all of them at once."""
    needed, free = _FRAME_COPIES * frames * samples * spec.size**2 * spec.channels, available_bytes()
    if needed > free:
        raise SettingsError(
            f"{frames:,} frames of {samples:,} samples need {human_bytes(needed)} of memory as a GIF or WebP; "
            f"{human_bytes(free)} are free.\n"
            "Choose a smaller --frames, --n or --walks; or .mp4, which is written frame by frame."
        )


def write_animation(out: Path, frames: Iterator[Pixels], count: int, fps: float, console: Console) -> None:
    """Write ``count`` frames, uint8 (H, W, C) of one size, to a file that `check_animation` accepts. GIF and WebP loop.

    Raises:
        FaceganError: ffmpeg fails.
    """
    check_animation(out, fps)
    make_folder(out.absolute().parent)
    with console.progress(count, "frames") as progress:

        def counted() -> Iterator[Pixels]:
            for frame in frames:
                yield frame
                progress.advance(1)

        if out.suffix.lower() == ".mp4":
            _write_mp4(out.absolute(), counted(), fps)
        else:
            write_bytes(out, (_gif if out.suffix.lower() == ".gif" else _webp)(list(counted()), fps))


def _gif(frames: list[Pixels], fps: float) -> bytes:
    """One palette for all frames and no dithering, which would flicker."""
    if frames[0].shape[2] == 1:  # 256 greys are exact
        pictures = [Image.fromarray(frame[..., 0]) for frame in frames]
    else:  # 256 colours by median cut of evenly chosen pixels, refined by k-means
        every = max(1, sum(frame.size // 3 for frame in frames) // _PALETTE_PIXELS)
        chosen = np.concatenate([frame.reshape(-1, 3)[i % every :: every] for i, frame in enumerate(frames)])
        palette = Image.fromarray(chosen[None]).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
        pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    return _save(pictures, "GIF", duration=_durations(len(frames), fps, 10), optimize=False, disposal=1)


def _webp(frames: list[Pixels], fps: float) -> bytes:
    pictures = [Image.fromarray(np.repeat(f, 3, axis=2) if f.shape[2] == 1 else f) for f in frames]
    return _save(pictures, "WEBP", duration=_durations(len(frames), fps, 1), quality=90, method=4)


def _durations(count: int, fps: float, unit: int) -> list[int]:
    """Milliseconds of each frame, multiples of ``unit`` (a GIF counts hundredths of a second), with the right sum."""
    ends = [round(1000 * i / fps / unit) * unit for i in range(count + 1)]
    return [b - a for a, b in itertools.pairwise(ends)]


def _save(pictures: list[Image.Image], format: str, **options: Any) -> bytes:
    data = io.BytesIO()
    pictures[0].save(data, format, save_all=True, append_images=pictures[1:], loop=0, **options)
    return data.getvalue()


def find_ffmpeg() -> str:
    """The path of imageio-ffmpeg's program, or of the system's; raises SettingsError if neither is installed."""
    with contextlib.suppress(ImportError, RuntimeError):
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    if program := shutil.which("ffmpeg"):
        return program
    raise SettingsError(
        "An .mp4 needs ffmpeg, which is not installed. Run: pip install 'facegan[video]'\nOr choose .webp or .gif."
    )


def _write_mp4(out: Path, frames: Iterator[Pixels], fps: float) -> None:
    """H.264 at constant quality, 4:2:0, which every player supports."""
    first = next(frames)
    height, width, _ = _even_rgb(first).shape
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "pipe:0"]
    codec = ["-an", "-c:v", "libx264", "-preset", "slow", "-crf", "16", "-pix_fmt", "yuv420p"]
    # Bit-exact: the file contains no encoder version and no time.
    exact = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"]
    options = ["-nostdin", "-y", "-loglevel", "error", *source, *codec, *exact, "-f", "mp4"]
    with atomic_path(out) as partial, tempfile.TemporaryFile() as errors:
        command = [find_ffmpeg(), *options, f"file:{partial}"]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        with contextlib.suppress(BrokenPipeError), process:  # the exit code says more
            for frame in itertools.chain([first], frames):
                cast(IO[bytes], process.stdin).write(_even_rgb(frame).tobytes())
        if process.returncode:
            errors.seek(0)
            lines = errors.read(10_000).decode(errors="replace").strip().splitlines()
            why = lines[-1] if lines else "no message"
            raise FaceganError(f"ffmpeg failed with exit code {process.returncode}: {why}")
        fsync(partial)
    fsync(out.parent)


def _even_rgb(frame: Pixels) -> Pixels:
    """RGB with even sides, as 4:2:0 needs; edges are repeated."""
    height, width, channels = frame.shape
    rgb = np.repeat(frame, 3, axis=2) if channels == 1 else frame
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
