"""``torchvision:NAME``: data sets where torchvision's classes keep them, downloaded and checked by torchvision.

The only module of prep that imports torchvision, and only if such a source is named. torchvision reads pickles of
CIFAR-10 alone, and only after it compared every file's MD5. MNIST's class would load an unchecked pickle from its
folder, so MNIST's raw files are read as arrays instead.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facegan.errors import SourceError, one_of, suggest
from facegan.files import user_cache
from facegan.prep.sources.arrays import Arrays, PhotoArray, open_idx_folder
from facegan.prep.sources.base import Entry, Reader, Source, read_split
from facegan.prep.sources.folder import Folder
from facegan.prep.sources.remote import SourceFile

NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CelebA")


def open_torchvision(text: str, download: bool) -> Source:
    """``torchvision:NAME`` or ``torchvision:NAME:ROOT``."""
    _, name, *rest = text.split(":", 2)
    if name not in NAMES:
        raise SourceError(f"{text} is not available. Choose {one_of(NAMES)}.{suggest(name, NAMES)}")
    root = Path(rest[0]) if rest and rest[0] else user_cache("torchvision")
    open_set, files, folder = {
        "CIFAR10": (_open_cifar10, "cifar-10-python.tar.gz", root),
        "CelebA": (_open_celeba, "img_align_celeba.zip and its lists", root / "celeba"),
    }.get(name, (_open_mnist, "its four files *-ubyte.gz", root / name / "raw"))
    try:
        return open_set(text, root, download)
    except (RuntimeError, OSError) as error:
        if not download:
            raise SourceError(
                f"{name} is incomplete in {root}. Download it with --download (in a recipe: prep.download=true),\n"
                f"or name torchvision's root folder: torchvision:{name}:ROOT"
            ) from None
        why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise SourceError(
            f"{name} could not be downloaded ({why:.200}).\nWithout a network, put {files} into {folder}\n"
            "and run the same command again."
        ) from None


def _open_mnist(text: str, root: Path, download: bool) -> Arrays:
    """MNIST or FashionMNIST. Packed files are checked; there are no checksums of unpacked ones."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    name = text.split(":")[1]
    published, raw = getattr(datasets, name), root / name / "raw"
    for file, md5 in published.resources:
        if (raw / file.removesuffix(".gz")).is_file() or check_integrity(raw / file, md5):
            continue
        reason: Exception = RuntimeError(f"{file} is missing")
        for mirror in published.mirrors if download else ():
            try:
                download_and_extract_archive(f"{mirror}{file}", str(raw), filename=file, md5=md5)
                break
            except (RuntimeError, OSError) as error:
                reason = error
        else:
            raise reason
    return replace(open_idx_folder(raw), where=text)


def _open_cifar10(text: str, root: Path, download: bool) -> CIFAR10:
    from torchvision import datasets

    with warnings.catch_warnings():  # NumPy 2.4 warns of how Python 2 pickled these arrays
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        train = datasets.CIFAR10(str(root), train=True, download=download)
        return CIFAR10(text, {"train": train, "test": datasets.CIFAR10(str(root), train=False)})


def _open_celeba(text: str, root: Path, download: bool) -> CelebA:
    from torchvision import datasets

    datasets.CelebA(str(root), split="all", download=download)  # reads lists only
    return CelebA(text, str(root / "celeba" / "img_align_celeba"))


@dataclass(frozen=True)
class CIFAR10(Source):
    """CIFAR-10 as torchvision's data sets, by split. Unpacking saves their arrays."""

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
            arrays.append(PhotoArray(SourceFile(str(path)), dataset.data.shape, part=part))
        return Arrays(self.where, tuple(arrays))

    def reader(self) -> Reader:
        raise NotImplementedError


@dataclass(frozen=True)
class CelebA(Source):
    """CelebA's aligned photographs with its split."""

    folder: str

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        partition = Path(self.folder).parent / "list_eval_partition.txt"
        parts = dict(read_split(partition.read_bytes().splitlines(), str(partition)))
        for entry in Folder(self.folder).photos(ignored):
            yield entry._replace(part=parts.get(entry.name, ""))

    def reader(self) -> Reader:
        return Folder(self.folder).reader()
