"""``torchvision:NAME``: data sets where torchvision's classes keep them, downloaded and checked by torchvision.

The only module of prep that imports torchvision, and only if such a source is named. torchvision reads pickles of
CIFAR-10 alone, and only after it compared every file's MD5. MNIST's class would load an unchecked pickle from its
folder, so MNIST's raw files are read as arrays instead.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facegan.errors import SourceError, one_of, suggest
from facegan.files import user_cache
from facegan.prep.sources.arrays import Arrays, PhotoArray, open_idx_folder
from facegan.prep.sources.base import Entry
from facegan.prep.sources.folder import Folder, FolderReader
from facegan.prep.sources.remote import SourceFile

NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CelebA")


def open_torchvision(text: str, download: bool) -> Arrays | CIFAR10 | CelebA:
    """``torchvision:NAME`` or ``torchvision:NAME:ROOT``.

    Raises:
        SourceError: the data set is unknown, or incomplete and not to be downloaded, or cannot be downloaded.
    """
    _, name, *rest = text.split(":", 2)
    if name not in NAMES:
        raise SourceError(f"{text} is not available. Choose {one_of(NAMES)}.{suggest(name, NAMES)}")
    root = Path(rest[0]) if rest and rest[0] else user_cache("torchvision")
    if name == "CIFAR10":
        return _open_cifar10(text, root, download)
    if name == "CelebA":
        return _open_celeba(text, root, download)
    return _open_mnist(text, name, root, download)


def _open_mnist(text: str, name: str, root: Path, download: bool) -> Arrays:
    """MNIST or FashionMNIST. Packed files are checked; there are no checksums of unpacked ones."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    published, raw = getattr(datasets, name), root / name / "raw"
    files: dict[str, str] = dict(published.resources)

    def is_missing(file: str) -> bool:
        return not (raw / file.removesuffix(".gz")).is_file() and not check_integrity(raw / file, files[file])

    for file in filter(is_missing, files):
        if not download:
            raise _incomplete(name, root)
        errors: list[Exception] = []
        for mirror in published.mirrors:
            try:
                download_and_extract_archive(f"{mirror}{file}", str(raw), filename=file, md5=files[file])
                break
            except (RuntimeError, OSError) as error:
                errors.append(error)
        else:
            raise _failed(name, errors[0], list(files), raw)
    return Arrays(text, open_idx_folder(raw).arrays)


def _open_cifar10(text: str, root: Path, download: bool) -> CIFAR10:
    from torchvision import datasets

    try:
        with warnings.catch_warnings():  # NumPy 2.4 warns of how Python 2 pickled these arrays
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            train = datasets.CIFAR10(str(root), train=True, download=download)
            test = datasets.CIFAR10(str(root), train=False)
    except (RuntimeError, OSError) as error:
        if not download:
            raise _incomplete("CIFAR10", root) from None
        raise _failed("CIFAR10", error, [datasets.CIFAR10.filename], root) from None
    return CIFAR10(text, {"train": train, "test": test})


def _open_celeba(text: str, root: Path, download: bool) -> CelebA:
    from torchvision import datasets

    try:
        datasets.CelebA(str(root), split="all", download=download)  # reads lists only
    except (RuntimeError, OSError) as error:
        if not download:
            raise _incomplete("CelebA", root) from None
        raise _failed("CelebA", error, ["img_align_celeba.zip and its lists"], root / "celeba") from None
    return CelebA(text, root / "celeba" / "img_align_celeba")


def _incomplete(name: str, root: Path) -> SourceError:
    return SourceError(
        f"{name} is incomplete in {root}. Download it with --download (in a recipe: prep.download=true),\n"
        f"or name torchvision's root folder: torchvision:{name}:ROOT"
    )


def _failed(name: str, error: Exception, files: Sequence[str], folder: Path) -> SourceError:
    why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
    return SourceError(
        f"{name} could not be downloaded ({why:.200}).\nWithout a network, put {', '.join(files)} into {folder}\n"
        "and run the same command again."
    )


@dataclass(frozen=True)
class CIFAR10:
    """CIFAR-10 as torchvision's data sets, by split. Unpacking saves their arrays."""

    where: str
    splits: dict[str, Any]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        for number, (part, dataset) in enumerate(self.splits.items()):
            for i, label in enumerate(dataset.targets):
                yield Entry(f"{part}/{i:06d}.png".encode(), 0, (number, i), int(label), part)

    def digests(self) -> tuple[str, ...]:
        return ("torchvision:CIFAR10",)  # its files' checksums are known

    def unpacked(self, folder: Path) -> Arrays:
        arrays = []
        for part, dataset in self.splits.items():
            path = folder / f"CIFAR10-{part}.npy"
            np.save(path, np.ascontiguousarray(dataset.data))
            arrays.append(PhotoArray(SourceFile(str(path)), part=part))
        return Arrays(self.where, tuple(arrays))


@dataclass(frozen=True)
class CelebA:
    """CelebA's aligned photographs with its split."""

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

    def digests(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> CelebA:
        return self

    def reader(self) -> FolderReader:
        return Folder(self.folder).reader()
