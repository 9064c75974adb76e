"""Attributes: from a list into photos.parquet and KEY.json, and through every command that reads or writes those."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facegan.config import SelectConfig
from facegan.errors import DatasetError, SettingsError
from facegan.prep.attributes import AttributeList
from facegan.prep.forget import forget
from facegan.prep.prepare import prepare
from facegan.prep.select import select
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.prep.fake import TINY, write_photos
from tests.prep.outputs import digest
from tests.prep.test_splits import metas
from tests.shards.made import reseal

HEAD, ROWS = (
    "file,Smiling,Age,Metres,Male",
    [f"{i:02d}.jpg,{i % 2},{i * 3},{i / 4 + 1.5},{-1 + 2 * (i > 2)}" for i in range(9)],
)


def write_list(path: Path, count: int = 9, head: str = HEAD, rows: list[str] = ROWS) -> Path:
    path.write_text("\n".join([head, *rows[:count]]) + "\n")
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("attributes") / "photos", 7)


@pytest.fixture(scope="module")
def whole(photos: Path) -> Path:
    """Four shards of two faces; the last has one."""
    prepare(photos, photos.parent / "out", TINY, workers=0, attributes=write_list(photos.parent / "list.csv"))
    return photos.parent / "out"


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def read(text: str) -> pa.Table:
    return AttributeList.read("a.csv", io.BytesIO(text.encode())).values


def test_columns_are_typed(whole: Path) -> None:
    schema = pq.read_schema(whole / "photos.parquet")
    types = {"Smiling": pa.bool_(), "Age": pa.int64(), "Metres": pa.float64(), "Male": pa.bool_()}
    assert dict(zip(schema.names[-4:], schema.types[-4:], strict=True)) == types
    assert metas(whole)[3]["attributes"] == {"Smiling": 1, "Age": 9, "Metres": 2.25, "Male": 1}
    assert verify(whole, deep=True).ok


def test_faces_have_their_attributes(whole: Path) -> None:
    faces = FaceShards(whole)
    table = faces.attributes(["Age", "Smiling"])
    assert (table.column_names, table["Age"].to_pylist()) == (["Age", "Smiling"], [i * 3 for i in range(7)])
    of_json = [faces[i][1]["attributes"] for i in range(len(faces))]
    found = faces.attributes().to_pylist()
    assert [{name: 2 * v - 1 if isinstance(v, bool) else v for name, v in row.items()} for row in found] == of_json
    with pytest.raises(SettingsError, match=r"no attribute Smilin\. Did you mean 'Smiling'\?.* It has Smiling, Age"):
        faces.attributes(["Smilin"])


def test_selection_by_attributes(whole: Path, out: Path, photos: Path, tmp_path: Path) -> None:
    select([out], tmp_path / "new", SelectConfig(where="Smiling and not Male or Metres > 2.9"))
    assert [meta["path"] for meta in metas(tmp_path / "new")] == ["01.jpg", "06.jpg"]
    assert FaceShards(tmp_path / "new").attributes(["Age"]).to_pydict() == {"Age": [3, 18]}
    assert verify(tmp_path / "new", deep=True).ok
    with pytest.raises(SettingsError, match=r"The columns are key, .* Metres"):
        select([out], tmp_path / "none", SelectConfig(where="Bald"))
    prepare(photos, tmp_path / "plain", TINY, workers=0)
    with pytest.raises(DatasetError, match=r"different attributes: Age .*\n.*facegan annotate"):
        select([out, tmp_path / "plain"], tmp_path / "both")


def test_additions_need_same_attributes(photos: Path, tmp_path: Path) -> None:
    lists = write_list(tmp_path / "list.csv")
    some = shutil.copytree(photos, tmp_path / "photos")
    (some / "06.jpg").rename(tmp_path / "06.jpg")
    prepare(some, tmp_path / "out", TINY, workers=0, attributes=lists)
    shutil.copy(tmp_path / "06.jpg", some)
    with pytest.raises(DatasetError, match="this command asks for --attributes none"):
        prepare(some, tmp_path / "out", TINY, workers=0)
    fewer = write_list(tmp_path / "few.csv", 9, "file,Age", [f"{i:02d}.jpg,{i + 2}" for i in range(9)])
    with pytest.raises(DatasetError, match=r"The list has no column for the attribute Male .*\n.*facegan annotate"):
        prepare(some, tmp_path / "out", TINY, workers=0, attributes=fewer)
    prepare(some, tmp_path / "out", TINY, workers=0, attributes=lists)
    assert FaceShards(tmp_path / "out").attributes(["Age"])["Age"].to_pylist() == [i * 3 for i in range(7)]
    assert verify(tmp_path / "out", deep=True).ok


def test_repair_and_forget_keep_attributes(photos: Path, whole: Path, out: Path) -> None:
    (out / "train-000001.tar").write_bytes(b"damaged")
    prepare(photos, out, TINY, workers=0, attributes=photos.parent / "list.csv", repair=True)
    assert digest(out) == digest(whole)
    forget(out, ["02.jpg"])
    assert FaceShards(out).attributes(["Age"])["Age"].to_pylist() == [0, 3, 9, 12, 15, 18]
    assert verify(out, deep=True).ok


def test_table_must_agree_with_json(out: Path) -> None:
    table = pq.read_table(out / "photos.parquet")
    ages = pa.array([1, *table["Age"].to_pylist()[1:]])
    pq.write_table(table.set_column(table.column_names.index("Age"), "Age", ages), out / "photos.parquet")
    reseal(out)
    assert verify(out).ok
    problems = [problem.problem for problem in verify(out, deep=True).problems]
    assert problems == [f"00 in {out}/train-000000.tar has attributes {{'Age': 0}}; photos.parquet says {{'Age': 1}}."]


def test_kinds_follow_the_values() -> None:
    lines = ["image_id,A,B,C,D,E,F,G", "x,1,0,true,-1,0.5,2,1", "y,-1,1,false,-1,1,0,300", "z,1,1,true,-1,2,1,5"]
    table = read("\n".join(lines))
    assert [str(kind) for kind in table.schema.types] == ["bool", "bool", "bool", "bool", "double", "int64", "int64"]
    assert table["A"].to_pylist() == table["C"].to_pylist() == [True, False, True]
    assert table["D"].to_pylist() == [False] * 3
    assert table["G"].to_pylist() == [1, 300, 5]
