"""Handwritten digits laid out as torchvision keeps MNIST, for machines without a network: those of scikit-learn.

1,797 pictures of 8×8 (Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits"), enlarged to 28×28.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest


def write_idx(folder: Path, part: str, pictures: np.ndarray, labels: list[int], packed: bool) -> None:
    """Pictures, uint8 (N, H, W), and labels as MNIST's files have them (LeCun, "THE MNIST DATABASE")."""
    images = struct.pack(">4B3i", 0, 0, 8, 3, *pictures.shape) + pictures.tobytes()
    classes = struct.pack(">4Bi", 0, 0, 8, 1, len(labels)) + bytes(labels)
    for kind, data in (("images-idx3", images), ("labels-idx1", classes)):
        name = f"{part}-{kind}-ubyte" + (".gz" if packed else "")
        (folder / name).write_bytes(gzip.compress(data) if packed else data)


def write_mnist(root: Path, name: str = "MNIST", train: int = 1617, test: int = 180) -> Path:
    """The first digits as those for training and the last as those for tests, in torchvision's ``root``."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    large = [cv2.resize(small * 255 / 16, (28, 28), interpolation=cv2.INTER_CUBIC) for small in found.images]
    pictures, labels = np.rint(np.clip(large, 0, 255)).astype(np.uint8), found.target.tolist()
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    write_idx(raw, "train", pictures[:train], labels[:train], packed=False)
    write_idx(raw, "t10k", pictures[-test:], labels[-test:], packed=False)
    return root
