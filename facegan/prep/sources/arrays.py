"""Pictures as arrays: .npy and .npz (NumPy), and MNIST's idx files. Each picture is read as an uncompressed PNG."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np

from facegan.console import shown
from facegan.errors import DamagedSourceError, SourceError
from facegan.files import atomic_write
from facegan.prep.sources.base import Entry
from facegan.prep.sources.remote import SourceFile
from facegan.remote import is_url
from facegan.shards.images import encode_image
from facegan.unpack import MAX_RATIO, Unpacking

_IDX = re.compile(r"^(?P<part>.*?)-?images[-.]idx3-ubyte(\.gz)?$")
_MOST_ARRAYS = 100  # in a .npz: MedMNIST has six
_HEADER_BYTES = 1 << 16  # NumPy writes no longer header than 10,000 bytes, and would read one of 4 GB
_BROKEN = (  # what numpy, zipfile and the decompressors raise for damage, and for headers that mean harm
    ValueError, TypeError, KeyError, SyntaxError, TokenError, EOFError, RecursionError, MemoryError, OverflowError,
    NotImplementedError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
_PARTS = {"train": "train", "t10k": "test", "test": "test", "val": "val"}


@dataclass(frozen=True)
class Pictures:
    """One array of pictures.

    Attributes:
        blob: the file.
        member: the array's name inside a .npz.
        part: its split; empty where nothing tells.
        labels: the file of its labels (idx), or their array's name inside the .npz; empty where there are none.
        shape: of the array inside a .npz.
    """

    blob: SourceFile
    member: str = ""
    part: str = ""
    labels: str = ""
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Arrays:
    """The pictures of one or more arrays: uint8 (N, H, W), (N, H, W, C) or (N, C, H, W) with 1, 3 or 4 channels.

    A picture's name is its number, below its split where there are several arrays: ``train/000007.png``.
    """

    where: str
    arrays: tuple[Pictures, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        parts = Counter(pictures.part for pictures in self.arrays)
        for number, pictures in enumerate(self.arrays):
            shape = _shape(pictures)
            labels = _labels(pictures, shape[0])
            alone = pictures.part if parts[pictures.part] == 1 else pictures.member
            below = f"{alone or number}/" if len(self.arrays) > 1 else ""
            for i in range(shape[0]):
                name = f"{below}{i:06d}.png".encode()
                yield Entry(name, 0, (number, i), labels[i] if labels else 0, pictures.part)

    def marks(self) -> tuple[str, ...]:
        return tuple(pictures.blob.mark() for pictures in self.arrays)

    def unpacked(self, folder: Path) -> Arrays:
        return Arrays(self.where, tuple(_unpacked(p, folder, i) for i, p in enumerate(self.arrays)))

    def reader(self) -> ArraysReader:
        return ArraysReader([_mapped(pictures) for pictures in self.arrays])


class ArraysReader:
    def __init__(self, arrays: list[np.ndarray]) -> None:
        self._arrays = arrays

    def read(self, entry: Entry) -> bytes:
        number, row = entry.place
        return encode_image(_rgb(np.asarray(self._arrays[number][row])), "png")

    def close(self) -> None:
        self._arrays.clear()


def _rgb(picture: np.ndarray) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) → (H, W, 3); alpha is laid over white."""
    if picture.ndim == 3 and picture.shape[-1] not in (1, 3, 4):
        picture = np.moveaxis(picture, 0, -1)
    if picture.ndim == 2:
        picture = picture[..., None]
    if picture.shape[-1] == 4:
        alpha = picture[..., 3:].astype(np.uint16)
        return ((picture[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(picture, (*picture.shape[:2], 3)))


def open_arrays(blob: SourceFile) -> Arrays:
    """
    Raises:
        SourceError: the file holds no array of pictures.
    """
    if blob.name.endswith(".npz"):
        return Arrays(blob.where, tuple(_of_npz(blob)))
    if blob.name.endswith(".npy"):
        return Arrays(blob.where, (Pictures(blob),))
    return Arrays(blob.where, (_of_idx(blob),))


def is_idx(name: str) -> bool:
    return _IDX.match(name) is not None


def open_idx_folder(folder: Path, max_ratio: int = MAX_RATIO) -> Arrays:
    """The idx files of pictures in a folder: MNIST's train and test together. A packed file beside its plain one is
    passed over."""
    names = sorted(path.name for path in folder.iterdir() if is_idx(path.name))
    plain = [name for name in names if name.removesuffix(".gz") == name or name.removesuffix(".gz") not in names]
    return Arrays(str(folder), tuple(_of_idx(SourceFile(str(folder / name), max_ratio)) for name in plain))


def _of_idx(blob: SourceFile) -> Pictures:
    found = _IDX.match(blob.name)
    part = _PARTS.get(found["part"], "") if found else ""
    labels = blob.where.removesuffix(blob.name) + blob.name.replace("images", "labels").replace("idx3", "idx1")
    if is_url(blob.where):
        return Pictures(blob, part=part)
    there = next((name for name in (labels, labels.removesuffix(".gz"), labels + ".gz") if Path(name).is_file()), "")
    return Pictures(blob, part=part, labels=there)


def _of_npz(blob: SourceFile) -> Iterator[Pictures]:
    try:
        with blob.open() as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > _MOST_ARRAYS:
                raise ValueError(f"{len(members):,} members, and {_MOST_ARRAYS} at most")
            bounds = blob.bounds(file)
            bounds.check_parts(sum(member.compress_size for member in members), "members")
            shapes: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
            for member in members:
                if member.filename.endswith(".npy"):
                    shape, dtype = _npy_header(archive.open(member))
                    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > member.file_size:
                        raise ValueError(f"{member.filename} claims {shape} {dtype} in {member.file_size:,} bytes")
                    shapes[member.filename.removesuffix(".npy")] = shape, dtype
    except _BROKEN as error:
        raise DamagedSourceError(f"{blob.where} is no .npz that can be read ({error}).") from None
    pictures = {name: shape for name, (shape, dtype) in shapes.items() if dtype == np.uint8 and _fits(shape)}
    if not pictures:
        listed = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in shapes.items()) or "nothing"
        raise SourceError(f"{blob.where} holds no uint8 array (N, H, W[, C]) of pictures, but {shown(listed)}.")
    bounds.check_photos(sum(shape[0] for shape in pictures.values()))
    bounds.check_bytes(sum(map(math.prod, pictures.values())))
    for name, shape in pictures.items():
        part = next((p for word, p in _PARTS.items() if _says(name, word)), "")
        fitting = [other for other, (its, dtype) in shapes.items()
                   if its == (shape[0],) and np.issubdtype(dtype, np.integer)]  # fmt: skip
        alike = [other for other in fitting if any(_says(name, w) and _says(other, w) for w in _PARTS)] or fitting
        yield Pictures(blob, name, part, alike[0] if alike else "", shape)


def _says(name: str, word: str) -> bool:
    """Whether a word stands in a name by itself: not ``test`` in ``latest``."""
    return re.search(rf"(?<![a-z]){word}(?![a-z])", name.lower()) is not None


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
    with file:
        start = io.BytesIO(file.read(_HEADER_BYTES))
    version = np.lib.format.read_magic(start)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(start)
    if min(shape, default=0) < 0:
        raise ValueError(f"an array of {shape}")
    return shape, dtype


def _fits(shape: tuple[int, ...]) -> bool:
    """Whether these are pictures. Those of no pixels would take no bytes, however many they are."""
    return min(shape[1:], default=0) > 0 and (
        len(shape) == 3 or (len(shape) == 4 and (shape[-1] in (1, 3, 4) or shape[1] in (1, 3, 4)))
    )


def _shape(pictures: Pictures) -> tuple[int, ...]:
    """
    Raises:
        SourceError: it is no array of pictures.
    """
    if pictures.member:
        return pictures.shape
    where = pictures.blob.where
    try:
        with pictures.blob.open() as file:
            bounds = pictures.blob.bounds(file)
            if pictures.blob.name.endswith(".npy"):
                shape, dtype = _npy_header(file)
            else:
                shape, dtype = _idx_shape(_plain(file, pictures.blob.name), 3), np.dtype(np.uint8)
    except _BROKEN as error:
        raise DamagedSourceError(f"{where} holds no array that can be read ({error}).") from None
    if dtype != np.uint8 or not _fits(shape):
        raise SourceError(
            f"{where} holds {dtype} {shape}: pictures are uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), each of a "
            "pixel or more."
        )
    if _is_packed(pictures):
        bounds.check_bytes(math.prod(shape))
        bounds.check_photos(shape[0])
    elif math.prod(shape) > bounds.packed_bytes:  # a header of a few bytes may claim any number of pictures
        raise DamagedSourceError(
            f"{where} is cut short: {math.prod(shape):,} bytes of pictures in {bounds.packed_bytes:,}."
        )
    return shape


def _is_packed(pictures: Pictures) -> bool:
    return pictures.blob.name.endswith(".gz")


def _labels(pictures: Pictures, count: int) -> list[int]:
    if not pictures.labels:
        return []
    if pictures.member:
        with pictures.blob.open() as file, np.load(file, allow_pickle=False) as arrays:
            return arrays[pictures.labels].tolist()
    with Path(pictures.labels).open("rb") as file:
        plain = _plain(file, pictures.labels)
        try:
            (told,) = _idx_shape(plain, 1)
            labels = list(plain.read(count)) if told == count else []
        except _BROKEN as error:
            raise DamagedSourceError(f"{pictures.labels} holds no labels that can be read ({error}).") from None
    if len(labels) != count:
        raise SourceError(f"{pictures.labels} has {len(labels) or told:,} labels for {count:,} pictures.")
    return labels


def _plain(file: Any, name: str) -> Any:
    return gzip.open(file) if name.endswith(".gz") else file


def _idx_shape(file: BinaryIO, dimensions: int) -> tuple[int, ...]:
    """The header of an idx file of bytes (LeCun, "THE MNIST DATABASE"): 0 0 8 D, then D sizes, big-endian."""
    if file.read(4) != bytes((0, 0, 8, dimensions)):
        raise ValueError(f"no idx{dimensions} file of bytes")
    sizes = np.frombuffer(file.read(4 * dimensions), ">i4").tolist()
    if len(sizes) != dimensions or min(sizes) < 0:
        raise ValueError("an idx file cut short")
    return tuple(sizes)


def _unpacked(pictures: Pictures, folder: Path, number: int) -> Pictures:
    """What can be mapped into memory: packed or remote arrays are copied into ``folder``."""
    blob, name = pictures.blob, pictures.blob.name
    if not pictures.member and not name.endswith(".gz") and not is_url(blob.where):
        _check_mapped(pictures, blob.where)
        return pictures
    path = folder / (f"{number:03d}.npy" if pictures.member else f"{number:03d}-{name}".removesuffix(".gz"))
    blob = blob.in_parts(folder)
    try:
        with contextlib.ExitStack() as opened:
            file = opened.enter_context(blob.open())
            unpacking = Unpacking(replace(blob.bounds(file), where=pictures.blob.where), folder)
            if pictures.member:
                archive = opened.enter_context(zipfile.ZipFile(file))
                plain = opened.enter_context(archive.open(pictures.member + ".npy"))
            else:
                plain = _plain(file, name)
            unpacking.copy(plain, opened.enter_context(atomic_write(path)))
    except _BROKEN as error:
        raise DamagedSourceError(f"{pictures.blob.where} can't be unpacked ({error}).") from None
    unpacked = Pictures(SourceFile(str(path)), "", pictures.part, "")
    _check_mapped(unpacked, pictures.blob.where)
    return unpacked


def _check_mapped(pictures: Pictures, where: str) -> None:
    """
    Raises:
        SourceError: the file ends before its last picture.
    """
    try:
        _mapped(pictures)
    except _BROKEN as error:
        raise DamagedSourceError(f"{where} is cut short ({error}).") from None


def _mapped(pictures: Pictures) -> np.ndarray:
    path = Path(pictures.blob.where)
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    with path.open("rb") as file:
        shape = _idx_shape(file, 3)
        return np.memmap(path, np.uint8, "r", offset=file.tell(), shape=shape)
