"""Folders of photographs, on this machine and behind fsspec URLs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import SourceError
from facegan.prep.sources.base import MAX_BYTES, Entry, is_photo, suffix
from facegan.prep.sources.labels import LABELS_FILE, read_labels
from facegan.remote import Unreachable, filesystem, patiently
from facegan.shards.layout import DATASET_FILE, PHOTOS_FILE, STATE_FOLDER


@dataclass(frozen=True)
class Folder:
    """All files below a folder. Links to folders, and links that lead out of it, are not followed."""

    path: Path
    leave_out: Path | None = None  # a folder inside that holds no photographs: the dataset being written

    @property
    def where(self) -> str:
        return str(self.path)

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        top = os.fsencode(self.path)
        inside = os.path.realpath(top) + b"/"
        avoid = os.path.realpath(self.leave_out) if self.leave_out else None
        labels = self._labels()
        for name, entry in _walk(top, avoid):
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                ignored["link"] += 1
                continue
            if not is_photo(name):
                ignored[suffix(name)] += 1
                continue
            try:
                is_file, size = entry.is_file(), entry.stat().st_size
            except OSError:  # a link that leads nowhere or in a circle, or a file that was deleted just now
                is_file, size = False, 0
            if is_file:
                yield Entry(name, size, (), labels.get(name, 0))
            else:
                ignored["link" if entry.is_symlink() else "special"] += 1

    def _labels(self) -> dict[bytes, int]:
        path = self.path / LABELS_FILE
        return read_labels(path.read_bytes()) if path.is_file() else {}

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Folder:
        return self

    def reader(self) -> FolderReader:
        return FolderReader(os.fsencode(self.path))


def _walk(top: bytes, avoid: str | None) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
    """Files below ``top``, in no order, with their names; datasets that facegan wrote there are left out."""
    waiting = [(top, b"")]
    while waiting:
        folder, prefix = waiting.pop()
        if prefix and all((Path(os.fsdecode(folder)) / name).exists() for name in (DATASET_FILE, PHOTOS_FILE)):
            continue
        try:
            with os.scandir(folder) as entries:  # never all at once: a folder may hold millions
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield prefix + entry.name, entry
                    elif avoid is None or os.path.realpath(entry.path) != os.fsencode(avoid):
                        waiting.append((entry.path, prefix + entry.name + b"/"))
        except PermissionError:
            raise SourceError(f"The folder {os.fsdecode(folder)} may not be read by this user.") from None


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        try:
            file = os.open(os.path.join(self._top, entry.name), os.O_RDONLY)  # noqa: PTH118 - names are bytes
        except OSError as error:
            raise Unreachable(str(error)) from error
        try:
            data = os.read(file, min(entry.size, MAX_BYTES) + 1)
            if len(data) == entry.size:
                return data
            while len(data) <= MAX_BYTES and (more := os.read(file, 1 << 20)):  # the file grew, or a read was short
                data += more
            return data
        except OSError as error:
            raise Unreachable(str(error)) from error
        finally:
            os.close(file)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class RemoteFolder:
    """All objects below an fsspec URL (``s3://bucket/photos``, ``hf://datasets/…``, ``memory://photos``)."""

    where: str

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        fs, top = filesystem(self.where)
        fs.invalidate_cache()
        found = patiently(lambda: fs.find(top, detail=True))
        prefix = fs._strip_protocol(top).rstrip("/") + "/"
        names = {path.removeprefix(prefix): info for path, info in found.items()}
        for dataset in _datasets(names):
            names = {name: info for name, info in names.items() if not name.startswith(dataset)}
        labels = {}
        if LABELS_FILE in names:
            labels = read_labels(patiently(lambda: fs.cat_file(prefix + LABELS_FILE)))
        for name, info in names.items():
            raw = name.encode("utf-8", "surrogateescape")
            if is_photo(raw):
                yield Entry(raw, int(info.get("size") or 0), label=labels.get(raw, 0))
            else:
                ignored[suffix(raw)] += 1

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> RemoteFolder:
        return self

    def reader(self) -> RemoteReader:
        return RemoteReader(self.where)


def _datasets(names: Collection[str]) -> set[str]:
    """Folders below a remote one that hold a dataset of facegan's, or the beginnings of one."""
    inside = f"/{STATE_FOLDER}/"
    begun = {name[: name.find(inside) + 1] for name in names if inside in name}
    whole = {name.removesuffix(PHOTOS_FILE) for name in names if name.endswith(f"/{PHOTOS_FILE}")}
    return begun | {folder for folder in whole if folder + DATASET_FILE in names}


class RemoteReader:
    """Whole objects below a URL, each tried again when it fails, its size checked against the listing's."""

    def __init__(self, where: str) -> None:
        self._fs, self._top = filesystem(where)

    def read(self, entry: Entry) -> bytes:
        path = self._top.rstrip("/") + "/" + entry.name.decode("utf-8", "surrogateescape")
        return patiently(lambda: self._fetch(path, entry.size))

    def _fetch(self, path: str, size: int) -> bytes:
        data = self._fs.cat_file(path)
        if size and len(data) != size:
            raise OSError(f"{len(data):,} of {size:,} bytes came")
        return data

    def close(self) -> None:
        pass
