"""Gzipped tars, several archives, tables and arrays list and read what was written into them."""

from __future__ import annotations

import contextlib
import gzip
import json
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan.config import PrepConfig
from facegan.errors import DatasetError, SourceError
from facegan.prep.prepare import prepare
from facegan.prep.sources import open_source
from facegan.prep.sources.base import Entry, Reader
from facegan.prep.sources.parquet import Table
from facegan.shards.images import decode_image, encode_image
from tests.digits import write_idx
from tests.prep.listing import Listing, as_members, make_tar, read_all

PICTURES = np.random.default_rng(0).integers(0, 256, (5, 28, 28, 3), dtype=np.uint8)


def decoded(data: bytes) -> np.ndarray:
    pixels = decode_image(data)
    assert pixels is not None
    return pixels


def labels_and_parts(where: Path) -> list[tuple[bytes, int, str]]:
    return [(entry.name, entry.label, entry.part) for entry in Listing(where).entries]


def test_gzipped_tar_reads_as_plain(tmp_path: Path) -> None:
    plain = make_tar(tmp_path / "plain.tar", as_members())
    packed = tmp_path / "packed.tgz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_all(packed) == read_all(plain)
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(SourceError, match="damaged"):
        Listing(packed)


def test_patterns_join_archives(tmp_path: Path) -> None:
    for i in range(12):
        make_tar(tmp_path / f"{i:05d}.tar", [(f"{i:02d}/{j}.jpg", f"{i}-{j}".encode()) for j in range(3)])
    found = read_all(tmp_path / "{00000..00011}.tar")
    assert found == {f"{i:02d}/{j}.jpg".encode(): f"{i}-{j}".encode() for i in range(12) for j in range(3)}
    assert read_all(tmp_path / "*.tar") == found
    assert len(read_all(tmp_path / "{00001,00003}.tar")) == 6
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(make_tar(tmp_path / "b", [("2.jpg", b"two")]).read_bytes()))
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr("3.jpg", b"three")
    assert len(read_all(tmp_path / "{00001.tar,b.tar.gz,c.zip}")) == 5


@pytest.mark.parametrize("pattern", ["{a,b}.tar", "*.zip", "{a..", "{a,x}.rar"])
def test_unmatched_patterns_are_errors(tmp_path: Path, pattern: str) -> None:
    make_tar(tmp_path / "a.tar", [("1.jpg", b"one")])
    (tmp_path / "a.rar").touch()
    (tmp_path / "x.rar").touch()
    with pytest.raises(SourceError, match=r"does not exist|No file matches|unbalanced|unknown format"):
        open_source(str(tmp_path / pattern))


def test_stylegan_labels_are_read(tmp_path: Path) -> None:
    labels = json.dumps({"labels": [["00000/1.png", 6], ["00000/2.png", 3], ["\xe9", 1]], "more": [1]}).encode()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, data in [*((f"00000/{i}.png", b"x") for i in (1, 2, 3)), ("dataset.json", labels)]:
            archive.writestr(name, data)
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(data)
    for source in ("x.zip", "folder"):
        assert [label for _, label, _ in labels_and_parts(tmp_path / source)] == [6, 3, 0]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"labels": null}', b'{"labels": [["1.png", [0, 1]]]}', b'{"labels": [["1.png", 1]']
)
def test_other_dataset_json_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dataset.json").write_bytes(content)
    (tmp_path / "1.png").write_bytes(b"1")
    assert labels_and_parts(tmp_path) == [(b"1.png", 0, "")]


def write_table(path: Path, groups: int = 2, **columns: list) -> Path:
    table = pa.table(columns)
    pq.write_table(table, path, row_group_size=-(-len(table) // groups))
    return path


def test_hugging_face_tables(tmp_path: Path) -> None:
    images = [{"bytes": f"{i}".encode(), "path": f"{i}.png"} for i in range(5)]
    path = write_table(tmp_path / "train-00000-of-00001.parquet", image=images, label=[3, 1, 4, 1, 5])
    assert read_all(path) == {f"{i}.png".encode(): f"{i}".encode() for i in range(5)}
    assert labels_and_parts(path)[2] == (b"2.png", 4, "train")
    for part in ("train", "validation", "test"):
        images = [{"bytes": f"{part}{i}".encode(), "path": None} for i in range(3)]
        write_table(tmp_path / f"{part}-00000-of-00001.parquet", image=images)
    found = labels_and_parts(tmp_path / "*.parquet")
    assert labels_and_parts(tmp_path) == found
    assert [part for _, _, part in found] == ["test"] * 3 + ["train"] * 3 + ["val"] * 3
    assert read_all(tmp_path / "*.parquet")[b"000000004.jpg"] == b"train1"


def test_repeated_names_become_row_numbers(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", name=["a", "a", "b"], jpg=[b"1", b"2", b"3"])
    assert read_all(path) == {b"000000000.jpg": b"1", b"000000001.jpg": b"2", b"000000002.jpg": b"3"}
    path = write_table(tmp_path / "z.parquet", name=["a", "a.jpg", "/a"], jpg=[b"1", b"2", b"3"])
    assert len(read_all(path)) == 3
    path = write_table(tmp_path / "y.parquet", name=["a", "c.png", "b"], jpg=[b"1", b"2", b"3"])
    assert read_all(path) == {b"a.jpg": b"1", b"b.jpg": b"3", b"c.png": b"2"}


def test_table_without_images_is_an_error(tmp_path: Path) -> None:
    path = write_table(tmp_path / "x.parquet", a=[1], b=["x"])
    with pytest.raises(SourceError, match=r"no column of images .* It has a, b"):
        Listing(path)
    (tmp_path / "y.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match="damaged"):
        Listing(tmp_path / "y.parquet")


def test_table_cannot_name_local_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    path = write_table(tmp_path / "x.parquet", url=[f"file://{secret}"])
    with pytest.raises(ValueError, match="URL of another kind"):
        read_all(path)


@pytest.mark.parametrize("layout", ["nhwc", "nchw", "grey", "grey1", "rgba"])
def test_arrays_read_as_their_images(tmp_path: Path, layout: str) -> None:
    alpha = np.full((5, 28, 28, 1), 255, np.uint8)
    array, expected = {
        "nhwc": (PICTURES, PICTURES),
        "nchw": (PICTURES.transpose(0, 3, 1, 2), PICTURES),
        "grey": (PICTURES[..., 0], PICTURES[..., :1].repeat(3, -1)),
        "grey1": (PICTURES[..., :1], PICTURES[..., :1].repeat(3, -1)),
        "rgba": (np.concatenate([PICTURES, alpha], -1), PICTURES),
    }[layout]
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", images=array, labels=np.arange(5))
    found = read_all(tmp_path / "x.npy")
    assert sorted(found) == [f"{i:06d}.png".encode() for i in range(5)]
    assert all((decoded(data) == expected[i]).all() for i, (_, data) in enumerate(sorted(found.items())))
    assert read_all(tmp_path / "x.npz") == found
    assert [label for _, label, _ in labels_and_parts(tmp_path / "x.npz")] == [0, 1, 2, 3, 4]


def test_npz_with_train_and_test(tmp_path: Path) -> None:
    np.savez(tmp_path / "mnist.npz", x_train=PICTURES[..., 0], y_train=[5, 4, 3, 2, 1], x_test=PICTURES[:2, ..., 0],
             y_test=[9, 8])  # fmt: skip
    assert labels_and_parts(tmp_path / "mnist.npz") == [
        *((f"test/{i:06d}.png".encode(), 9 - i, "test") for i in range(2)),
        *((f"train/{i:06d}.png".encode(), 5 - i, "train") for i in range(5)),
    ]
    np.savez(tmp_path / "x.npz", x_train=PICTURES, x_train_extra=PICTURES[:3], latest=PICTURES[:2])
    assert sorted(part for *_, part in labels_and_parts(tmp_path / "x.npz")) == [""] * 2 + ["train"] * 8
    assert len(read_all(tmp_path / "x.npz")) == 10


@pytest.mark.parametrize("array", [np.zeros((5, 4, 4)), np.zeros((4, 4), np.uint8), np.array([{}] * 3, object)])
def test_other_arrays_are_errors(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(SourceError, match=r"Photographs are uint8|damaged"):
        Listing(tmp_path / "x.npy")
    np.savez(tmp_path / "x.npz", images=array)
    with pytest.raises(SourceError, match="no uint8 array"):
        open_source(str(tmp_path / "x.npz"))


@pytest.mark.parametrize("packed", [False, True])
def test_mnists_idx_files(tmp_path: Path, packed: bool) -> None:
    """In a folder whose name must not be taken for theirs."""
    tmp_path = tmp_path / "images"
    tmp_path.mkdir()
    write_idx(tmp_path, "train", PICTURES[..., 0], [5, 0, 4, 1, 9], packed)
    write_idx(tmp_path, "t10k", PICTURES[:2, ..., 1], [7, 2], packed)
    found = [(label, part) for _, label, part in labels_and_parts(tmp_path)]
    assert found == [(7, "test"), (2, "test"), *((n, "train") for n in (5, 0, 4, 1, 9))]
    assert (decoded(read_all(tmp_path)[b"test/000001.png"]) == PICTURES[1, ..., 1:2]).all()
    one = tmp_path / ("train-images-idx3-ubyte" + (".gz" if packed else ""))
    assert labels_and_parts(one)[0] == (b"000000.png", 5, "train")
    (tmp_path / "1.jpg").write_bytes(b"one")
    assert read_all(tmp_path) == {b"1.jpg": b"one"}  # arrays hide no photographs


@pytest.mark.parametrize(("photos", "labels"), [("images", "labels"), ("x_test", "y_test"), ("train", "train_labels")])
def test_labels_of_an_npz_for_fewer_photos_are_refused(tmp_path: Path, photos: str, labels: str) -> None:
    np.savez(tmp_path / "x.npz", **{photos: PICTURES, labels: np.arange(3)})
    with pytest.raises(SourceError, match=r"x.npz has 3 labels \(.*\) for 5 photographs"):
        list(labels_and_parts(tmp_path / "x.npz"))


@pytest.mark.parametrize("lists", [{"sizes": np.arange(3)}, {"y_train": np.arange(3)}])
def test_other_lists_of_an_npz_are_no_labels(tmp_path: Path, lists: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "x.npz", x_test=PICTURES, **lists)
    assert [label for _, label, _ in labels_and_parts(tmp_path / "x.npz")] == [0] * 5


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_other_array_is_not_the_same_source(tmp_path: Path, kind: str) -> None:
    """Only the digest distinguishes them: names are numbers, and sizes are unknown before reading."""
    config = PrepConfig.of({"detector": "none", "crop": "squash", "size": 28, "shard_size": 2})
    png = [encode_image(picture, "png") for picture in PICTURES]
    for name, order in (("a", 1), ("b", -1)):
        if kind == "npy":
            np.save(tmp_path / f"{name}.npy", PICTURES[::order])
        else:
            write_table(tmp_path / f"{name}.parquet", image=png[::order])
    prepare(tmp_path / f"a.{kind}", tmp_path / "out", config, workers=0, limit=3)
    for other in (tmp_path / f"b.{kind}", tmp_path / f"[b].{kind}"):
        with pytest.raises(DatasetError, match=r"from another source"):
            prepare(other, tmp_path / "out", config, workers=0)
    assert prepare(tmp_path / f"a.{kind}", tmp_path / "out", config, workers=0).photos == 5


def what_is_read(reader: Reader, entry: Entry) -> bytes | None:
    try:
        return reader.read(entry)
    except ValueError:
        return None


@settings(deadline=None, max_examples=20)
@given(
    images=st.lists(st.one_of(st.none(), st.binary(max_size=20)), min_size=1, max_size=30),
    nested=st.booleans(),
    rows_a_group=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_tables_in_any_order_round_trip(
    images: list[bytes | None], nested: bool, rows_a_group: int, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("table")
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    rows = {f"{i:03d}.jpg".encode(): images[i] for i in order}
    if nested:
        columns = {"image": [{"bytes": image, "path": name.decode()} for name, image in rows.items()]}
    else:
        columns = {"jpg": pa.array(rows.values(), pa.binary()), "path": [name.decode() for name in rows]}
    pq.write_table(pa.table(columns), folder / "x.parquet", row_group_size=rows_a_group)
    table = open_source(str(folder / "x.parquet"))
    assert isinstance(table, Table)
    entries = list(table.photos(Counter()))
    readables = [table, table.unpacked(folder)]
    if len(images) > 3 * rows_a_group and order != sorted(order):
        readables.append(table.copied(folder))
    for readable in readables:
        with contextlib.closing(readable.reader()) as reader:
            assert {entry.name: what_is_read(reader, entry) for entry in entries} == rows


def shuffled_table(path: Path, count: int = 60, groups: int = 10) -> Path:
    names = [f"{i * 7 % count:03d}.jpg" for i in range(count)]
    return write_table(path, groups, name=names, jpg=[name.encode() * 100 for name in names])


def test_unsorted_rows_and_large_groups_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_source(str(shuffled_table(tmp_path / "x.parquet")))
    copy = table.unpacked(tmp_path)
    assert isinstance(copy, Table)
    assert copy.folder
    entries = sorted(table.photos(Counter()))
    with contextlib.closing(copy.reader()) as reader:
        assert [reader.read(entry) for entry in entries] == [entry.name * 100 for entry in entries]
    monkeypatch.setattr("facegan.prep.sources.parquet._MAX_GROUP_BYTES", 5_000)
    images = [{"bytes": bytes([i]) * 100, "path": f"{i:03d}.png"} for i in range(100)]
    path = write_table(tmp_path / "large.parquet", 1, image=images)
    large = open_source(str(path)).unpacked(tmp_path)
    assert isinstance(large, Table)
    assert large.folder
    assert read_all(path) == {image["path"].encode(): image["bytes"] for image in images}


def test_sorted_rows_are_read_in_place(tmp_path: Path) -> None:
    """Also if groups are in another order, or a few files interleave."""
    for number in range(3):
        names = [f"{i:03d}" for i in range(number, 60, 3)]
        write_table(tmp_path / f"{number}.parquet", 5, name=names, jpg=[name.encode() for name in names])
    names = [f"{i:03d}" for i in [*range(30, 60), *range(30)]]
    write_table(tmp_path / "x.parquet", 2, name=names, jpg=[name.encode() for name in names])
    for where in ("x.parquet", "{0..2}.parquet", "1.parquet"):
        table = open_source(str(tmp_path / where))
        assert table.unpacked(tmp_path) == table
        assert all(name.startswith(data) for name, data in read_all(tmp_path / where).items())


def test_damaged_row_group_costs_its_rows(tmp_path: Path) -> None:
    path = shuffled_table(tmp_path / "x.parquet")
    with pq.ParquetFile(path) as table:
        column = table.metadata.row_group(4).column(1)
        assert column.path_in_schema == "jpg"
        at = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[at : at + 20] = b"\xff" * 20
    path.write_bytes(data)
    source = open_source(str(path))
    entries = list(source.photos(Counter()))
    with contextlib.closing(source.unpacked(tmp_path).reader()) as reader:
        found = [what_is_read(reader, entry) for entry in entries]
    assert [i for i, image in enumerate(found) if image is None] == list(range(24, 30))
