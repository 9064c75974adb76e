"""Folders of photographs, local and behind fsspec URLs."""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.errors import SourceError
from facegan.files import files_below
from facegan.prep.sources.base import LABELS_FILE, MAX_BYTES, Entry, OnBytes, ignore, is_photo, read_labels, suffix
from facegan.prep.sources.remote import SourceFile, UrlReader, fetch
from facegan.remote import RemoteUnavailable, filesystem, retry
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, STATE_FOLDER

BROKEN_LINK = "broken link"
_PAGE_KEYS = 1000  # S3 lists no more at once
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows would convert line ends


@dataclass(frozen=True)
class Folder:
    """All files below a folder, links followed. A link has its own name and suffix, and its target's bytes and size.

    Attributes:
        leave_out: a folder inside that holds no photographs: the dataset being written.
    """

    path: Path
    leave_out: Path | None = None
    follow_links: bool = True

    @property
    def where(self) -> str:
        return str(self.path)

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        labels = self._labels()
        for name, entry in self._files():  # a million times: no unnecessary call
            if not self.follow_links and entry.is_symlink():
                ignored["link"] += 1
                continue
            try:
                if not is_photo(name) and not entry.is_symlink():
                    ignored[suffix(name)] += 1
                    continue
                status = entry.stat()
                mode, size = status.st_mode, status.st_size
            except OSError:  # a missing or looping target, or a file deleted meanwhile
                ignore(ignored, BROKEN_LINK if entry.is_symlink() else "special", name)
                continue
            if stat.S_ISDIR(mode):
                ignored["looping link"] += 1
            elif not is_photo(name):
                ignored[suffix(name)] += 1
            elif not stat.S_ISREG(mode):
                ignored["special"] += 1
            else:  # an Entry, in a third of the time that its constructor takes
                yield tuple.__new__(Entry, (name, size, (), labels.get(name, 0) if labels else 0, ""))

    def _files(self) -> Iterator[tuple[bytes, os.DirEntry[bytes]]]:
        try:
            yield from files_below(os.fsencode(self.path), self._enters, self.follow_links)
        except PermissionError as error:
            raise SourceError(f"This user may not read the folder {os.fsdecode(error.filename)}.") from None

    def _enters(self, folder: bytes, name: bytes) -> bool:
        """False for datasets that facegan wrote."""
        path = Path(os.fsdecode(folder))
        is_dataset = name and all((path / file).exists() for file in (DATASET_FILE, PHOTOS_FILE))
        is_left_out = name and self.leave_out and os.path.realpath(path) == os.path.realpath(self.leave_out)
        return not is_dataset and not is_left_out

    def _labels(self) -> dict[bytes, int]:
        path = self.path / LABELS_FILE
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            return read_labels(file, self.where)

    def digests(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> Folder:
        return self

    def reader(self) -> FolderReader:
        return FolderReader(os.fsencode(self.path))


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        try:
            file = os.open(os.path.join(self._top, entry.name), _READ_FLAGS)  # noqa: PTH118 - names are bytes
        except OSError as error:
            raise RemoteUnavailable(str(error)) from error
        try:
            data = os.read(file, min(entry.size, MAX_BYTES) + 1)
            if len(data) == entry.size:
                return data
            while len(data) <= MAX_BYTES and (more := os.read(file, 1 << 20)):  # the file grew, or a read was short
                data += more
            return data
        except OSError as error:
            raise RemoteUnavailable(str(error)) from error
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
        found = _Listing()
        for page in _pages(fs, top):
            found.add(page)
        labels = self._labels() if found.has_labels else {}
        datasets = found.datasets()
        for name, size in found.files():
            if name.startswith(datasets):
                continue
            if is_photo(name):
                yield Entry(name, size, label=labels.get(name, 0))
            else:
                ignored[suffix(name)] += 1

    def _labels(self) -> dict[bytes, int]:
        with SourceFile.find(f"{self.where.rstrip('/')}/{LABELS_FILE}").open() as file:
            return read_labels(file, self.where)

    def digests(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> RemoteFolder:
        return self

    def reader(self) -> UrlReader:
        return UrlReader(self.where, _fetch_object)


def _pages(fs: Any, top: str) -> Iterator[list[tuple[str, int]]]:
    """Names below ``top`` with their sizes. S3 is asked page by page: s3fs would keep a kilobyte for each object."""
    prefix = fs._strip_protocol(top).rstrip("/") + "/"
    if not hasattr(fs, "call_s3"):
        found = retry(lambda: fs.find(top, detail=True))
        yield [(path.removeprefix(prefix), int(info.get("size") or 0)) for path, info in found.items()]
        return
    bucket, _, below = prefix.partition("/")
    request: dict[str, Any] = {"Bucket": bucket, "Prefix": below, "MaxKeys": _PAGE_KEYS}
    while True:
        page = retry(lambda: fs.call_s3("list_objects_v2", **request))
        objects = ((item["Key"].removeprefix(below), item["Size"]) for item in page.get("Contents", ()))
        yield [(name, size) for name, size in objects if not name.endswith("/")]  # consoles create such for folders
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


class _Listing:
    """Names and sizes, compressed to about 15 bytes each, and which folders are facegan's datasets."""

    def __init__(self) -> None:
        self._pages: list[bytes] = []
        self._begun: set[str] = set()
        self._with_table: set[str] = set()
        self._with_info: set[str] = set()
        self.has_labels = False

    def add(self, page: list[tuple[str, int]]) -> None:
        inside = f"/{STATE_FOLDER}/"
        for name, _ in page:
            if inside in name:
                self._begun.add(name[: name.find(inside) + 1])
            elif name.endswith(f"/{PHOTOS_FILE}"):
                self._with_table.add(name.removesuffix(PHOTOS_FILE))
            elif name.endswith(f"/{DATASET_FILE}"):
                self._with_info.add(name.removesuffix(DATASET_FILE))
            self.has_labels |= name == LABELS_FILE
        self._pages.append(zlib.compress(json.dumps(page).encode(), 1))

    def files(self) -> Iterator[tuple[bytes, int]]:
        for page in self._pages:
            for name, size in json.loads(zlib.decompress(page)):
                yield name.encode("utf-8", "surrogateescape"), size

    def datasets(self) -> tuple[bytes, ...]:
        """Folders that hold a dataset or an unfinished one."""
        folders = self._begun | (self._with_table & self._with_info)
        return tuple(name.encode("utf-8", "surrogateescape") for name in folders)


def _fetch_object(where: str, entry: Entry, on_bytes: OnBytes | None) -> bytes:
    """A whole object below a URL; its size must equal the listed one."""
    fs, top = filesystem(where)  # per thread, if its protocol's library needs that
    return fetch(fs, top.rstrip("/") + "/" + entry.name.decode("utf-8", "surrogateescape"), entry.size, on_bytes)
