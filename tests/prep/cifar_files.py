"""CIFAR-10's batches as Python 2 pickled them, written instruction by instruction: no pickle is made or loaded here."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def pictures(count: int, seed: int) -> np.ndarray:
    """RGB uint8 (count, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def text(value: bytes) -> bytes:
    """SHORT_BINSTRING, or BINSTRING where that is too long; and memoised, as cPickle does."""
    short = b"U" + struct.pack("<B", len(value)) if len(value) < 256 else b"T" + struct.pack("<i", len(value))
    return short + value + b"q\x00"


def numbers(values: list[int]) -> bytes:
    """A list of small numbers, appended a thousand at a time."""
    parts = [values[i : i + 1000] for i in range(0, len(values), 1000)]
    return b"]q\x00" + b"".join(b"(" + b"".join(b"K" + bytes([v]) for v in part) + b"e" for part in parts)


def array(rows: np.ndarray, by_columns: bool = False) -> bytes:
    """NumPy's: ``_reconstruct(ndarray, (0,), 'b')``, then its state (1, shape, dtype, is Fortran, bytes)."""
    made = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x00K\x00\x85q\x00" + text(b"b") + b"\x87R(K\x01"
    )
    shape = b"M" + struct.pack("<H", len(rows)) + b"M" + struct.pack("<H", rows.shape[1]) + b"\x86"
    dtype = b"cnumpy\ndtype\nq\x00" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|")
    dtype += b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    data = rows.tobytes(order="F" if by_columns else "C")
    return made + shape + dtype + (b"\x88" if by_columns else b"\x89") + text(data) + b"tb"


def batch(images: np.ndarray, labels: list[int], by_columns: bool = False) -> bytes:
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = b"]q\x00(" + b"".join(text(b"data_%d.png" % i) for i in range(len(images))) + b"e"
    entries = [(b"batch_label", text(b"training batch 1 of 5")), (b"labels", numbers(labels))]
    entries += [(b"data", array(rows, by_columns)), (b"filenames", names)]
    return b"\x80\x02}q\x01(" + b"".join(text(key) + value for key, value in entries) + b"u."


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 4) -> Path:
    """Six batches where torchvision keeps them, their sums in the place of the published ones."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    sums = []
    for seed, name in enumerate(NAMES):
        data = batch(pictures(count, seed), [(seed + i) % 10 for i in range(count)])
        (folder / name).write_bytes(data)
        sums.append([name, hashlib.md5(data, usedforsecurity=False).hexdigest()])
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    return root
