"""Folders of photographs behind fsspec URLs."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.prep.listing.scratch import Scratch
from facegan.prep.sources.base import Entry, Request, Room, is_photo, suffix
from facegan.prep.sources.blob import Blob
from facegan.prep.sources.fetch import any_number, fetch
from facegan.prep.sources.labels import LABELS_FILE, Labels
from facegan.remote import filesystem, patiently
from facegan.shards.layout import DATASET_FILE, PHOTOS_FILE, STATE_FOLDER

_CACHE_KB = 8_000
_PAGE_KEYS = 1000  # no server gives more


@dataclass(frozen=True)
class RemoteFolder:
    """All objects below an fsspec URL (``s3://bucket/photos``, ``hf://datasets/…``, ``memory://photos``)."""

    where: str

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        fs, top = filesystem(self.where)
        fs.invalidate_cache()
        with contextlib.closing(Scratch("CREATE TABLE found (name BLOB, size INTEGER)", _CACHE_KB)) as db:
            found = _Found()
            db.many("INSERT INTO found VALUES (?, ?)", found.heard(_listed(fs, top)))
            datasets = found.datasets()
            with contextlib.closing(self._labels(found.has_labels)) as labels:
                for name, size in db.rows("SELECT name, size FROM found ORDER BY rowid"):
                    if name.startswith(datasets):
                        continue
                    if is_photo(name):
                        yield Entry(name, size, label=labels.of(name))
                    else:
                        ignored[suffix(name)] += 1

    def _labels(self, there: bool) -> Labels:
        if not there:
            return Labels(None)
        with Blob(f"{self.where.rstrip('/')}/{LABELS_FILE}").open() as file:
            return Labels(file)

    def marks(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> RemoteFolder:
        return self

    def reader(self) -> RemoteReader:
        return RemoteReader(self.where)


def _listed(fs: Any, top: str) -> Iterator[tuple[str, int]]:
    """Names below ``top``, and sizes."""
    prefix = fs._strip_protocol(top).rstrip("/") + "/"
    pages = _pages(fs, prefix) if hasattr(fs, "call_s3") else iter([patiently(lambda: fs.find(top, detail=True))])
    for page in pages:
        for path, info in page.items():
            yield path.removeprefix(prefix), int(info.get("size") or 0)


def _pages(fs: Any, prefix: str) -> Iterator[dict[str, Any]]:
    """Objects of S3 a thousand at a time: s3fs would gather, and keep, more than a kilobyte about each of them."""
    bucket, _, below = prefix.partition("/")
    asked: dict[str, Any] = {"Bucket": bucket, "Prefix": below, "MaxKeys": _PAGE_KEYS}
    while True:
        page = patiently(lambda: fs.call_s3("list_objects_v2", **asked))
        yield {
            f"{bucket}/{told['Key']}": {"size": told["Size"]}
            for told in page.get("Contents", ())
            if not told["Key"].endswith("/")  # consoles make such for folders
        }
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


class _Found:
    """Hears of every name, and keeps what it needs to tell photographs from datasets of facegan's."""

    def __init__(self) -> None:
        self._begun: set[str] = set()
        self._tables: set[str] = set()
        self._told: set[str] = set()
        self.has_labels = False

    def heard(self, names: Iterator[tuple[str, int]]) -> Iterator[tuple[bytes, int]]:
        inside = f"/{STATE_FOLDER}/"
        for name, size in names:
            if inside in name:
                self._begun.add(name[: name.find(inside) + 1])
            elif name.endswith(f"/{PHOTOS_FILE}"):
                self._tables.add(name.removesuffix(PHOTOS_FILE))
            elif name.endswith(f"/{DATASET_FILE}"):
                self._told.add(name.removesuffix(DATASET_FILE))
            self.has_labels |= name == LABELS_FILE
            yield name.encode("utf-8", "surrogateescape"), size

    def datasets(self) -> tuple[bytes, ...]:
        """Folders that hold a dataset, or the beginnings of one."""
        return tuple(name.encode("utf-8", "surrogateescape") for name in self._begun | (self._tables & self._told))


class RemoteReader:
    """Whole objects below a URL, each tried again when it fails, its size checked against the listing's."""

    def __init__(self, where: str) -> None:
        self._where = where
        filesystem(where)

    def read(self, entry: Entry) -> bytes:
        return self._fetched(entry, any_number)

    def request(self, entry: Entry) -> Request:
        return functools.partial(self._fetched, entry)

    def _fetched(self, entry: Entry, room: Room) -> bytes:
        fs, top = filesystem(self._where)  # this thread's own, where its protocol's library needs that
        return fetch(fs, top.rstrip("/") + "/" + entry.name.decode("utf-8", "surrogateescape"), entry.size, room)

    def close(self) -> None:
        pass
