"""Folders of photographs, local and behind fsspec URLs."""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.errors import SourceError
from facegan.files import files_below
from facegan.prep.sources.base import LABELS_FILE, MAX_BYTES, Entry, Source, ignore, is_photo, read_labels, skip
from facegan.prep.sources.remote import ObjectReader, SourceFile
from facegan.remote import filesystem, retry
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, STATE_FOLDER

BROKEN_LINK = "broken link"
_PAGE_KEYS = 1000  # S3 lists no more at once
_READ_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # Windows would convert line ends


@dataclass(frozen=True)
class Folder(Source):
    """All files below a folder, links followed. A link has its own name and suffix, and its target's bytes and size."""

    leave_out: Path | None = None  # a folder inside that holds no photographs: the dataset being written
    follow_links: bool = True

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        labels = self._labels()
        try:  # a million times: no unnecessary call
            for name, entry in files_below(os.fsencode(self.where), self._enters, self.follow_links):
                if not self.follow_links and entry.is_symlink():
                    ignored["link"] += 1
                    continue
                try:
                    if not is_photo(name) and entry.is_file(follow_symlinks=False):
                        skip(ignored, Entry(name, 0))
                        continue
                    status = entry.stat()
                    mode, size = status.st_mode, status.st_size
                except OSError:  # a missing or looping target, or a file deleted meanwhile
                    ignore(ignored, BROKEN_LINK if entry.is_symlink() else "special", name)
                    continue
                if stat.S_ISDIR(mode):
                    ignored["looping link"] += 1
                elif not stat.S_ISREG(mode):
                    ignored["special"] += 1
                elif not is_photo(name):
                    skip(ignored, Entry(name, size))
                else:  # an Entry, in a third of the time that its constructor takes
                    yield tuple.__new__(Entry, (name, size, (), labels.get(name, 0) if labels else 0, ""))  # pyrefly: ignore[bad-specialization] - a tuple
        except PermissionError as error:
            raise SourceError(f"This user may not read the folder {os.fsdecode(error.filename)}.") from None

    def _enters(self, folder: bytes, name: bytes) -> bool:
        """False for datasets that facegan wrote."""
        path = Path(os.fsdecode(folder))
        is_dataset = name and all((path / file).exists() for file in (DATASET_FILE, PHOTOS_FILE))
        is_left_out = name and self.leave_out and os.path.realpath(path) == os.path.realpath(self.leave_out)
        return not is_dataset and not is_left_out

    def _labels(self) -> dict[bytes, int]:
        path = Path(self.where) / LABELS_FILE
        if not path.is_file():
            return {}
        with path.open("rb") as file:
            return read_labels(file, self.where)

    def reader(self) -> FolderReader:
        return FolderReader(os.fsencode(self.where))


class FolderReader:
    def __init__(self, top: bytes) -> None:
        self._top = top

    def read(self, entry: Entry) -> bytes:
        file = os.open(os.path.join(self._top, entry.name), _READ_FLAGS)  # noqa: PTH118 - names are bytes
        try:
            data = os.read(file, min(entry.size, MAX_BYTES) + 1)
            if len(data) == entry.size:
                return data
            while len(data) <= MAX_BYTES and (more := os.read(file, 1 << 20)):  # the file grew, or a read was short
                data += more
            return data
        finally:
            os.close(file)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class RemoteFolder(Source):
    """All objects below an fsspec URL (``s3://bucket/photos``, ``hf://datasets/…``, ``memory://photos``)."""

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        pages, inside = [], f"/{STATE_FOLDER}/"  # names and sizes, compressed to about 15 bytes each
        ours: defaultdict[str, set[str]] = defaultdict(set)  # by folder, the files that mark a dataset of facegan
        for page in _pages(self.where):
            for name, _ in page:
                if inside in name:  # perhaps of an unfinished one
                    ours[name[: name.find(inside) + 1]] |= {DATASET_FILE, PHOTOS_FILE}
                elif name.endswith((DATASET_FILE, PHOTOS_FILE)):
                    folder, slash, file = name.rpartition("/")
                    ours[folder + slash].add(file)
            pages.append(zlib.compress(json.dumps(page).encode(), 1))
        labels = self._labels() if LABELS_FILE in ours.pop("", ()) else {}
        datasets = tuple(folder for folder, files in ours.items() if {DATASET_FILE, PHOTOS_FILE} <= files)
        for page in pages:
            for text, size in json.loads(zlib.decompress(page)):
                if text.startswith(datasets):
                    continue
                name = text.encode("utf-8", "surrogateescape")
                if is_photo(name):
                    yield Entry(name, size, label=labels.get(name, 0))
                else:
                    skip(ignored, Entry(name, size))

    def _labels(self) -> dict[bytes, int]:
        with SourceFile.find(f"{self.where.rstrip('/')}/{LABELS_FILE}").open() as file:
            return read_labels(file, self.where)

    def reader(self) -> ObjectReader:
        return ObjectReader(self.where)


def _pages(url: str) -> Iterator[list[tuple[str, int]]]:
    """Names below a URL with their sizes. S3 is asked page by page: s3fs would keep a kilobyte for each object."""
    fs, top = filesystem(url)
    fs.invalidate_cache()
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
