"""Forty photographs on a server, and tables of their URLs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.prep.fake import photo
from tests.prep.servers import FlakyServer

PHOTOS = {f"{number:02d}.jpg": photo(60, 60, seed=number) for number in range(40)}
NAMES = sorted(PHOTOS)


def write_photos(folder: Path) -> Path:
    for name, data in PHOTOS.items():
        (folder / name).write_bytes(data)
    return folder


def url_table(path: Path, urls: list[str | None], names: list[str] | None = None) -> Path:
    pq.write_table(pa.table({"url": urls, "path": names or [f"{i:04d}.jpg" for i in range(len(urls))]}), path)
    return path


def table_of(path: Path, flaky: FlakyServer, names: list[str] = NAMES) -> Path:
    return url_table(path, [f"{flaky.url}/{name}" for name in names], names)
