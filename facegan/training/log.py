"""The run's log: stats.jsonl, TensorBoard, losses.png, log.txt and the sample grids.

stats.jsonl has one JSON object a line, of four kinds, told apart by their fields. All have

    images, rounds      so far

A row of the training, one each ``--log-every`` images, means over the rounds since the row before:

    loss_d, loss_g      as the method defines them; ``loss_d`` holds penalties with their weights
    d_real, d_fake      D's logits of real and of fake images
    gp                  with a regulariser, as WGAN-GP has one: its penalty without its weight; the sum of several
    k, convergence      BEGAN alone: its k, and its measure of convergence M
    d_accuracy          share of images that D places rightly (logits of real ones above 0, of fake ones below); for
                        critics (WGAN, relativistic, BEGAN) the share of pairs with the real one above the fake one
    grad_g              L2 norm of G's gradient
    skipped             fp16 alone: steps of both nets left out since the row before, for a gradient overflowed
    lr_scale            1, or ½ after a roll-back: what all learning rates are multiplied by
    images_per_second   since the row before, without saving and sampling
    seconds             of training so far, over all starts of the run
    gpu_bytes           on a GPU alone: memory that torch holds there

A finding of `facegan.training.monitor`: ``health`` (``rolled_back``, ``d_too_strong``, ``collapse`` or ``no_change``),
``value`` (what was measured), ``text`` (the warning). A measurement: ``measured`` ({metric: value}), ``best`` (whether
it is the best so far). What it compares with, once before: ``protocol`` (what, how many images of which split, the
seed) and ``floor`` ({metric: value} of real images beside other real ones).
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facegan.console import Console, shown
from facegan.errors import DamagedFile, DiskError
from facegan.files import disk_errors, make_folder, parse_json, write_bytes
from facegan.run_dir import is_number
from facegan.sample.generate import png_bytes, to_opencv
from facegan.training.curves import draw_curves

# Files that only grow, by whole pieces, on a disk that may be full.


class AppendOnlyFile:
    """A file whose every piece is there whole or not at all. What the disk refuses waits in memory."""

    def __init__(self, path: Path, length: int | None = None) -> None:
        """Cuts back to ``length`` bytes, where it is longer; None keeps all."""
        self.path = path
        self._waiting: list[bytes] = []
        with disk_errors(path.parent):
            path.touch()
        self.cut(length)

    def cut(self, length: int | None) -> None:
        self._waiting.clear()
        self.length = self.path.stat().st_size
        if length is not None and length < self.length:
            with disk_errors(self.path.parent):
                os.truncate(self.path, length)
            self.length = length

    def add(self, piece: bytes) -> None:
        """
        Raises:
            DiskError: it can't be written; it waits.
        """
        self._waiting.append(piece)
        self.catch_up()

    def catch_up(self) -> None:
        """Writes what waits.

        Raises:
            DiskError: it still can't be written.
        """
        if not self._waiting:
            return
        data = b"".join(self._waiting)
        with disk_errors(self.path.parent, need_bytes=len(data)):
            try:
                with self.path.open("ab") as file:
                    file.write(data)
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, self.length)  # half a piece
                raise
        self._waiting.clear()
        self.length += len(data)

    def sync(self) -> None:
        """Writes what waits, and flushes to the disk; raises as `catch_up`."""
        self.catch_up()
        with disk_errors(self.path.parent), self.path.open("rb") as file:
            os.fsync(file.fileno())


# TensorBoard's event file, written as its readers expect it.
#
# torch's SummaryWriter writes from a thread, which dies for good, with a traceback, where the disk is full once; it
# takes three seconds to load; and it computes checksums of whole PNGs byte by byte in Python. Records, after
# TensorFlow's record_writer.cc: a length (uint64), its checksum (uint32), the data, their checksum (uint32), all
# little-endian.

_numbers = itertools.count()
_JPEG_QUALITY = 95  # grids lie without loss in samples/


class TensorBoardWriter:
    """Events of one start of a run. Every method raises DiskError where they must wait (see `AppendOnlyFile`)."""

    def __init__(self, run: Path) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.file = AppendOnlyFile(run / name)
        self._add(file_version="brain.Event:2")

    def purge(self, step: int) -> None:
        """Hides what was logged at ``step`` or later, here and in the files of earlier starts."""
        start = _messages("event").SessionLog(status=_messages("event").SessionLog.START)
        self._add(step=step, session_log=start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        of = _messages("summary").Summary
        self._add(step=step, summary=of(value=[of.Value(tag=tag, simple_value=v) for tag, v in values.items()]))

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """RGB uint8 (H, W, 3), or grey (H, W, 1)."""
        of = _messages("summary").Summary
        height, width, channels = picture.shape
        _, data = cv2.imencode(".jpg", to_opencv(picture), (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        image = of.Image(height=height, width=width, colorspace=channels, encoded_image_string=data.tobytes())
        self._add(step=step, summary=of(value=[of.Value(tag=name, image=image)]))

    def _add(self, **fields: Any) -> None:
        self.file.add(_record(_messages("event").Event(wall_time=time.time(), **fields).SerializeToString()))


def _messages(kind: str) -> Any:
    """TensorBoard's protocol buffers. Their classes are made while they load, so no type checker knows them."""
    return importlib.import_module(f"tensorboard.compat.proto.{kind}_pb2")


def _record(data: bytes) -> bytes:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))


STATS, TEXT = "stats.jsonl", "log.txt"
_MOST_IMAGES = 10**18
_IN_EACH = ("loss_g", "loss_d", "seconds")  # row of the training
_NO_CURVES = ("images", "rounds", "seconds")
_WAITING_GRIDS = 32  # kept in memory while the disk is full: 0.7 MB each at 64×64
_REST = 20.0  # curves are drawn again after so many times the time that drawing took


class RunLog:
    """What a run says of itself. A disk that is full is warned of once and delays the log; it never ends the run.

    Args:
        images: where the checkpoint stands that the run goes on from; what the files say of later is cut away, so
            that resuming leaves no trace. None begins anew.
        lengths: `lengths` at that checkpoint.
    """

    def __init__(
        self, run: Path, console: Console, images: int | None = None, lengths: Mapping[str, int] | None = None
    ) -> None:
        self.run, self.console = run, console
        self.samples = make_folder(run / "samples")
        self._stats, self._text = AppendOnlyFile(run / STATS), AppendOnlyFile(run / TEXT)
        self._text.cut((lengths or {}).get(TEXT) if images is not None else 0)
        self._board = TensorBoardWriter(run)
        self._waiting_grids: dict[Path, bytes] = {}
        self._refused = False
        self._drawn_at, self._draw_seconds = -float("inf"), 0.0
        self.cut_back(images, lengths)

    def cut_back(self, images: int | None, lengths: Mapping[str, int] | None) -> None:
        """Back to a checkpoint; log.txt keeps what it says."""
        self._cut_rows(-1 if images is None else images, (lengths or {}).get(STATS))
        for path in self.samples.glob("*.png"):
            if path.stem.isdecimal() and int(path.stem) > (-1 if images is None else images):
                path.unlink()
        self._waiting_grids.clear()
        with self._or_later():
            self._board.purge(0 if images is None else images + 1)

    def _cut_rows(self, images: int, length: int | None) -> None:
        """Behind the last row of so many images. A line before it that is no row stays: it may be mended by hand."""
        read, kept, self.rows = 0, 0, []
        data = self._stats.path.read_bytes()
        if length and data[length - 1 : length] == b"\n":  # else somebody has edited the file since
            data = data[:length]
        for line in data.splitlines(keepends=True):
            read += len(line)
            row = _parse(line)
            if row is None or wrong_value(row):
                continue
            if row["images"] > images or not line.endswith(b"\n"):
                break
            self.rows.append(row)
            kept = read
        self._stats.cut(kept)

    def lengths(self) -> dict[str, int]:
        """Of the files that a checkpoint is to be able to cut back. Right after `sync`."""
        return {STATS: self._stats.length, TEXT: self._text.length}

    def note(self, text: str) -> None:
        self.console.note(text)
        self._write(text)

    def warn(self, text: str) -> None:
        self.console.warn(text)
        self._write(f"warning: {text}")

    def row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self._or_later():
            self._stats.add((json.dumps(row, allow_nan=False) + "\n").encode())
        measured: dict[str, float | None] = row.get("measured", {})
        curves = {name: value for name, value in row.items() if name not in _NO_CURVES} if "loss_g" in row else {}
        curves |= {f"measured/{name}": value for name, value in measured.items() if value is not None}
        if curves:
            with self._or_later():
                self._board.scalars(curves, row["images"])

    def grid(self, picture: NDArray[np.uint8], images: int) -> None:
        self._waiting_grids[self.samples / f"{images:09d}.png"] = png_bytes(picture)
        while len(self._waiting_grids) > _WAITING_GRIDS:
            self._waiting_grids.pop(next(iter(self._waiting_grids)))
        with self._or_later():
            self._write_grids()
        with self._or_later():
            self._board.picture("samples", picture, images)

    def draw(self, *, now: bool = False) -> None:
        """Curves, unless they were drawn a moment ago: on a GPU drawing could take longer than the training."""
        start = time.monotonic()
        rested = start - self._drawn_at > _REST * self._draw_seconds
        if (now or rested) and any("loss_g" in row for row in self.rows):
            with self._or_later():
                write_bytes(self.run / "losses.png", draw_curves(self.rows))
            self._drawn_at = time.monotonic()
            self._draw_seconds = self._drawn_at - start

    def sync(self) -> None:
        """All that was logged lies on the disk after this.

        Raises:
            DiskError: it does not.
        """
        for file in (self._stats, self._text, self._board.file):
            file.sync()
        self._write_grids()
        if self._refused:
            self._refused = False
            self.note(f"{self.run} can be written again, and what had to wait is written.")

    def close(self) -> None:
        with suppress(DiskError):
            self.sync()

    def _write(self, text: str) -> None:
        with self._or_later():
            self._text.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown(text)}\n".encode())

    def _write_grids(self) -> None:
        for path, data in list(self._waiting_grids.items()):
            write_bytes(path, data)
            del self._waiting_grids[path]

    @contextmanager
    def _or_later(self) -> Iterator[None]:
        try:
            yield
        except DiskError as error:
            if not self._refused:
                self._refused = True
                reason = os.strerror(error.errno) if error.errno else str(error)
                self.warn(f"{self.run} can't be written ({reason}). Training goes on; what it has to say waits.")


def read_stats(run: Path) -> list[dict[str, Any]]:
    """The rows of stats.jsonl, of all kinds, without lines that are damaged or unfinished."""
    return [row for row in numbered_stats(run).values() if row and not wrong_value(row)]


def numbered_stats(run: Path) -> dict[int, dict[str, Any]]:
    """The same by the numbers of their lines, from 1; a line that is no row is an empty one."""
    path = run / STATS
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {number: _parse(line) or {} for number, line in enumerate(lines, 1) if line.strip()}


def _parse(line: bytes) -> dict[str, Any] | None:
    with suppress(DamagedFile):
        row = parse_json(line, STATS)
        if isinstance(row, dict) and isinstance(row.get("images"), int):
            return row
    return None


def wrong_value(row: dict[str, Any]) -> str:
    """The first value that is of another kind; "" where there is none."""
    if isinstance(row["images"], bool) or not 0 <= row["images"] <= _MOST_IMAGES:
        return "images"
    if "loss_g" in row:
        return next((name for name in _IN_EACH if not is_number(row.get(name))), "") or _no_number(row)
    if "health" in row:
        texts = (name for name in ("health", "text") if not isinstance(row.get(name), str))
        return next(texts, "measured" if "measured" in row else "")
    parts = (name for name in ("measured", "floor") if name in row)
    return next((name for name in parts if not isinstance(row[name], dict) or _no_number(row[name])), "")


def _no_number(values: dict[str, Any]) -> str:
    """The first of ``values`` that is neither a number nor none (which a measurement that came to nothing is)."""
    return next((name for name, value in values.items() if not (value is None or is_number(value))), "")


# The log of the processes that do not write one: the first speaks for all.


class NullLog(RunLog):
    """A `RunLog` that says nothing and writes nothing."""

    def __init__(self, run: Path) -> None:
        self.run, self.console, self.rows = run, Console(quiet=True), []

    def cut_back(self, images: int | None, lengths: Mapping[str, int] | None) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def row(self, row: dict[str, Any]) -> None: ...
    def grid(self, picture: NDArray[np.uint8], images: int) -> None: ...
    def draw(self, *, now: bool = False) -> None: ...
    def sync(self) -> None: ...

    def lengths(self) -> dict[str, int]:
        return {}
