"""Frames as a moving picture: GIF and WebP by Pillow, MP4 by ffmpeg.

H height, W width, C channels (1 or 3).
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from facegan.console import Console, Progress
from facegan.errors import FaceganError, SettingsError
from facegan.files import TEMPORARY, disk_errors, fsync, make_folder, refuse_folder, write_bytes
from facegan.sample.generate import Pixels

# MP4 by ffmpeg: a process of its own that takes frames through a pipe.


def find_ffmpeg() -> str:
    """The program: imageio-ffmpeg's, or the system's.

    Raises:
        SettingsError: there is none.
    """
    with contextlib.suppress(ImportError, RuntimeError):
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    found = shutil.which("ffmpeg")
    if found is None:
        raise SettingsError(
            "An .mp4 needs ffmpeg, which is not installed: pip install 'facegan[video]'.\n"
            "A .webp or .gif needs nothing more."
        )
    return found


def write_mp4(out: Path, frames: Iterator[Pixels], fps: float) -> None:
    """H.264 at constant quality, 4:2:0, which every player knows. It appears under ``out`` whole.

    Raises:
        SettingsError: there is no ffmpeg.
        FaceganError: it fails.
        DiskError: ``out`` can't be written.
    """
    ffmpeg = find_ffmpeg()
    first = next(frames)
    target = out.absolute()
    temporary = target.with_name(f".{target.name}.{os.getpid()}{TEMPORARY}")
    command = [ffmpeg, *_options(_even(first), fps), f"file:{temporary}"]
    with disk_errors(target.parent):
        try:
            _piped(command, chain([first], frames))
            fsync(temporary)
            temporary.replace(target)
            fsync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _options(frame: Pixels, fps: float) -> list[str]:
    height, width, _ = frame.shape
    given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "pipe:0"]
    coded = ["-an", "-c:v", "libx264", "-preset", "slow", "-crf", "16", "-pix_fmt", "yuv420p"]
    # Bit-exact: neither the encoder's version nor a time stands in the file.
    plain = ["-map_metadata", "-1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart"]
    return ["-nostdin", "-y", "-loglevel", "error", *given, *coded, *plain, "-f", "mp4"]


def _piped(command: list[str], frames: Iterator[Pixels]) -> None:
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said)
        try:
            with contextlib.suppress(BrokenPipeError):  # then its exit code says more
                for frame in frames:
                    if process.stdin:
                        process.stdin.write(_even(frame).tobytes())
                if process.stdin:
                    process.stdin.close()
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            if process.stdin:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            process.wait()
        if code:
            said.seek(0)
            lines = said.read(10_000).decode(errors="replace").strip().splitlines()
            raise FaceganError(f"ffmpeg failed with exit code {code}: {lines[-1] if lines else 'it said nothing'}")


def _even(frame: Pixels) -> Pixels:
    """RGB with even sides, as 4:2:0 asks for; edges are repeated."""
    height, width, channels = frame.shape
    rgb = np.repeat(frame, 3, axis=2) if channels == 1 else frame
    return np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


SUFFIXES = (".gif", ".webp", ".mp4")
_GIF_FPS = 50  # browsers slow down what is faster
_PALETTE_FROM = 50_000  # pixels that a GIF's colours are chosen from: with all of them no colour is nearer


@dataclass(frozen=True)
class Animation:
    """What was written: so many samples, in so many frames a second, or in a picture (0 a second)."""

    samples: int
    frames: int
    fps: float


def check_animation(out: Path, fps: float | None) -> None:
    """
    Raises:
        SettingsError: ``out`` is no film, ffmpeg is missing for it, or it can't be so fast.
        DiskError: ``out`` is a folder.
    """
    suffix = out.suffix.lower()
    if suffix not in SUFFIXES:
        raise SettingsError(f"{out}: films are GIF, WebP or MP4; give it a name that ends in .gif, .webp or .mp4.")
    if suffix == ".gif" and fps and fps > _GIF_FPS:
        raise SettingsError(f"--fps {fps:g}: a GIF shows {_GIF_FPS} frames a second at most. Choose .webp or .mp4.")
    refuse_folder(out)
    if suffix == ".mp4":
        find_ffmpeg()


def write_animation(out: Path, frames: Iterator[Pixels], count: int, fps: float, console: Console) -> None:
    """``count`` frames, uint8 (H, W, C) all of one size; it appears under ``out`` whole. It loops, where its format
    knows that. GIF and WebP hold all frames in memory.

    Raises:
        SettingsError: as `check_animation`.
        FaceganError: ffmpeg fails.
        DiskError: ``out`` can't be written.
    """
    check_animation(out, fps)
    make_folder(out.absolute().parent)
    with console.progress(count, "frames") as progress:
        seen = _counted(frames, progress)
        suffix = out.suffix.lower()
        if suffix == ".mp4":
            write_mp4(out, seen, fps)
        else:
            encode = _gif if suffix == ".gif" else _webp
            write_bytes(out, encode(list(seen), fps))


def _counted(frames: Iterator[Pixels], progress: Progress) -> Iterator[Pixels]:
    for frame in frames:
        yield frame
        progress.advance(1)


def _gif(frames: list[Pixels], fps: float) -> bytes:
    """One palette for all frames and no dithering: colours that are chosen anew, or dots that move, would flicker."""
    if frames[0].shape[2] == 1:  # 256 greys are all that there are
        pictures = [Image.fromarray(frame[..., 0]) for frame in frames]
    else:
        palette = _palette(frames)
        pictures = [Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in frames]
    return _saved(pictures, "GIF", duration=_durations(len(frames), fps, 10), optimize=False, disposal=1)


def _palette(frames: list[Pixels]) -> Image.Image:
    """256 colours by median cut of evenly chosen pixels, refined by k-means."""
    total = sum(frame.size // 3 for frame in frames)
    every = max(1, total // _PALETTE_FROM)
    chosen = np.concatenate([frame.reshape(-1, 3)[i % every :: every] for i, frame in enumerate(frames)])
    return Image.fromarray(chosen[None]).quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)


def _webp(frames: list[Pixels], fps: float) -> bytes:
    pictures = [Image.fromarray(np.repeat(f, 3, axis=2) if f.shape[2] == 1 else f) for f in frames]
    return _saved(pictures, "WEBP", duration=_durations(len(frames), fps, 1), quality=90, method=4)


def _durations(count: int, fps: float, step: int) -> list[int]:
    """Milliseconds of each frame, whole multiples of ``step`` (a GIF counts hundredths), whose sum is right."""
    ends = [round(1000 * i / fps / step) * step for i in range(count + 1)]
    return [b - a for a, b in itertools.pairwise(ends)]


def _saved(pictures: list[Image.Image], kind: str, **options: Any) -> bytes:
    data = io.BytesIO()
    pictures[0].save(data, kind, save_all=True, append_images=pictures[1:], loop=0, **options)
    return data.getvalue()
