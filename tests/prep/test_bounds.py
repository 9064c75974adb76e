"""Small files that unpack to too much are refused before work begins; honest ones are not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facegan.errors import DamagedSourceError, DatasetError, SourceError
from facegan.prep.sources import open_source
from facegan.prep.sources.parquet import TableReader
from tests.prep.handmade import tar_header as header
from tests.prep.listing import Listing, read_all

SMALL = 1 << 20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of a megabyte instead of half a gigabyte."""
    monkeypatch.setattr("facegan.unpack.MAX_PHOTO_BYTES", SMALL)


def refused(path: Path, why: str = "over 100 times its size") -> None:
    """With a message of at most three lines and exit code 1."""
    with pytest.raises(DamagedSourceError, match=why) as raised:
        read_all(path)
    assert raised.value.exit_code == 1
    assert len(str(raised.value).splitlines()) <= 3


def test_gzipped_tar_declaring_too_much(tmp_path: Path) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(header("1.jpg", 40_000_000_000) + bytes(2048)))
    refused(tmp_path / "x.tar.gz", r"unpacks to 40.0 GB or more: over 100 times its size")


def test_endless_gzipped_tar_is_refused(tmp_path: Path, small: None) -> None:
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(header("1.jpg", 3) + b"abc".ljust(4 * SMALL, b"\0")))
    assert len(Listing(tmp_path / "x.tar.gz").entries) == 1
    refused(tmp_path / "x.tar.gz")
    assert not [path for path in tmp_path.iterdir() if path.name != "x.tar.gz"]


def test_raised_limit_is_respected(tmp_path: Path, small: None) -> None:
    photo = bytes(4 * SMALL)
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(header("1.jpg", len(photo)) + photo + bytes(1024)))
    refused(tmp_path / "x.tar.gz", "--set prep.max_unpacked_ratio=N")
    source = open_source(str(tmp_path / "x.tar.gz"), max_unpacked_ratio=2000)
    (entry,) = source.photos(Counter())
    with contextlib.closing(source.unpacked(tmp_path).reader()) as reader:
        assert reader.read(entry) == photo


def test_long_tar_header_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.tar").open("wb") as file:  # 8 GB of nothing
        file.write(header("././@LongLink", 8 << 30, tarfile.GNUTYPE_LONGNAME))
        file.truncate(9 << 30)
    refused(tmp_path / "x.tar", r"damaged .* \(8,589,934,592 bytes to be read at once\)")


def test_many_hard_links_are_bounded(tmp_path: Path, small: None) -> None:
    members = header("0.jpg", SMALL // 2) + bytes(SMALL // 2)
    links = b"".join(header(f"{i}.jpg", 0, tarfile.LNKTYPE, "0.jpg") for i in range(1, 200))
    (tmp_path / "x.tar").write_bytes(members + links + bytes(1024))
    refused(tmp_path / "x.tar")


def many_names(path: Path, names: int, method: int = zipfile.ZIP_STORED, photo: bytes = bytes(2_000)) -> Path:
    """A zip whose directory names the same bytes repeatedly."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("00000.jpg", photo)
    raw = file.getvalue()
    end, start = raw.rfind(b"PK\5\6"), raw.find(b"PK\1\2")
    entry = raw[start:end]
    directory = b"".join(entry[:46] + b"%05d.jpg" % i + entry[55:] for i in range(names))
    counts = names.to_bytes(2, "little") * 2 + len(directory).to_bytes(4, "little")
    path.write_bytes(raw[:start] + directory + raw[end : end + 8] + counts + raw[end + 16 :])
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_overlapping_zip_members_are_refused(tmp_path: Path, method: int) -> None:
    refused(many_names(tmp_path / "x.zip", 2, method), "has members that overlap")
    assert len(read_all(many_names(tmp_path / "one.zip", 1, method))) == 1


def test_too_many_labels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.prep.sources.base._MAX_LABELS_BYTES", SMALL)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.jpg", b"x")
        archive.writestr("dataset.json", '{"labels": [' + '["1.jpg", 7], ' * 100_000 + '["1.jpg", 7]]}')
    with pytest.raises(SourceError, match=r"dataset\.json in .* more than 1\.0 MB, the limit for labels"):
        Listing(tmp_path / "x.zip")


def npy(shape: object, descr: str = "|u1", data: bytes = b"") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text.encode() + data


LYING_ARRAYS = {
    "huge": npy((10**9, 64, 64, 3)),
    "no end": b"\x93NUMPY\1\0" + (118).to_bytes(2, "little") + b"{'descr': '|u1', 'shape': (1, (" + b" " * 87,
    "a header of 4 GB": b"\x93NUMPY\2\0" + b"\xff" * 4 + b" " * 100,
    "cut": npy((5, 28, 28), data=bytes(28 * 28 * 5 - 100)),
    "deep": b"\x93NUMPY\1\0" + (9000).to_bytes(2, "little") + b"(" * 9000,
}


@pytest.mark.parametrize("lie", LYING_ARRAYS)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_larger_than_their_file(tmp_path: Path, lie: str, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(LYING_ARRAYS[lie])
    if suffix == ".npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", LYING_ARRAYS[lie])
    refused(path, r"x\.np. is (incomplete|damaged)")


@pytest.mark.parametrize("shape", [(10**9, 0, 64), (10**9, 28, 28, 0)])
def test_images_without_pixels_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "x.npy").write_bytes(npy(shape))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", npy(shape))
    for name in ("x.npy", "x.npz"):
        with pytest.raises(SourceError, match=r"Photographs are uint8|no uint8 array"):
            Listing(tmp_path / name)


def test_overlapping_npz_members_are_refused(tmp_path: Path) -> None:
    many_names(tmp_path / "x.npz", 50, photo=npy((1, 40, 50), data=bytes(2_000)))
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes().replace(b".jpg", b".npy"))
    refused(tmp_path / "x.npz", "has members that overlap")


def idx(count: int, side: int, data: bytes) -> bytes:
    return bytes((0, 0, 8, 3)) + np.array([count, side, side], ">i4").tobytes() + data


def test_packed_arrays_are_bounded(tmp_path: Path, small: None) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(4, SMALL, b"")))
    refused(tmp_path / "train-images-idx3-ubyte.gz")
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(1, 2, bytes(4 * SMALL))))
    refused(tmp_path / "t10k-images-idx3-ubyte.gz")
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((4, SMALL, 1), np.uint8))
    refused(tmp_path / "x.npz")


def test_more_photos_than_bytes_are_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros((200_000, 1, 1), np.uint8))
    refused(tmp_path / "x.npz", r"claims 200,000 photographs in \d{3} bytes")
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(200_000, 1, bytes(200_000))))
    refused(tmp_path / "train-images-idx3-ubyte.gz", r"claims 200,000 photographs in \d{3} bytes")
    pq.write_table(pa.table({"image": pa.nulls(200_000, pa.binary())}), tmp_path / "x.parquet", compression="zstd")
    refused(tmp_path / "x.parquet", r"claims 200,000 photographs in [\d,]{3,5} bytes")


def test_false_idx_headers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(3, 2, bytes(11))))
    refused(tmp_path / "train-images-idx3-ubyte.gz", "is damaged")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(3, 2, bytes(12)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes((0, 0, 8, 1)) + b"\x7f\xff\xff\xff")
    with pytest.raises(SourceError, match="2,147,483,647 labels for 3 photographs"):
        Listing(tmp_path / "train-images-idx3-ubyte")


def test_oversized_row_group_costs_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: None) -> None:
    """The table stores a photograph once and has it in every row."""
    path, table = tmp_path / "x.parquet", pa.table({"image": [bytes(SMALL)] * 20})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30, data_page_size=1 << 30)
    assert path.stat().st_size < 2_000
    monkeypatch.setattr("facegan.prep.sources.parquet.MAX_BYTES", SMALL)
    source = open_source(str(path))
    with contextlib.closing(source.unpacked(tmp_path).reader()) as reader:
        assert isinstance(reader, TableReader)
        for entry in source.photos(Counter()):
            with pytest.raises(ValueError, match="unpacks to too much"):
                reader.read(entry)
    monkeypatch.setattr("facegan.prep.sources.parquet._MAX_GROUP_BYTES", 1000)
    refused(path)


def test_names_of_tables_are_bounded(tmp_path: Path, small: None) -> None:
    names = ["n" * 100_000] * 50
    pq.write_table(pa.table({"image": [b"x"] * 50, "path": names}), tmp_path / "x.parquet", compression="zstd")
    refused(tmp_path / "x.parquet")


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_foreign_shards_are_bounded(tmp_path: Path, small: None, suffix: str, pack: Callable[[bytes], bytes]) -> None:
    from facegan.stream import open_faces

    path = tmp_path / f"x.tar.{suffix}"
    path.write_bytes(pack(header("1.txt", 4 * SMALL) + bytes(4 * SMALL + 1024)))
    for shards in (str(path), f"pipe:cat {path}"):
        with pytest.raises(DatasetError, match="over 100 times its size"):
            open_faces(shards)


def test_foreign_images_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from facegan.stream import open_faces

    monkeypatch.setattr("facegan.stream.tar.MAX_PHOTO_BYTES", SMALL)
    (tmp_path / "x.tar").write_bytes(header("1.png", 2 * SMALL) + bytes(2 * SMALL + 1024))
    with pytest.raises(DatasetError, match=r"1\.png has 2\.1 MB"):
        open_faces(str(tmp_path / "x.tar"))
