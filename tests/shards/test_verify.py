"""`verify` finds damage and disagreement of any kind and reports it without an exception."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facegan.config import PrepConfig
from facegan.errors import DatasetError
from facegan.shards.verify import verify
from tests.cli.run import facegan
from tests.shards.made import Made, flip, make_dataset, members, reseal, rewrite

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


def change_info(out: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((out / "dataset.json").read_text())
    change(info)
    (out / "dataset.json").write_text(json.dumps(info))


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
    for deep in (False, True):
        found = verify(dataset, deep=deep)
        assert (found.ok, found.shards, found.samples) == (True, 3, 60)
    done = facegan("verify", dataset, "--deep")
    assert (done.returncode, done.stderr) == (0, "")
    assert "every face decodes" in done.stdout


def test_no_dataset_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="facegan prep"):
        verify(tmp_path / "nothing")


def test_altered_cut_missing_and_unlisted_shards(out: Path) -> None:
    flipped, cut, gone = out / "train-000000.tar", out / "train-000001.tar", out / "val-000000.tar"
    flip(flipped, 5000)
    cut.write_bytes(cut.read_bytes()[:-1])
    gone.unlink()
    (out / "train-000007.tar").write_bytes(b"")
    text = "\n".join(lines(out, deep=False))
    assert f"{flipped} was altered" in text
    assert f"{cut} has" in text
    assert f"{gone} is missing" in text
    assert "train-000007.tar is not listed" in text


def test_altered_or_missing_table(out: Path) -> None:
    path = out / "photos.parquet"
    path.write_bytes(path.read_bytes() + b"x")
    assert f"{path} was altered" in lines(out, deep=False)[0]
    path.unlink()
    assert lines(out, deep=False) == [f"{path} is missing."]


def test_table_and_counts_that_disagree(out: Path) -> None:
    path = out / "photos.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    reseal(out)
    change_info(out, lambda info: info["shards"][0].update(samples=7))
    text = "\n".join(lines(out, deep=False))
    assert "has 5 photographs" in text
    assert "have different keys" in text
    assert "has 4 samples; dataset.json says 7" in text


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"label": "gone"}, "'label' is missing"),
        ({"label": None}, "'label' is None"),
        ({"label": True}, "'label' is True"),
        ({"score": 1}, "'score' is 1: it must be written as a decimal number"),
        ({"score": 1.5}, "'score' is 1.5"),
        ({"sha256": "A" * 64}, "'sha256'"),
        ({"width": 0}, "'width' is 0"),
        ({"width": "178"}, "'width' is '178'"),
        ({"turned": 45}, "'turned' is 45"),
        ({"box": [1.0, 2.0]}, "'box' is [1.0, 2.0]: it has 2 entries instead of 4"),
        ({"keypoints": [[1.0, 2.0]]}, "'keypoints' is [[1.0, 2.0]]: it has 1 entries instead of 6"),
        ({"quad": []}, "'quad' is []"),
        ({"attributes": {"smiling": None}}, "a field is null"),
        ({"path": "other.jpg"}, "a in {out}/train-000000.tar is not a key of its path, other.jpg."),
        ({"path": "other.jpg"}, "a in {out}/train-000000.tar has path other.jpg; photos.parquet says a.jpg."),
        ({"height": 219}, "a in {out}/train-000000.tar has height 219; photos.parquet says 218."),
        ({"attributes": {"smiling": 1}}, "has other further fields than the first sample"),
        ({"path": "a\nb.jpg"}, "is not a key of its path, a\\nb.jpg."),
        ({"path": "a\ud800.jpg"}, "'path' is "),
    ],
)
def test_json_that_does_not_fit(out: Path, values: dict[str, Any], problem: str) -> None:
    def change(files: dict[str, bytes]) -> None:
        meta = {**json.loads(files["a.json"]), **values}
        files["a.json"] = json.dumps({name: value for name, value in meta.items() if value != "gone"}).encode()

    found = altered(out, change)
    assert any(problem.format(out=out) in line for line in found), found


def test_empty_boxes_and_attributes_fit(out: Path) -> None:
    def change(files: dict[str, bytes]) -> None:
        for name in files:
            if name.endswith(".json"):
                meta = {**json.loads(files[name]), "box": [], "keypoints": [], "attributes": {"smiling": 1}}
                files[name] = json.dumps(meta).encode()

    assert altered(out, change) == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"width": ' + b"9" * 5000 + b"}"])
def test_meta_that_is_not_json(out: Path, text: bytes) -> None:
    found = altered(out, lambda files: files.update({"a.json": text}))
    assert len(found) == 1
    assert found[0].startswith(f"a.json in {out}/train-000000.tar ")


def test_images_damaged_or_of_another_size(out: Path) -> None:
    other = Made("a.jpg").image(0, PrepConfig(size=28))
    assert f"a.png in {out}/train-000000.tar has 28×28 pixels; dataset.json says 32×32." in altered(
        out, lambda files: files.update({"a.png": other})
    )
    png = members(out / "val-000000.tar")["f.png"]
    for image, problem in (
        (png[:200] + b"?" + png[201:], "a checksum of the PNG is wrong"),
        (png[:-20], "cannot be decoded"),
        (b"", "is not a png"),
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
    assert "The key f occurs 2 times: in train-000001.tar, val-000000.tar." in lines(out)


def test_row_that_contradicts_itself(out: Path) -> None:
    path = out / "photos.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[3]["reason"] = ""
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    reseal(out)
    assert lines(out) == [
        rf"{path} contradicts itself about caf\xe9.jpg: rejected, no reason, 0 samples in no shard.",
        f"{path} and dataset.json have different counts of rejection reasons.",
    ]


@pytest.mark.parametrize("change", ["column", "null", "nothing"])
def test_table_with_another_schema(out: Path, change: str) -> None:
    path = out / "photos.parquet"
    table = pq.read_table(path)
    if change == "column":
        pq.write_table(table.drop_columns(["keys"]), path)
    elif change == "null":
        rows = [{**row, "shard": None} for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    else:
        path.write_bytes(b"PAR1")
    reseal(out)
    assert len(lines(out)) == 1


def test_settings_without_a_size(out: Path) -> None:
    change_info(out, lambda info: info["settings"].pop("size"))
    assert lines(out) == ["dataset.json has invalid settings: size None, format 'png'."]


def test_damaged_samples_are_named_despite_wrong_checksum(out: Path) -> None:
    shard = out / "train-000000.tar"
    flip(shard, 2000)  # inside a.png
    assert lines(out) == [
        f"The shard {shard} was altered: its SHA-256 differs from dataset.json.",
        f"a.png in {shard} cannot be decoded: a checksum of the PNG is wrong.",
    ]
    done = facegan("verify", out, "--deep")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.splitlines() == lines(out)


def damage(data: bytes, kind: str, where: float, value: int) -> bytes:
    at = int(where * len(data))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :] if data else data
    if kind == "cut":
        return data[:at]
    return data[:at] + (data[at + value :] if kind == "drop" else data[at : at + value] + data[at:])


CHANGE = st.tuples(
    st.sampled_from(["flip", "cut", "drop", "double"]), st.floats(0, 1, exclude_max=True), st.integers(1, 255)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    file=st.sampled_from(["train-000000.tar", "train-000001.tar", "photos.parquet", "dataset.json", "val-000000.tar"]),
    changes=st.lists(CHANGE, min_size=1, max_size=4),
    sealed=st.booleans(),
)
def test_random_damage_is_reported(
    whole: Path, tmp_path: Path, file: str, changes: list[tuple[str, float, int]], sealed: bool
) -> None:
    """Also if dataset.json agrees with the damaged bytes, so that only --deep can notice."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(whole, out)
    before = data = (out / file).read_bytes()
    for change in changes:
        data = damage(data, *change)
    (out / file).write_bytes(data)
    if sealed and file != "dataset.json" and data:
        reseal(out)
    try:
        found = lines(out)
    except DatasetError:
        assert file == "dataset.json"
        return
    assert found or data == before or sealed or file == "dataset.json"
