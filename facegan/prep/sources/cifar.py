"""CIFAR-10's batches as their authors publish them for Python: pickles, which are parsed here and never loaded.

A batch is a dictionary pickled by Python 2: ``data`` is an array of bytes (N, 3072), a row the red, green and blue
values of 32×32 pixels; ``labels`` a list of N numbers (Krizhevsky 2009, "Learning Multiple Layers of Features from Tiny
Images"; the format on his page "The CIFAR-10 dataset"). `pickletools` goes through a pickle's instructions and carries
none of them out.
"""

from __future__ import annotations

import pickletools
from pathlib import Path

import numpy as np

_ROW = 3 * 32 * 32
_TEXTS = ("SHORT_BINSTRING", "BINSTRING", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES")
_NUMBERS = ("BININT1", "BININT2", "BININT")


def read_batch(path: Path) -> tuple[np.ndarray, list[int]]:
    """
    Returns:
        RGB uint8 (N, 32, 32, 3), and the N labels.

    Raises:
        ValueError: it is no batch of CIFAR-10.
    """
    key, by_columns, data, labels = "", False, b"", list[int]()
    with path.open("rb") as file:
        for instruction, value, _ in pickletools.genops(file):
            if instruction.name in _TEXTS:
                text = value if isinstance(value, bytes) else str(value).encode("latin-1")
                if text in (b"data", b"labels", b"filenames", b"batch_label"):
                    key = text.decode()
                elif key == "data" and len(text) % _ROW == 0:
                    data = text or data
            elif instruction.name in ("NEWTRUE", "NEWFALSE") and key == "data" and not data:
                by_columns = instruction.name == "NEWTRUE"  # NumPy's Fortran order, told before the bytes
            elif instruction.name in _NUMBERS and key == "labels":
                labels.append(int(value or 0))
    count = len(data) // _ROW
    if not count or len(labels) != count:
        raise ValueError(f"{count:,} pictures and {len(labels):,} labels")
    rows = np.frombuffer(data, np.uint8).reshape((count, _ROW), order="F" if by_columns else "C")
    return np.ascontiguousarray(rows.reshape(count, 3, 32, 32).transpose(0, 2, 3, 1)), labels
