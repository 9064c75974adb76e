"""Photographs as arrays: .npy, .npz and MNIST's idx files. Each is read as an uncompressed PNG.

idx headers are read here, in six lines: torchvision's reader would load torch into every worker.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from facegan.console import shown
from facegan.errors import DamagedSourceError, SourceError
from facegan.files import atomic_write
from facegan.prep.sources.base import Entry, Reader, Source
from facegan.prep.sources.remote import SourceFile
from facegan.remote import is_url
from facegan.shards.images import encode_image
from facegan.unpack import Unpacking

_IDX = re.compile(r"^(?P<part>.*?)-?images[-.]idx3-ubyte(\.gz)?$")
_MAX_ARRAYS = 100  # in a .npz: MedMNIST has six
_HEADER_BYTES = 1 << 16  # NumPy writes at most 10,000 bytes, and would read 4 GB
_LABELS = ("label", "labels", "target", "targets", "y")  # words in the name of a list of labels
_PARTS = {"train": "train", "t10k": "test", "test": "test", "val": "val"}


@dataclass(frozen=True)
class PhotoArray:
    """One array of photographs."""

    file: SourceFile
    shape: tuple[int, ...]
    member: str = ""  # its name inside a .npz
    part: str = ""  # its split; empty if unknown
    labels: str = ""  # the file of its labels (idx), or their array's name inside the .npz; empty if there are none


@dataclass(frozen=True)
class Arrays(Source):
    """Photographs in arrays, uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels.

    A photograph is named after its index, below its split if there are several arrays: ``train/000007.png``.
    """

    arrays: tuple[PhotoArray, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        parts = Counter(array.part for array in self.arrays)
        for number, array in enumerate(self.arrays):
            labels = _labels(array)
            folder = array.part if parts[array.part] == 1 else array.member
            below = f"{folder or number}/" if len(self.arrays) > 1 else ""
            for i in range(array.shape[0]):
                name = f"{below}{i:06d}.png".encode()
                yield Entry(name, 0, (number, i), labels[i] if labels else 0, array.part)

    def digests(self) -> tuple[str, ...]:
        return tuple(array.file.quick_digest() for array in self.arrays)

    def unpacked(self, folder: Path) -> Arrays:
        return Arrays(self.where, tuple(_unpacked(array, folder, i) for i, array in enumerate(self.arrays)))

    def reader(self) -> ArraysReader:
        return ArraysReader([_mapped(array.file.where) for array in self.arrays])


@dataclass
class ArraysReader(Reader):
    arrays: list[np.ndarray]

    def read(self, entry: Entry) -> bytes:
        number, row = entry.locator
        return encode_image(_rgb(np.asarray(self.arrays[number][row])), "png")

    def close(self) -> None:
        self.arrays.clear()


def _rgb(image: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) → (H, W, 3); alpha is composited over white."""
    if image.ndim == 3 and image.shape[-1] not in (1, 3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.ndim == 2:
        image = image[..., None]
    if image.shape[-1] == 4:
        alpha = image[..., 3:].astype(np.uint16)
        return ((image[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def is_idx(name: str) -> bool:
    return _IDX.match(name) is not None


def open_idx_folder(folder: Path, find: Callable[[str], SourceFile] = SourceFile) -> Arrays:
    """The idx files of images in a folder, such as MNIST's train and test. A plain file hides its packed copy."""
    names = sorted(path.name for path in folder.iterdir() if is_idx(path.name))
    plain = [name for name in names if name.removesuffix(".gz") == name or name.removesuffix(".gz") not in names]
    return Arrays(str(folder), tuple(_open_array(find(str(folder / name))) for name in plain))


def open_arrays(file: SourceFile) -> Arrays:
    """Raises SourceError if the file holds no array of photographs."""
    return Arrays(file.where, tuple(_open_npz(file)) if file.name.endswith(".npz") else (_open_array(file),))


def _open_array(file: SourceFile) -> PhotoArray:
    """Of a .npy or idx file."""
    with file.open() as opened:
        bounds = file.bounds(opened)
        if file.name.endswith(".npy"):
            shape, dtype = _npy_header(opened)
        else:
            shape, dtype = _idx_shape(_plain(opened, file.name), 3), np.dtype(np.uint8)
    if dtype != np.uint8 or not _is_photos(shape):
        raise SourceError(
            f"{file.where} has {dtype} {shape}. Photographs are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), of at "
            "least one pixel each."
        )
    if file.name.endswith(".gz"):
        bounds.check_bytes(math.prod(shape))
        bounds.check_photos(shape[0])
    elif math.prod(shape) > bounds.packed_bytes:  # a short header may claim any number of photographs
        raise DamagedSourceError(
            f"{file.where} is incomplete: {math.prod(shape):,} bytes of photographs in {bounds.packed_bytes:,}."
        )
    if not (found := _IDX.match(file.name)):
        return PhotoArray(file, shape)
    beside = file.where.removesuffix(file.name) + file.name.replace("images", "labels").replace("idx3", "idx1")
    candidates = (beside, beside.removesuffix(".gz"), beside + ".gz")
    labels = next((name for name in candidates if Path(name).is_file()), "")  # none of a URL is
    return PhotoArray(file, shape, part=_PARTS.get(found["part"], ""), labels=labels)


def _open_npz(file: SourceFile) -> Iterator[PhotoArray]:
    with file.open() as opened, zipfile.ZipFile(opened) as archive:
        members = archive.infolist()
        if len(members) > _MAX_ARRAYS:
            raise ValueError(f"{len(members):,} members, {_MAX_ARRAYS} at most")
        bounds = file.bounds(opened)
        bounds.check_parts(sum(member.compress_size for member in members), "members")
        shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for member in members:
            if member.filename.endswith(".npy"):
                with archive.open(member) as plain:
                    shape, dtype = _npy_header(plain)
                if not dtype.hasobject and math.prod(shape) * dtype.itemsize > member.file_size:
                    raise ValueError(f"{member.filename} claims {shape} {dtype} in {member.file_size:,} bytes")
                shapes[member.filename.removesuffix(".npy")] = shape, dtype
    photos = {name: shape for name, (shape, dtype) in shapes.items() if dtype == np.uint8 and _is_photos(shape)}
    if not photos:
        listed = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in shapes.items()) or "nothing"
        raise SourceError(f"{file.where} has no uint8 array (N, H, W[, C]) of photographs. It has {shown(listed)}.")
    bounds.check_photos(sum(shape[0] for shape in photos.values()))
    bounds.check_bytes(sum(map(math.prod, photos.values())))
    for name, shape in photos.items():
        words = [word for word in _PARTS if _has_word(name, word)]
        lists = {other: its[0] for other, (its, dtype) in shapes.items()
                 if len(its) == 1 and np.issubdtype(dtype, np.integer)}  # fmt: skip
        fitting = [other for other, count in lists.items() if count == shape[0]]
        same_part = [other for other in fitting if any(_has_word(other, word) for word in words)]
        for other, count in () if fitting else lists.items():
            its_words = [word for word in _PARTS if _has_word(other, word)]
            if its_words == words and any(_has_word(other, label) for label in _LABELS):
                listed = f"{count:,} labels ({other}) for {shape[0]:,} photographs ({name})"
                raise SourceError(f"{file.where} has {shown(listed)}.")
        part = _PARTS[words[0]] if words else ""
        yield PhotoArray(file, shape, name, part, next(iter(same_part or fitting), ""))


def _has_word(name: str, word: str) -> bool:
    """``test`` is a word of ``x_test``, not of ``latest``."""
    return re.search(rf"(?<![a-z]){word}(?![a-z])", name.lower()) is not None


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    start = io.BytesIO(file.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of {shape}")
    return shape, dtype


def _is_photos(shape: tuple[int, ...]) -> bool:
    """Photographs without pixels are refused: any number of them would take no bytes."""
    return min(shape[1:], default=0) > 0 and (
        len(shape) == 3 or (len(shape) == 4 and (shape[-1] in (1, 3, 4) or shape[1] in (1, 3, 4)))
    )


def _labels(array: PhotoArray) -> list[int]:
    if not array.labels:
        return []
    if array.member:
        with array.file.open() as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[array.labels].tolist()
    count = array.shape[0]
    with Path(array.labels).open("rb") as file:
        plain = _plain(file, array.labels)
        (declared,) = _idx_shape(plain, 1)
        labels = list(plain.read(count)) if declared == count else []
    if len(labels) != count:
        raise SourceError(f"{array.labels} has {len(labels) or declared:,} labels for {count:,} photographs.")
    return labels


def _plain(file: Any, name: str) -> Any:
    return gzip.open(file) if name.endswith(".gz") else file


def _idx_shape(file: Any, dimensions: int) -> tuple[int, ...]:
    """The header of an idx file of bytes (LeCun, "THE MNIST DATABASE"): 0 0 8 D, then D sizes, big-endian."""
    if file.read(4) != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"not an idx{dimensions} file of bytes")
    sizes = np.frombuffer(file.read(4 * dimensions), ">i4").tolist()
    if len(sizes) != dimensions or min(sizes) < 0:
        raise ValueError("an incomplete idx file")
    return tuple(sizes)


def _unpacked(array: PhotoArray, folder: Path, number: int) -> PhotoArray:
    """A file that can be memory-mapped: packed and remote arrays are copied into ``folder``."""
    file = array.file
    if array.member or file.name.endswith(".gz") or is_url(file.where):
        name = f"{number:03d}.npy" if array.member else f"{number:03d}-{file.name}".removesuffix(".gz")
        source = file.shareable(folder)
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(source.open())
            unpacking = Unpacking(replace(source.bounds(opened), where=file.where), folder)
            plain = _plain(opened, file.name)
            if array.member:
                archive = stack.enter_context(zipfile.ZipFile(opened))
                plain = stack.enter_context(archive.open(array.member + ".npy"))
            unpacking.copy(plain, stack.enter_context(atomic_write(folder / name)))
        array = PhotoArray(SourceFile(str(folder / name)), array.shape, part=array.part)
    _mapped(array.file.where)  # raises if it is incomplete
    return array


def _mapped(where: str) -> np.ndarray:
    if where.endswith(".npy"):
        return np.load(where, mmap_mode="r", allow_pickle=False)
    with Path(where).open("rb") as file:
        shape = _idx_shape(file, 3)
        return np.memmap(where, np.uint8, "r", offset=file.tell(), shape=shape)
