"""`verify` finds damage and disagreement of any kind and reports it without an exception."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from facegan.config import PrepConfig
from facegan.errors import DatasetError
from facegan.shards.verify import verify
from tests.damage.harm import harm_bytes
from tests.recipes.program import facegan
from tests.shards.made import Made, flip, json_of, make_dataset, members, reseal, rewrite

PHOTOS = [
    Made("a.jpg"),
    Made("b/c d.png", scores=[0.9, 0.7]),
    Made("x" * 220 + ".jpg"),
    Made("caf\\xe9.jpg", reason="no_face", scores=[]),
    Made("e.jpg"),
    Made("f.jpg", split="val"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("whole") / "out", PHOTOS, size=32)


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "out"))


def lines(out: Path, deep: bool = True) -> list[str]:
    found = verify(out, deep=deep)
    assert found.ok is (not found.problems)
    assert all("\n" not in problem.problem for problem in found.problems)
    return [problem.problem for problem in found.problems]


def change_row(out: Path, number: int, **values: object) -> None:
    table = pq.read_table(out / "photos.parquet")
    rows = table.to_pylist()
    rows[number] |= values
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), out / "photos.parquet")
    reseal(out)


def altered(out: Path, change: Callable[[dict[str, bytes]], Any], shard: str = "train-000000.tar") -> list[str]:
    """Problems after a change of a shard's members, with dataset.json made to agree."""
    files = members(out / shard)
    change(files)
    rewrite(out / shard, files)
    reseal(out)
    return lines(out)


@pytest.mark.parametrize("image_format", ["png", "jpg", "webp"])
def test_whole_dataset_has_no_problems(tmp_path: Path, image_format: str) -> None:
    assert lines(make_dataset(tmp_path / "out", PHOTOS, size=32, format=image_format)) == []


def test_dataset_of_prep_has_no_problems(dataset: Path) -> None:
    found = verify(dataset, deep=True)
    assert (found.ok, found.shards, found.samples) == (True, 3, 60)
    done = facegan("verify", dataset)
    assert done.code == 0
    assert "60 samples, all checksums match." in done.stdout


def test_altered_cut_missing_and_unlisted_shards(out: Path) -> None:
    flipped, cut, gone = out / "train-000000.tar", out / "train-000001.tar", out / "val-000000.tar"
    flip(flipped, 5000)
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    (out / "train-000007.tar").write_bytes(b"")
    flip(out / "photos.parquet", 50)
    text = "\n".join(lines(out, deep=False))
    for problem in (
        f"{flipped} was altered",
        f"{cut} was cut short",
        f"{gone} is missing",
        "7.tar is not listed",
        "parquet was altered",
    ):
        assert problem in text


def test_table_and_counts_that_disagree(out: Path) -> None:
    path = out / "photos.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    reseal(out)
    info = json_of(out / "dataset.json")
    info["shards"][0]["samples"] = 7
    (out / "dataset.json").write_text(json.dumps(info))
    text = "\n".join(lines(out, deep=False))
    for problem in ("has 5 photographs", "have different samples", "has 4 samples; dataset.json says 7"):
        assert problem in text


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"label": "gone"}, "'label' is missing"),
        ({"label": True}, "'label' is True"),
        ({"score": 1}, "'score' is 1: it must be written as a decimal number"),
        ({"width": "178"}, "'width' is '178'"),
        ({"keypoints": [[1.0, 2.0]]}, "'keypoints' is [[1.0, 2.0]]: it has 1 entries instead of 6"),
        ({"attributes": {"smiling": None}}, "a field is null"),
        ({"path": "other.jpg"}, "a in {out}/train-000000.tar is not a key of its path, other.jpg."),
        ({"path": "other.jpg"}, "a in {out}/train-000000.tar has path other.jpg; photos.parquet says a.jpg."),
        ({"height": 219}, "a in {out}/train-000000.tar has height 219; photos.parquet says 218."),
        ({"attributes": {"smiling": 1}}, "has other further fields than the first sample"),
        ({"path": "a\ud800.jpg"}, "'path' is "),
    ],
)
def test_json_that_does_not_fit(out: Path, values: dict[str, Any], problem: str) -> None:
    def change(files: dict[str, bytes]) -> None:
        meta = {**json.loads(files["a.json"]), **values}
        files["a.json"] = json.dumps({name: value for name, value in meta.items() if value != "gone"}).encode()

    found = altered(out, change)
    assert any(problem.format(out=out) in line for line in found), found


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"width": ' + b"9" * 5000 + b"}"])
def test_meta_that_is_not_json(out: Path, text: bytes) -> None:
    found = altered(out, lambda files: files.update({"a.json": text}))
    assert [line.startswith(f"a.json in {out}/train-000000.tar ") for line in found] == [True]


def test_images_damaged_or_of_another_size(out: Path) -> None:
    other = Made("a.jpg").image(0, PrepConfig(size=28))
    png = members(out / "val-000000.tar")["f.png"]
    for image, problem in (
        (other, f"f.png in {out}/val-000000.tar has 28×28 pixels; dataset.json says 32×32."),
        (png[:200] + b"?" + png[201:], "a checksum of the PNG is wrong"),
        (png[:-20], "cannot be decoded"),
        (b"nothing", "is not a png"),
    ):
        found = altered(out, lambda files, image=image: files.update({"f.png": image}), "val-000000.tar")
        assert any(problem in line for line in found), found


def test_members_without_their_sample(out: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        del files["a.json"], files["b=2Fc=20d=2Epng.png"]
        files["notes.txt"] = b"hello"

    found = altered(out, change)
    for line in (
        f"a.json in {out}/train-000000.tar is missing.",
        f"notes.txt in {out}/train-000000.tar belongs to no sample.",
        f"b=2Fc=20d=2Epng.json in {out}/train-000000.tar belongs to no sample.",
        f"b=2Fc=20d=2Epng is in photos.parquet, but not in {out}/train-000000.tar.",
        f"The shard {out}/train-000000.tar has 3 samples; dataset.json says 4.",
    ):
        assert line in found


def test_data_after_the_last_sample(out: Path) -> None:
    with tarfile.open(out / "val-000000.tar", "a") as tar:
        info = tarfile.TarInfo("folder")
        info.type = tarfile.DIRTYPE
        tar.addfile(info)
    reseal(out)
    assert lines(out) == [f"The shard {out}/val-000000.tar has data after its last sample."]


def test_repeated_key(out: Path) -> None:
    rewrite(out / "train-000001.tar", members(out / "val-000000.tar"))
    reseal(out)
    change_row(out, 4, keys=["f"])  # of e.jpg
    assert f"{out}/photos.parquet has the key f twice." in lines(out)


def test_row_that_contradicts_itself(out: Path) -> None:
    change_row(out, 3, reason="")
    assert lines(out) == [
        rf"{out}/photos.parquet contradicts itself about caf\xe9.jpg: rejected, no reason, 0 samples in no shard.",
        f"{out}/photos.parquet and dataset.json have different counts of rejection reasons.",
    ]


def test_table_with_another_schema(out: Path) -> None:
    path = out / "photos.parquet"
    table = pq.read_table(path)
    rows = [{**row, "shard": None} for row in table.to_pylist()]
    for changed in (table.drop_columns(["keys"]), pa.Table.from_pylist(rows, schema=table.schema)):
        pq.write_table(changed, path)
        reseal(out)
        assert len(lines(out)) == 1


def test_damaged_samples_are_named_despite_wrong_checksum(out: Path) -> None:
    shard = out / "train-000000.tar"
    flip(shard, 2000)  # inside a.png
    assert lines(out) == [
        f"The shard {shard} was altered: its SHA-256 differs from dataset.json.",
        f"a.png in {shard} cannot be decoded: a checksum of the PNG is wrong.",
    ]
    done = facegan("verify", out, "--deep", "--quiet")
    assert (done.code, done.stderr, done.stdout.splitlines()) == (1, "", lines(out))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(["train-000000.tar", "train-000001.tar", "photos.parquet", "dataset.json", "val-000000.tar"]),
    seed=st.integers(0, 2**32),
    sealed=st.booleans(),
)
@example(file="photos.parquet", seed=9501291, sealed=True)  # in a column that only the search for leaks reads
def test_random_damage_is_reported(whole: Path, tmp_path: Path, file: str, seed: int, sealed: bool) -> None:
    """Also if dataset.json agrees with the damaged bytes, so that only --deep can notice."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    before = (out / file).read_bytes()
    data = harm_bytes(before, Random(seed))
    (out / file).write_bytes(data)
    if sealed and file != "dataset.json" and data:
        reseal(out)
    try:
        found = lines(out)
    except DatasetError:
        assert file == "dataset.json"
        return
    assert found or data == before or sealed or file == "dataset.json"


def test_leaks_between_splits_are_noted(tmp_path: Path) -> None:
    photos = [
        Made("a.jpg", hash=0b111, identity="ann"),
        Made("b.jpg", hash=1 << 63, identity="ann"),
        Made("v.jpg", hash=0b1, identity="bob", split="val"),
        Made("w.jpg", hash=0b11 << 62, identity="ann", split="val"),
        Made("x.jpg", hash=1, identity="eve", split="test", content="a.jpg"),
        Made("y.jpg", hash=1, identity="ann", reason="blurry", scores=[], split="test"),
    ]
    out = make_dataset(tmp_path / "out", photos, size=32)
    found = {leak.kind: (leak.count, leak.first) for leak in verify(out, deep=True).leaks}
    equal = {"bytes": (1, ("a.jpg", "x.jpg"))}
    assert found == equal | {"near": (2, ("a.jpg", "v.jpg")), "identity": (1, ("a.jpg", "w.jpg"))}
    assert verify(out).leaks == ()
    result = facegan("verify", out, "--deep")
    assert result.code == 0
    assert "Leak: near-duplicates (3 bits) in several splits: 2 (first: a.jpg and v.jpg).\n" in result.stdout
