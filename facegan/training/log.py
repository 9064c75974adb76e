"""The run's log: stats.jsonl, TensorBoard, losses.png, log.txt and the sample grids.

stats.jsonl has one JSON object per line, of five kinds with different fields. All have

    images, rounds      so far; a round is a training step

A training row, one every ``--log-every`` images, with means over the steps since the row before:

    loss_d, loss_g      as the method defines them; ``loss_d`` includes the weighted penalties
    d_real, d_fake      D's logits of real and of fake images
    gp                  with a regulariser (WGAN-GP has one): the sum of the penalties without their weights
    k, convergence      only with BEGAN: its k, and its measure of convergence M
    ada_p, ada_r        only with train.augment=ada: its probability p, and the mean sign of D on real images
    d_accuracy          share of images that D classifies correctly (logits of real ones above 0, of fake ones below);
                        for critics (WGAN, relativistic, BEGAN) the share of pairs with the real one above the fake one
    grad_g              L2 norm of G's gradient
    skipped             only in fp16: updates of both nets skipped since the row before, because a gradient overflowed
    lr_scale            factor of all learning rates: 1, or ½ after a roll-back
    images_per_second   since the row before, without saving and sampling
    seconds             of training so far, over all starts of the run
    gpu_bytes           only on a GPU: memory that torch has reserved

A finding of `facegan.training.monitor`: ``health`` (``rolled_back``, ``d_too_strong``, ``collapse`` or ``no_change``),
``value`` (the measured value), ``text`` (the warning). An evaluation: ``measured`` ({metric: value}), ``best`` (whether
it is the best so far). Before the first one, its reference: ``protocol`` (what, how many images of which split, the
seed) and ``floor`` ({metric: value} of real images against other real ones). ``ended`` (a sentence): the training
stopped before all its images, by ``--stop-after``.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import socket
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

STATS, TEXT = "stats.jsonl", "log.txt"
_MAX_IMAGES = 10**18
_REQUIRED = ("loss_g", "loss_d", "seconds")  # of a training row
_NO_CURVES = ("images", "rounds", "seconds")
_MAX_WAITING_GRIDS = 32  # in memory while the disk is full: 0.7 MB each at 64×64
_DRAW_REST = 20.0  # between two drawings of the curves, in durations of a drawing
_JPEG_QUALITY = 95  # grids are lossless in samples/


class AppendOnlyFile:
    """A file to which whole pieces are appended. What a full disk refuses waits in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: list[bytes] = []
        with disk_errors(path.parent):
            path.touch()
        self.cut(None)

    def cut(self, length: int | None) -> None:
        """Truncates to ``length`` bytes if it is longer; None keeps all."""
        self._waiting.clear()
        self.length = self.path.stat().st_size
        if length is not None and length < self.length:
            with disk_errors(self.path.parent):
                os.truncate(self.path, length)
            self.length = length

    def add(self, piece: bytes) -> None:
        """Raises DiskError if it cannot be written, and waits."""
        self._waiting.append(piece)
        self._catch_up()

    def _catch_up(self) -> None:
        data = b"".join(self._waiting)
        with disk_errors(self.path.parent, need_bytes=len(data)):
            try:
                with self.path.open("ab") as file:
                    file.write(data)
            except OSError:
                with suppress(OSError):
                    os.truncate(self.path, self.length)  # half a piece
                raise
        self._waiting.clear()
        self.length += len(data)

    def sync(self) -> None:
        """Writes what waits and flushes to disk; raises as `add`."""
        self._catch_up()
        with disk_errors(self.path.parent), self.path.open("rb") as file:
            os.fsync(file.fileno())


class TensorBoardWriter:
    """TensorBoard events of one start of a run. Every method raises DiskError as `AppendOnlyFile` does.

    torch's SummaryWriter takes three seconds to import, computes checksums of whole PNGs byte by byte in Python, and
    writes from a thread that dies with a traceback when the disk is full once.
    """

    def __init__(self, run: Path) -> None:
        start = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        self.file = AppendOnlyFile(run / f"{start}.{time.time_ns()}")
        self._add(file_version="brain.Event:2")

    def purge(self, step: int) -> None:
        """Hides events of ``step`` or later, here and in the files of earlier starts."""
        self._add(step=step, session_log={"status": "START"})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        points = [{"tag": tag, "simple_value": value} for tag, value in values.items()]
        self._add(step=step, summary={"value": points})

    def picture(self, name: str, picture: NDArray[np.uint8], step: int) -> None:
        """RGB uint8 (H, W, 3), or grey (H, W, 1)."""
        height, width, channels = picture.shape
        _, data = cv2.imencode(".jpg", to_opencv(picture), (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
        image = {"height": height, "width": width, "colorspace": channels, "encoded_image_string": data.tobytes()}
        self._add(step=step, summary={"value": [{"tag": name, "image": image}]})

    def _add(self, **fields: Any) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        events: Any = importlib.import_module("tensorboard.compat.proto.event_pb2")  # its classes are made on import
        data = io.BytesIO()
        RecordWriter(data).write(events.Event(wall_time=time.time(), **fields).SerializeToString())
        self.file.add(data.getvalue())


class RunLog:
    """All logs of a run. A full disk causes one warning and delays the log; it never ends the run.

    ``images`` and ``lengths`` are those of the checkpoint to resume from. Later entries are cut away, so that a resumed
    run has the same logs as an uninterrupted one. -1 starts from scratch.
    """

    def __init__(self, run: Path, console: Console, images: int = -1, lengths: Mapping[str, int] | None = None) -> None:
        self.run, self.console = run, console
        self.samples = make_folder(run / "samples")
        self._stats, self._text = AppendOnlyFile(run / STATS), AppendOnlyFile(run / TEXT)
        self._text.cut((lengths or {}).get(TEXT) if images >= 0 else 0)
        self._board = TensorBoardWriter(run)
        self._waiting_grids: dict[Path, bytes] = {}
        self._refused = False
        self._drawn_at, self._draw_seconds = -float("inf"), 0.0
        self.cut_back(images, lengths or {})

    def cut_back(self, images: int, lengths: Mapping[str, int]) -> None:
        """Back to a checkpoint; log.txt keeps its lines."""
        self._cut_rows(images, lengths.get(STATS))
        for path in self.samples.glob("*.png"):
            if path.stem.isdecimal() and int(path.stem) > images:
                path.unlink()
        self._waiting_grids.clear()
        with self._delayed():
            self._board.purge(images + 1)

    def _cut_rows(self, images: int, length: int | None) -> None:
        """After the last row of so many images. Invalid lines before it stay: somebody may repair them by hand."""
        read, kept, self.rows = 0, 0, []
        data = self._stats.path.read_bytes()
        if length and data[length - 1 : length] == b"\n":  # else somebody has edited the file
            data = data[:length]
        for line in data.splitlines(keepends=True):
            read += len(line)
            row = _parse(line)
            if not row or wrong_value(row):
                continue
            if row["images"] > images or not line.endswith(b"\n"):
                break
            self.rows.append(row)
            kept = read
        self._stats.cut(kept)

    def lengths(self) -> dict[str, int]:
        """Lengths of the files that a checkpoint can cut back; correct after `sync`."""
        return {STATS: self._stats.length, TEXT: self._text.length}

    def note(self, text: str) -> None:
        self.console.note(text)
        self._write(text)

    def warn(self, text: str) -> None:
        self.console.warn(text)
        self._write(f"warning: {text}")

    def row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self._delayed():
            self._stats.add((json.dumps(row, allow_nan=False) + "\n").encode())
        if curves := scalars_of(row):
            with self._delayed():
                self._board.scalars(curves, row["images"])

    def grid(self, picture: NDArray[np.uint8], images: int) -> None:
        self._waiting_grids[self.samples / f"{images:09d}.png"] = png_bytes(picture)
        while len(self._waiting_grids) > _MAX_WAITING_GRIDS:
            self._waiting_grids.pop(next(iter(self._waiting_grids)))
        with self._delayed():
            self._write_grids()
        with self._delayed():
            self._board.picture("samples", picture, images)

    def draw(self, *, now: bool = False) -> None:
        """losses.png, unless it was drawn a moment ago: on a GPU drawing could take longer than the training."""
        start = time.monotonic()
        rested = start - self._drawn_at > _DRAW_REST * self._draw_seconds
        if (now or rested) and any("loss_g" in row for row in self.rows):
            with self._delayed():
                write_bytes(self.run / "losses.png", draw_curves(self.rows))
            self._drawn_at = time.monotonic()
            self._draw_seconds = self._drawn_at - start

    def sync(self) -> None:
        """Flushes all logs to disk. Raises DiskError if some of it still waits."""
        for file in (self._stats, self._text, self._board.file):
            file.sync()
        self._write_grids()
        if self._refused:
            self._refused = False
            self.note(f"{self.run} can be written again; delayed logs are written.")

    def close(self) -> None:
        with suppress(DiskError):
            self.sync()

    def _write(self, text: str) -> None:
        with self._delayed():
            self._text.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown(text)}\n".encode())

    def _write_grids(self) -> None:
        for path, data in list(self._waiting_grids.items()):
            write_bytes(path, data)
            del self._waiting_grids[path]

    @contextmanager
    def _delayed(self) -> Iterator[None]:
        try:
            yield
        except DiskError as error:
            if not self._refused:
                self._refused = True
                self.warn(f"{self.run} cannot be written ({reason_of(error)}). Training continues; its logs wait.")


def scalars_of(row: dict[str, Any]) -> dict[str, Any]:
    """The curves of a row by name, as TensorBoard and trackers show them."""
    curves = {name: value for name, value in row.items() if name not in _NO_CURVES} if "loss_g" in row else {}
    measured = row.get("measured", {})
    return curves | {f"measured/{name}": value for name, value in measured.items() if value is not None}


def read_stats(run: Path) -> list[dict[str, Any]]:
    """The rows of stats.jsonl, of all kinds, without damaged or incomplete lines."""
    return [row for row in numbered_stats(run).values() if row and not wrong_value(row)]


def unimproved(rows: list[dict[str, Any]]) -> int:
    """How many evaluations there were since the best one; a new reference begins again."""
    count = 0
    for row in reversed(rows):
        if row.get("best") or "protocol" in row:
            break
        count += "measured" in row
    return count


def numbered_stats(run: Path) -> dict[int, dict[str, Any]]:
    """The same by line number, from 1; an invalid line is an empty row."""
    path = run / STATS
    lines = path.read_bytes().splitlines() if path.exists() else []
    return {number: _parse(line) for number, line in enumerate(lines, 1) if line.strip()}


def _parse(line: bytes) -> dict[str, Any]:
    """A row; empty if it is invalid."""
    with suppress(DamagedFile):
        row = parse_json(line, STATS)
        if isinstance(row, dict) and isinstance(row.get("images"), int):
            return row
    return {}


def wrong_value(row: dict[str, Any]) -> str:
    """The first value of the wrong type, or ""."""
    if isinstance(row["images"], bool) or not 0 <= row["images"] <= _MAX_IMAGES:
        return "images"
    if "loss_g" in row:
        return next((name for name in _REQUIRED if not is_number(row.get(name))), "") or _non_number(row)
    if "health" in row:
        texts = (name for name in ("health", "text") if not isinstance(row.get(name), str))
        return next(texts, "measured" if "measured" in row else "")
    if not isinstance(row.get("ended", ""), str):
        return "ended"
    parts = (name for name in ("measured", "floor") if name in row)
    return next((name for name in parts if not isinstance(row[name], dict) or _non_number(row[name])), "")


def _non_number(values: dict[str, Any]) -> str:
    """The first of ``values`` that is neither a number nor None (a value that was not finite)."""
    return next((name for name, value in values.items() if not (value is None or is_number(value))), "")


class NullLog(RunLog):
    """The log of all processes but the main one: prints and writes nothing."""

    def __init__(self) -> None:
        self.rows = []

    def _nothing(self, *_: object, **__: object) -> None: ...

    cut_back = note = warn = row = draw = close = _nothing


def reason_of(error: DiskError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
