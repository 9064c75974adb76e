"""TensorBoard's event file, written as its readers expect it.

torch's SummaryWriter writes from a thread, which dies for good, with a traceback, where the disk is full once; it takes
three seconds to load; and it computes checksums of whole PNGs byte by byte in Python. Records, after TensorFlow's
record_writer.cc: a length (uint64), its checksum (uint32), the data, their checksum (uint32), all little-endian.
"""

from __future__ import annotations

import importlib
import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facegan.train.folder.growing import GrowingFile
from facegan.train.grid import as_stored

_numbers = itertools.count()
_JPEG_QUALITY = 95  # grids lie without loss in samples/


class Board:
    """Events of one start of a run. Every method raises DiskError where they must wait (see `GrowingFile`)."""

    def __init__(self, run: Path) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self.file = GrowingFile(run / name)
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
        _, data = cv2.imencode(".jpg", as_stored(picture), (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
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
