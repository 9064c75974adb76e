"""``torchvision:NAME``: data sets by torchvision's own classes, which check and, if asked to, fetch them.

The one module of prep that imports torchvision, and only when such a source is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.errors import SourceError, one_of, suggest
from facegan.files import user_cache
from facegan.prep.sources.arrays import Arrays, Pictures, open_idx_folder
from facegan.prep.sources.base import Entry
from facegan.prep.sources.blob import Blob
from facegan.prep.sources.folder import Folder, FolderReader

NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CelebA")


def open_torchvision(text: str, download: bool) -> Arrays | ClassData | CelebA:
    """``torchvision:NAME`` or ``torchvision:NAME:FOLDER``, the folder being torchvision's ``root``.

    Raises:
        SourceError: no such set, or its files are not there and ``download`` is not set.
    """
    _, name, *rest = text.split(":", 2)
    if name not in NAMES:
        raise SourceError(f"{text}: facegan reads {one_of(NAMES)} by torchvision.{suggest(name, NAMES)}")
    root = Path(rest[0]) if rest and rest[0] else user_cache("torchvision")
    parts = {"train": _made(name, root, download, train=True), "test": _made(name, root, False, train=False)}
    if name in ("MNIST", "FashionMNIST"):
        return Arrays(text, open_idx_folder(root / name / "raw").arrays)
    if name == "CelebA":
        return CelebA(text, root / "celeba" / "img_align_celeba")
    return ClassData(text, root, name, {part: len(data) for part, data in parts.items()})


def _made(name: str, root: Path, download: bool, train: bool) -> Any:
    from torchvision import datasets

    which: dict[str, Any] = {"split": "all"} if name == "CelebA" else {"train": train}
    try:
        return getattr(datasets, name)(str(root), download=download, **which)
    except RuntimeError as error:
        if not download:
            raise SourceError(
                f"{name} is not whole in {root}. Fetch it with --download, or name torchvision's root folder:\n"
                f"torchvision:{name}:FOLDER"
            ) from None
        raise SourceError(f"{name} can't be fetched: {error}") from None
    except OSError as error:  # no network
        raise SourceError(f"{name} can't be fetched: {error}") from None


@dataclass(frozen=True)
class ClassData:
    """A set whose files only torchvision's class reads (CIFAR-10's are pickles, which it checks): kept as arrays."""

    where: str
    root: Path
    name: str
    counts: dict[str, int]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        for number, (part, count) in enumerate(self.counts.items()):
            labels = _made(self.name, self.root, False, train=part == "train").targets
            for i in range(count):
                yield Entry(f"{part}/{i:06d}.png".encode(), 0, (number, i), int(labels[i]), part)

    def marks(self) -> tuple[str, ...]:
        return (f"torchvision:{self.name}",)  # whose files its class has checked

    def unpacked(self, folder: Path) -> Arrays:
        import numpy as np

        arrays = []
        for part in self.counts:
            path = folder / f"{self.name}-{part}.npy"
            np.save(path, _made(self.name, self.root, False, train=part == "train").data)
            arrays.append(Pictures(Blob(str(path)), part=part))
        return Arrays(self.where, tuple(arrays))


@dataclass(frozen=True)
class CelebA:
    """CelebA's aligned photographs where torchvision puts them, with its split."""

    where: str
    folder: Path

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        partition = self.folder.parent / "list_eval_partition.txt"
        names = ("train", "val", "test")
        parts = {}
        for line in partition.read_text().splitlines():
            name, _, number = line.partition(" ")
            parts[name.encode()] = names[int(number)]
        for entry in Folder(self.folder).photos(ignored):
            yield entry._replace(part=parts.get(entry.name, ""))

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> CelebA:
        return self

    def reader(self) -> FolderReader:
        return Folder(self.folder).reader()
