"""Listing takes little memory per photograph in every kind of source."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facegan.errors import SourceError
from facegan.prep.sources import open_source
from facegan.prep.sources.base import listed
from facegan.prep.sources.zip import _Directory

FEW, MANY = 500, 4_000


def make_zip(folder: Path, count: int) -> Path:
    """With StyleGAN's labels."""
    names = [f"photos/{i:08d}.jpg" for i in range(count)]
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
        labels = json.dumps({"labels": [[name, i % 1000] for i, name in enumerate(names)]})
        archive.writestr("dataset.json", labels, zipfile.ZIP_DEFLATED)
    return folder / "x.zip"


def make_links(folder: Path, count: int) -> Path:
    with tarfile.open(folder / "x.tar", "w") as tar:
        for i in range(count):
            info = tarfile.TarInfo(f"photos/{i:08d}.jpg")
            if i:
                info.type, info.linkname = tarfile.LNKTYPE, "photos/00000000.jpg"
            tar.addfile(info, io.BytesIO())
    return folder / "x.tar"


def make_table(folder: Path, count: int) -> Path:
    """Unsorted rows in one group."""
    images = [{"bytes": b"", "path": f"{i * 7919 % count:08d}.jpg"} for i in range(count)]
    pq.write_table(pa.table({"image": images, "label": np.arange(count) % 1000}), folder / "x.parquet")
    return folder / "x.parquet"


def make_array(folder: Path, count: int) -> Path:
    np.savez(folder / "x.npz", x=np.zeros((count, 1, 1), np.uint8), y=np.arange(count) % 200)
    return folder / "x.npz"


def peak_bytes(source: Path, count: int) -> int:
    tracemalloc.start()
    try:
        assert sum(1 for _ in open_source(str(source)).photos(Counter())) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("make", "limit"), [(make_zip, 320), (make_links, 200), (make_table, 120), (make_array, 120)])
def test_memory_of_a_listing_is_bounded(tmp_path: Path, make: Callable[[Path, int], Path], limit: int) -> None:
    """The limit is in bytes a photograph."""
    peaks = [peak_bytes(make(tmp_path, count), count) for count in (FEW, FEW, MANY)]  # the first loads modules
    assert peaks[2] - peaks[1] < limit * (MANY - FEW)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    names=st.lists(NAMES, max_size=6, unique=True),
    comment=st.binary(max_size=40).filter(lambda comment: b"PK" not in comment),
    before=st.binary(max_size=40),
    large=st.booleans(),
)
def test_zip_directory_equals_zipfile(
    names: list[str], comment: bytes, before: bytes, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large ones have 64-bit sizes, offsets and counts."""
    file = io.BytesIO()
    with monkeypatch.context() as patched:
        if large:
            patched.setattr("zipfile.ZIP64_LIMIT", 50)
            patched.setattr("zipfile.ZIP_FILECOUNT_LIMIT", 1)
        with zipfile.ZipFile(file, "w") as archive:
            archive.comment = comment
            for i, name in enumerate(names):
                info = zipfile.ZipInfo(name)
                info.external_attr = 0o644 << 16
                with archive.open(info, "w", force_zip64=large) as member:
                    member.write(bytes(30 * i))
    for start in (b"", before):
        whole = io.BytesIO(start + file.getvalue())
        with zipfile.ZipFile(whole) as archive:
            expected = [
                (info.orig_filename, info.file_size, info.compress_size, info.header_offset, info.CRC)
                for info in archive.infolist()
            ]
        found = list(_Directory(whole).members())
        assert [(m.name.decode(), m.size, m.packed, m.locator[0], m.locator[2]) for m in found] == expected
        assert all(_Directory(whole).contains(name.encode()) for name in names)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_damaged_zip_is_listed_or_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i in range(3):
            archive.writestr(f"{i}.jpg", b"abc")
        archive.writestr("dataset.json", b'{"labels": [["0.jpg", 1]]}')
    whole = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    with contextlib.suppress(SourceError):
        list(listed(open_source(str(path)), Counter()))
