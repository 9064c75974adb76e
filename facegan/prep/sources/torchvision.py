"""``torchvision:NAME``: data sets where torchvision's classes keep them, fetched from where these do, with their sums.

The one module of prep that imports torchvision, and only when such a source is named. What the classes themselves would
do as they are made is left out: read all pictures into memory, and unpickle CIFAR-10's.
"""

from __future__ import annotations

import pickletools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facegan.errors import SourceError, one_of, suggest
from facegan.files import user_cache
from facegan.prep.sources.arrays import Arrays, Pictures, open_idx_folder
from facegan.prep.sources.base import Entry
from facegan.prep.sources.folder import Folder, FolderReader
from facegan.prep.sources.remote import SourceFile

# CIFAR-10's batches as their authors publish them for Python: pickles, which are parsed here and never loaded.
#
# A batch is a dictionary pickled by Python 2: ``data`` is an array of bytes (N, 3072), a row the red, green and blue
# values of 32×32 pixels; ``labels`` a list of N numbers (Krizhevsky 2009, "Learning Multiple Layers of Features from
# Tiny Images"; the format on his page "The CIFAR-10 dataset"). `pickletools` goes through a pickle's instructions and
# carries none of them out.

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


NAMES = ("MNIST", "FashionMNIST", "CIFAR10", "CelebA")


def open_torchvision(text: str, download: bool) -> Arrays | CIFAR10 | CelebA:
    """``torchvision:NAME`` or ``torchvision:NAME:FOLDER``, the folder being torchvision's ``root``.

    Raises:
        SourceError: no such set, its files are not there and ``download`` is not set, or they can't be fetched.
    """
    _, name, *rest = text.split(":", 2)
    if name not in NAMES:
        raise SourceError(f"{text}: facegan reads {one_of(NAMES)} by torchvision.{suggest(name, NAMES)}")
    root = Path(rest[0]) if rest and rest[0] else user_cache("torchvision")
    if name == "CIFAR10":
        return _open_cifar10(text, root, download)
    if name == "CelebA":
        return _open_celeba(text, root, download)
    return _open_mnist(text, name, root, download)


def _open_mnist(text: str, name: str, root: Path, download: bool) -> Arrays:
    """MNIST, or what has its files: packed ones are compared with their sums, plain ones can't be."""
    from torchvision import datasets
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    published, raw = getattr(datasets, name), root / name / "raw"
    files: dict[str, str] = dict(published.resources)

    def missing() -> list[str]:
        return [
            file
            for file, md5 in files.items()
            if not (raw / file.removesuffix(".gz")).is_file() and not check_integrity(raw / file, md5)
        ]

    if missing() and not download:
        raise _incomplete(name, root)
    for file in missing():
        errors: list[Exception] = []
        for mirror in published.mirrors:
            try:
                download_and_extract_archive(f"{mirror}{file}", str(raw), filename=file, md5=files[file])
                break
            except (RuntimeError, OSError) as error:
                errors.append(error)
        else:
            raise _unfetched(name, errors[0], list(files), raw)
    return Arrays(text, open_idx_folder(raw).arrays)


def _open_cifar10(text: str, root: Path, download: bool) -> CIFAR10:
    from torchvision.datasets import CIFAR10 as published
    from torchvision.datasets.utils import check_integrity, download_and_extract_archive

    folder = root / published.base_folder
    listed = {"train": published.train_list, "test": published.test_list}

    def is_whole() -> bool:
        return all(check_integrity(folder / file, md5) for part in listed.values() for file, md5 in part)

    if not is_whole():
        if not download:
            raise _incomplete("CIFAR10", root)
        try:
            download_and_extract_archive(published.url, str(root), filename=published.filename, md5=published.tgz_md5)
        except (RuntimeError, OSError) as error:
            raise _unfetched("CIFAR10", error, [published.filename], root) from None
        if not is_whole():
            raise _incomplete("CIFAR10", root)
    return CIFAR10(text, {part: tuple(folder / file for file, _ in files) for part, files in listed.items()})


def _open_celeba(text: str, root: Path, download: bool) -> CelebA:
    from torchvision.datasets import CelebA as published

    try:
        published(str(root), split="all", download=download)  # it reads lists alone
    except (RuntimeError, OSError) as error:
        if not download:
            raise _incomplete("CelebA", root) from None
        raise _unfetched("CelebA", error, ["img_align_celeba.zip and its lists"], root / "celeba") from None
    return CelebA(text, root / "celeba" / "img_align_celeba")


def _incomplete(name: str, root: Path) -> SourceError:
    return SourceError(
        f"{name} is not whole in {root}. Fetch it with --download (in a recipe: prep.download=true),\n"
        f"or name torchvision's root folder: torchvision:{name}:FOLDER"
    )


def _unfetched(name: str, error: Exception, files: Sequence[str], folder: Path) -> SourceError:
    why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
    return SourceError(
        f"{name} can't be fetched ({why:.200}).\nWithout a network: put {', '.join(files)} into {folder}\n"
        "by other means, and start again."
    )


@dataclass(frozen=True)
class CIFAR10:
    """CIFAR-10's batches, whose sums were compared, by split: for a run they become arrays."""

    where: str
    batches: dict[str, tuple[Path, ...]]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        for number, (part, files) in enumerate(self.batches.items()):
            labels = [label for file in files for label in _read(file)[1]]
            for i, label in enumerate(labels):
                yield Entry(f"{part}/{i:06d}.png".encode(), 0, (number, i), label, part)

    def marks(self) -> tuple[str, ...]:
        return ("torchvision:CIFAR10",)  # whose files' sums are known

    def unpacked(self, folder: Path) -> Arrays:
        import numpy as np

        arrays = []
        for part, files in self.batches.items():
            path = folder / f"CIFAR10-{part}.npy"
            np.save(path, np.concatenate([_read(file)[0] for file in files]))
            arrays.append(Pictures(SourceFile(str(path)), part=part))
        return Arrays(self.where, tuple(arrays))


def _read(file: Path) -> tuple[Any, list[int]]:
    try:
        return read_batch(file)
    except ValueError as error:
        raise SourceError(f"{file} is no batch of CIFAR-10 ({error}).") from None


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
