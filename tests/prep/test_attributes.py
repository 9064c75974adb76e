"""Attributes: from a list into photos.parquet and KEY.json, and through every command that reads or writes those."""

from __future__ import annotations

import io
import json
import random
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.csv import write_csv

from facegan.config import SelectConfig
from facegan.errors import DatasetError, SettingsError, SourceError
from facegan.prep.attributes import AttributeList
from facegan.prep.forget import _Annotation, annotate, forget
from facegan.prep.inspect import origin_of
from facegan.prep.prepare import prepare
from facegan.prep.select import select
from facegan.report.dataset import write_dataset_page
from facegan.shards.detections import SAMPLES
from facegan.shards.format import DatasetInfo
from facegan.shards.query import Where
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.prep.fake import TINY, write_photos
from tests.prep.outputs import digest, rows, samples
from tests.prep.test_splits import metas
from tests.process_tree import ProcessTree
from tests.recipes.program import facegan
from tests.recording import RecordingConsole
from tests.shards.made import reseal
from tests.stopping import stopped_at_line

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


def images_of(out: Path) -> dict[str, np.ndarray]:
    found = [pair for entry in DatasetInfo.read(out).shards for pair in samples(out / entry.name)]
    return {meta["path"]: pixels for pixels, meta in found}


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
    with pytest.raises(DatasetError, match=r"different attributes: Age has .*\n.*facegan annotate"):
        select([out, tmp_path / "plain"], tmp_path / "both")


def test_any_attribute_may_be_in_a_condition() -> None:
    samples = pa.table({name: pa.array([], kind) for name, kind in zip(SAMPLES.names, SAMPLES.types, strict=True)})
    schema = pa.schema([*samples.schema, ("__number", pa.int64())])
    rows = pa.Table.from_pylist([dict.fromkeys(samples.column_names) | {"__number": 7}] * 2, schema)
    assert Where("__number = 7", schema).fits(rows).tolist() == [0, 1]


def test_additions_need_same_attributes(photos: Path, tmp_path: Path) -> None:
    lists = write_list(tmp_path / "list.csv")
    some = shutil.copytree(photos, tmp_path / "photos")
    (some / "06.jpg").rename(tmp_path / "06.jpg")
    prepare(some, tmp_path / "out", TINY, workers=0, attributes=lists)
    shutil.copy(tmp_path / "06.jpg", some)
    with pytest.raises(DatasetError, match="this command asks for --attributes none"):
        prepare(some, tmp_path / "out", TINY, workers=0)
    fewer = write_list(tmp_path / "few.csv", 9, "file,Age", [f"{i:02d}.jpg,{i + 2}" for i in range(9)])
    with pytest.raises(
        DatasetError, match=r"out and the list have different attributes: Male has .*\n.*facegan annotate"
    ):
        prepare(some, tmp_path / "out", TINY, workers=0, attributes=fewer)
    others = write_list(tmp_path / "other.csv", rows=[ROWS[0], ROWS[1].replace(",1,", ",0,"), *ROWS[2:]])
    with pytest.raises(DatasetError, match=r"01\.jpg has other attributes in the list than .*\n.* facegan annotate"):
        prepare(some, tmp_path / "out", TINY, workers=0, attributes=others)
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
    assert problems == [f"00 in {out}/train-000000.tar has Age 0; photos.parquet says 1."]


def test_kinds_follow_the_values() -> None:
    lines = ["image_id,A,B,C,D,E,F,G", "x,1,0,true,-1,0.5,2,1", "y,-1,1,false,-1,1,0,300", "z,1,1,true,-1,2,1,5"]
    table = read("\n".join(lines))
    assert [str(kind) for kind in table.schema.types] == ["bool", "bool", "bool", "bool", "double", "int64", "int64"]
    assert table["A"].to_pylist() == table["C"].to_pylist() == [True, False, True]
    assert table["D"].to_pylist() == [False] * 3
    assert table["G"].to_pylist() == [1, 300, 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file,A\na.jpg,1\nb.jpg,\n", r"a\.csv has no value of A in line 3\."),
        ("file,A\na.jpg,x\n", r"a\.csv has A = x: an attribute is a number.*\nWrite a class as its number"),
        ("file,A\na.jpg,inf\n", "a value of A that is not finite"),
        ("file,Score\na.jpg,1\n", "has an attribute 'Score': photos.parquet has such a column"),
        ("file,A,a\na.jpg,1,1\n", "has an attribute 'a'"),
        ("file,A,A\na.jpg,1,1\n", "each with its own name"),
        ("B,A\n1,2\n", "has no column of photographs: name one path, file, image_id or key"),
        ("file,A\n", "has no photographs"),
        ("file,A\na.jpg,1\nb.jpg,2,3\n", "Row #3: Expected 2 columns, got 3: b.jpg"),
        ("nothing\n", "is not a list of attributes"),
        ('file,"A,B"\na.jpg,1\n', r"attribute 'A,B': a name has no comma, no =.*\. Rename it"),
        ("file,A=1\na.jpg,1\n", "attribute 'A=1': a name has no comma"),
        ("file,A,,B\na.jpg,1,2,3\n", "attribute '': a name .* is not empty"),
    ],
)
def test_bad_lists_get_a_sentence(text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        read(text)


def test_other_names_and_an_index_are_ignored() -> None:
    table = read(",path,A,image_id\n0,a.jpg,1,x\n1,b.jpg,0,y\n")
    assert table.to_pydict() == {"A": [True, False]}


def test_decimals_may_come_late() -> None:
    rows = [f"{number:06d}.jpg,{number}" for number in range(80_000)]  # over a megabyte
    assert read("\n".join(["file,A", *rows, "z.jpg,2.5"]))["A"].to_pylist()[-2:] == [79_999, 2.5]
    with pytest.raises(SourceError, match="Row #80002: Expected 2 columns, got 3"):
        read("\n".join(["file,A", *rows, "z.jpg,2.5,7"]))


def test_missing_rows_are_counted_or_skipped(photos: Path, whole: Path, tmp_path: Path) -> None:
    few, out = write_list(tmp_path / "few.csv", 4), tmp_path / "out"
    with pytest.raises(SourceError, match=r"no attributes of 04\.jpg and 2 others\.\n.* --missing-attributes skip"):
        prepare(photos, out, TINY, workers=0, attributes=few)
    console = RecordingConsole()
    prepare(photos, out, TINY, workers=0, attributes=few, missing_attributes="skip", console=console)
    assert console.notes[0].endswith("no attributes of 04.jpg and 2 others. They are left out.")
    assert FaceShards(out).attributes(["Age"])["Age"].to_pylist() == [0, 3, 6, 9]
    prepare(photos, out, TINY, workers=0, attributes=photos.parent / "list.csv")  # longer: they are not forgotten
    assert FaceShards(out).attributes(["Age"])["Age"].to_pylist() == [i * 3 for i in range(7)]
    assert verify(out, deep=True).ok


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_lists_may_have_paths_or_keys(photos: Path, whole: Path, tmp_path: Path, suffix: str) -> None:
    keys = {"Age": [i * 3 for i in range(7)], "key": [f"{i:02d}" for i in range(7)]}
    below = {"file": [f"photos/{i:02d}.jpg" for i in range(7)], "Age": keys["Age"]}
    shutil.copytree(photos, tmp_path / "top" / "photos")
    for columns, source in (keys, photos), (below, tmp_path / "top"):
        if suffix == "csv":
            write_csv(pa.table(columns), str(tmp_path / "list.csv"))
        else:
            pq.write_table(pa.table(columns), tmp_path / "list.parquet")
        out = tmp_path / f"out-{source.name}"
        prepare(source, out, TINY, workers=0, attributes=tmp_path / f"list.{suffix}")
        assert FaceShards(out).attributes().to_pydict() == {"Age": keys["Age"]}


@pytest.mark.parametrize("names", [["a.jpg", "c.jpg", "b.jpg"], None])
def test_columns_of_a_parquet_source(photos: Path, tmp_path: Path, names: list[str] | None) -> None:
    columns: dict[str, Any] = {"image": [(photos / f"{i:02d}.jpg").read_bytes() for i in range(3)]}
    columns |= {"label": [4, 5, 6], "Smiling": [True, False, True], "Age": [1, 20, 3], "text": ["x", "y", "z"]}
    columns |= {
        "WIDTH": [1, 2, 3],
        "width": [1, 2, 3],
        "a=b": [1, 2, 3],
        "gaps": [1, None, 2],
        **({"path": names} if names else {}),
    }
    pq.write_table(pa.table(columns), tmp_path / "photos.parquet")
    result = prepare(tmp_path / "photos.parquet", tmp_path / "out", TINY, workers=0)
    assert result.lists == {
        "columns Smiling, Age": "used as with --attributes",
        "columns text, gaps": "not used as attributes: not every value is a number",
        "columns WIDTH, width": "not used as attributes: photos.parquet has such a column",
        "columns a=b": "not used as attributes: a name has no comma, no =, and no space at its ends, and is not empty",
    }
    ages = [1, 3, 20] if names else [1, 20, 3]
    assert FaceShards(tmp_path / "out").attributes(["Age"])["Age"].to_pylist() == ages
    assert verify(tmp_path / "out", deep=True).ok
    prepare(tmp_path / "photos.parquet", tmp_path / "none", TINY, workers=0, attributes="none")
    assert FaceShards(tmp_path / "none").attributes().column_names == []


def test_shares_are_shown(whole: Path, tmp_path: Path) -> None:
    found = json.loads(facegan("inspect", whole, "--json").stdout)["attributes"]
    assert found[0] == {"attribute": "Smiling", "faces": 3, "share": 3 / 7}
    assert [one["attribute"] for one in found[1:4]] == ["Age = 0", "Age = 3", "Age = 6"]
    assert found[-2]["attribute"] == "Metres: median 2.25, 90 % within 1.575 to 2.925"
    assert re.search(r"attribute Smiling +3 +42\.86%", facegan("inspect", whole).stdout)
    assert "| Smiling | 3 | 42.86% |" in (whole / "README.md").read_text()
    page = write_dataset_page(whole, tmp_path / "page.html").read_text()
    assert re.findall(r'<div title="(\d) faces"><dt>Male</dt>.*?(\d+\.\d) %</dd>', page) == [("4", "57.1")]


# annotate


@pytest.fixture(scope="module")
def plain(photos: Path) -> Path:
    """As `whole` without attributes, and with a file that is no photograph."""
    folder = shutil.copytree(photos, photos.parent / "more" / "photos")
    (folder / "07.jpg").write_bytes(b"no photograph")
    prepare(folder, folder.parent / "out", TINY, workers=0)
    return folder.parent / "out"


def test_annotated_equals_prepared(photos: Path, whole: Path, tmp_path: Path) -> None:
    prepare(photos, out := tmp_path / "out", TINY, workers=0)
    before = digest(out)
    lists = write_list(tmp_path / "list.csv")
    assert annotate(out, lists, dry_run=True).added == ("Smiling", "Age", "Metres", "Male")
    assert digest(out) == before
    found = annotate(out, lists)
    assert (found.photos, found.shards, found.replaced) == (7, 4, ())
    assert digest(out) == digest(whole)
    changed = {name for name, sha256 in digest(out).items() if sha256 != before[name]}
    assert before.keys() - changed == {"preview.png", "_info.json"}
    assert annotate(out, lists).added == ()
    assert (origin := origin_of(out))
    assert dict(origin.files) == {"attributes": str(lists)}  # for the command on the dataset's page
    shutil.copy(photos / "06.jpg", shutil.copytree(photos, tmp_path / "photos") / "08.jpg")
    prepare(tmp_path / "photos", out, TINY, workers=0, attributes=lists)
    assert FaceShards(out).attributes(["Age"])["Age"].to_pylist() == [0, 3, 6, 9, 12, 15, 18, 24]


def test_attributes_are_replaced_and_added(plain: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    images = {key: pixels.tobytes() for key, pixels in images_of(out).items()}
    annotate(out, write_list(tmp_path / "list.csv"))
    new = write_list(
        tmp_path / "new.csv", head="key,Age,Bald", rows=[f"{i:02d},{40 + i},{i % 3 == 0}" for i in range(7)]
    )
    assert facegan("annotate", out, new).stdout.splitlines() == [
        f"1 attribute added to {out}, 1 replaced: Bald, Age",
        "8 photographs, 4 shards written again",
    ]
    table = FaceShards(out).attributes()
    assert table.column_names == ["Smiling", "Age", "Metres", "Male", "Bald"]
    assert table["Age"].to_pylist() == list(range(40, 47))
    assert table["Bald"].to_pylist() == [True, False, False] * 2 + [True]
    assert rows(out)[7]["Age"] == 0  # rejected, and without a line
    assert {key: pixels.tobytes() for key, pixels in images_of(out).items()} == images
    assert verify(out, deep=True).ok


def test_annotate_refuses_what_would_lack_values(plain: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    with pytest.raises(
        SourceError, match=r"no attributes of 05\.jpg and 1 other\.\nOnly photographs that were rejected"
    ):
        annotate(out, write_list(tmp_path / "few.csv", 5))
    with pytest.raises(DatasetError, match="There is no folder"):
        annotate(tmp_path / "none", tmp_path / "few.csv")
    assert digest(out) == digest(plain)


def test_annotate_stopped_at_any_line_is_finished(tmp_path: Path) -> None:
    """The steps after `carry_out` are those of `forget`."""
    prepare(write_photos(tmp_path / "photos", 2), plain := tmp_path / "plain", TINY, workers=0)
    lists, stops = write_list(tmp_path / "list.csv"), 0
    annotate(done := Path(shutil.copytree(plain, tmp_path / "done")), lists)
    while True:
        again = Path(shutil.copytree(plain, tmp_path / "again"))
        try:
            with stopped_at_line(_Annotation.carry_out, stops):
                annotate(again, lists)
            break
        except KeyboardInterrupt:
            stops += 1
        assert not (again / "dataset.json").exists() or digest(again) in (digest(plain), digest(done))
        annotate(again, lists)
        assert digest(again) == digest(done)
        assert not (again / ".facegan" / "journal.json").exists()
        shutil.rmtree(again)
    assert stops > 5


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_killed_annotate_is_finished_by_the_same(plain: Path, tmp_path: Path, number: int) -> None:
    lists, out = write_list(tmp_path / "list.csv"), Path(shutil.copytree(plain, tmp_path / "out"))
    annotate(done := Path(shutil.copytree(plain, tmp_path / "done")), lists)
    with ProcessTree("-m", "facegan", "annotate", out, lists) as family:
        family.wait_for(out / ".facegan" / "final")
        time.sleep(random.Random(number).random() * 0.1)
        family.signal(signal.SIGKILL)
        assert family.end(60)[0] in (0, -signal.SIGKILL)
    assert facegan("annotate", out, lists).code == 0
    assert digest(out) == digest(done)


def test_dataset_at_url_and_selection_are_annotated(photos: Path, whole: Path, tmp_path: Path) -> None:
    lists = write_list(tmp_path / "list.csv")
    prepare(photos, "memory://annotate", TINY, workers=0)
    annotate("memory://annotate", lists)
    fsspec.filesystem("memory").get("/annotate", str(tmp_path / "here"), recursive=True)
    assert digest(tmp_path / "here") == digest(whole)
    select([whole], tmp_path / "few", SelectConfig(limit=3))
    annotate(tmp_path / "few", write_list(tmp_path / "new.csv", head="key,Old", rows=["00,1", "01,0", "02,1"]))
    assert FaceShards(tmp_path / "few").attributes(["Old"])["Old"].to_pylist() == [True, False, True]
    assert verify(tmp_path / "few", deep=True).ok


def test_runs_from_before_are_named_by_forget(plain: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(plain, tmp_path / "out"))
    (tmp_path / "runs" / "a").mkdir(parents=True)
    fingerprint = DatasetInfo.read(out).faces_fingerprints("train")[-1]
    (tmp_path / "runs" / "a" / "run.json").write_text(json.dumps({"dataset": {"fingerprint": fingerprint}}))
    annotate(out, write_list(tmp_path / "list.csv"))
    assert [one["kind"] for one in forget(out, ["01.jpg"], tmp_path / "runs").made] == ["run"]
