"""MP4 by ffmpeg: a process of its own that takes frames through a pipe."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from facegan.errors import FaceganError, SettingsError
from facegan.files import TEMPORARY, disk_errors, flush
from facegan.train.sample.draw import Pixels


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
            flush(temporary)
            temporary.replace(target)
            flush(target.parent)
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
