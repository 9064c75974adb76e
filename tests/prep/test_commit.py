"""What a chunk leaves on disk is found again, and nothing that was touched since."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facegan.config import PrepConfig
from facegan.errors import DatasetError
from facegan.prep.chunk import Chunk, Item
from facegan.prep.commit import ChunkMarker, ChunkWork, commit, committed, make_chunk, rows_path
from facegan.prep.prepare import prepare
from facegan.prep.sources.base import Entry
from facegan.shards.detections import IN_CHUNK
from facegan.shards.photos import SCHEMA, TableWriter, in_shard, read_batches, read_in_pieces, read_rows
from tests.prep.fake import TINY, FakeDetector, Memory, face_at, photo
from tests.prep.fake import write_photos as write_jpegs
from tests.shards.made import flip, reseal

PHOTOS = {b"1.jpg": photo(), b"2.jpg": b"bad", 'ü "3".jpg'.encode(): photo(seed=3), b"\xff4.jpg": b""}
WORK = ChunkWork(
    Chunk(7, tuple(Item(name, Entry(name, len(data))) for name, data in PHOTOS.items())), "inputs", PrepConfig()
)


def run(folder: Path, faces: int = 1) -> ChunkMarker:
    detector = FakeDetector(*[face_at(100, 90)] * faces)
    done = make_chunk(folder, WORK, Memory(PHOTOS), detector)
    commit(folder, done)
    return done


def test_only_committed_chunks_count(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert committed(tmp_path, 7, "inputs") == done
    assert (done.photos, done.kept, done.faces, done.rejected) == (4, 2, 2, {"unreadable": 2})
    assert committed(tmp_path, 7, "others") is None
    make_chunk(tmp_path, WORK, Memory(PHOTOS), FakeDetector(face_at(100, 90)))
    assert committed(tmp_path, 7, "inputs") is None


def test_changed_file_invalidates_chunk(tmp_path: Path) -> None:
    done = run(tmp_path)
    for name in ("000007.json", "000007.jsonl", "000007.tar"):
        path = tmp_path / name
        data = path.read_bytes()
        for other in (None, data[:-9], b"{}"):
            path.unlink()
            if other is not None:
                path.write_bytes(other)
            assert committed(tmp_path, 7, "inputs") is None
            assert run(tmp_path) == done
            assert path.read_bytes() == data
    # The rows' checksum in dataset.json is that of the table they become, so it would be right.
    flip(rows_path(tmp_path, 7), rows_path(tmp_path, 7).read_bytes().index(b"sha256") + 12)
    assert committed(tmp_path, 7, "inputs") is None


def test_rows_become_the_table(tmp_path: Path) -> None:
    run(tmp_path)
    table = in_shard(read_rows(rows_path(tmp_path, 7), IN_CHUNK), "train", "train-000002.tar")
    assert table.schema == SCHEMA
    rows = table.to_pylist()
    assert [row["path"] for row in rows] == ["1.jpg", "2.jpg", 'ü "3".jpg', "\\xff4.jpg"]
    assert [row["shard"] for row in rows] == ["train-000002.tar", "", "train-000002.tar", ""]
    assert {row["split"] for row in rows} == {"train"}
    assert rows[0]["scores"] == pytest.approx([0.9])
    assert rows[1]["keys"] == []


def test_row_groups_depend_on_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.shards.photos._ROWS_A_GROUP", 3)
    run(tmp_path)
    rows = read_rows(rows_path(tmp_path, 7), IN_CHUNK)
    write(tmp_path / "whole", [in_shard(rows, "train", f"train-{i:06d}.tar") for i in range(5)])
    pieces = list(read_in_pieces(tmp_path / "whole", [1, 6, 13]))
    assert [len(piece) for piece in pieces] == [1, 6, 13]
    write(tmp_path / "again", pieces)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    assert sum(len(batch) for batch in read_batches(tmp_path / "again")) == 20
    for wrong in ([19], [21]):
        with pytest.raises(DatasetError, match=r"fewer rows|more rows"):
            list(read_in_pieces(tmp_path / "whole", wrong))
    write(tmp_path / "none", [])
    assert not (tmp_path / "none").exists()


def write(path: Path, tables: list[pa.Table]) -> None:
    with TableWriter(path) as writer:
        for table in tables:
            writer.add(table)


@pytest.mark.parametrize("repair", [False, True])
def test_table_without_column_is_refused(tmp_path: Path, repair: bool) -> None:
    """As versions wrote it before the column ``box``."""
    photos, out = write_jpegs(tmp_path / "photos", 1), tmp_path / "out"
    prepare(photos, out, TINY, workers=0)
    with pq.ParquetFile(out / "photos.parquet") as table:
        older = table.read().drop_columns("box")
    pq.write_table(older, out / "photos.parquet")
    reseal(out)
    write_jpegs(photos, 2)
    with pytest.raises(DatasetError, match=r"\(box\).* --force"):
        prepare(photos, out, TINY, workers=0, repair=repair)
