"""CIFAR-10's batches and their description where torchvision keeps them."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def pictures(count: int, seed: int) -> np.ndarray:
    """RGB uint8 (count, 32, 32, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 4) -> Path:
    """Six batches and ``batches.meta``; their checksums replace the published ones."""
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)

    def write(name: str, value: dict[str, object]) -> str:
        data = pickle.dumps(value, protocol=2)
        (folder / name).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    checksums = []
    for seed, name in enumerate(NAMES):
        rows = pictures(count, seed).transpose(0, 3, 1, 2).reshape(count, -1)
        checksums.append([name, write(name, {"data": rows, "labels": [(seed + i) % 10 for i in range(count)]})])
    monkeypatch.setattr(CIFAR10, "train_list", checksums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", checksums[5:])
    md5 = write("batches.meta", {"label_names": [str(i) for i in range(10)]})
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5})
    return root
