"""--dedup near: which of nearly equal faces is kept, whatever the engine, interruptions and additions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from facegan.config import PrepConfig
from facegan.errors import DatasetError, SettingsError
from facegan.files import sha256_file
from facegan.prep.dedup import near_duplicates
from facegan.prep.forget import forget
from facegan.prep.prepare import prepare
from facegan.shards.duplicates import first_within, kept_among
from facegan.shards.verify import verify
from tests.prep.outputs import digest, rows

BASE: dict[str, Any] = {"size": 32, "shard_size": 6, "dedup": "near:8", "workers": 0}


@pytest.fixture(scope="module")
def photos(portraits: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten portraits, two of them also larger, one brighter, one as a copy."""
    folder = tmp_path_factory.mktemp("near") / "photos"
    folder.mkdir()
    for number in range(1, 11):
        shutil.copy(portraits / f"{number:06d}.jpg", folder / f"{number:02d}.jpg")
    for number, factor in ((2, 2.0), (3, 1.5)):
        image = Image.open(folder / f"{number:02d}.jpg")
        size = (round(image.width * factor), round(image.height * factor))
        image.resize(size, Image.Resampling.BICUBIC).save(folder / f"large-{number:02d}.png")
    Image.open(folder / "05.jpg").point(lambda value: value * 0.9 + 20).save(folder / "05-bright.png")
    shutil.copy(folder / "07.jpg", folder / "copy-of-07.jpg")
    return folder


@pytest.fixture(scope="module")
def out(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    prepare(photos, out := tmp_path_factory.mktemp("near") / "out", **BASE)
    return out


def duplicates(out: Path) -> dict[str, tuple[str, str]]:
    return {row["path"]: (row["reason"], row["duplicate_of"]) for row in rows(out) if row["duplicate_of"]}


def test_largest_of_near_duplicates_is_kept(out: Path) -> None:
    found, kept = duplicates(out), {row["path"] for row in rows(out) if row["keys"]}
    assert found.pop("copy-of-07.jpg") == ("duplicate", "07.jpg")
    assert found.pop("02.jpg") == ("near_duplicate", "large-02.png")
    assert found.pop("03.jpg") == ("near_duplicate", "large-03.png")
    ((path, (reason, of)),) = found.items()
    assert ({path, of}, reason) == ({"05.jpg", "05-bright.png"}, "near_duplicate")
    assert of in kept
    assert verify(out, deep=True).ok
    assert PrepConfig(dedup="near").dedup == "near:3"  # as dataset.json has it


def test_same_bytes_by_any_way(photos: Path, out: Path, tmp_path: Path) -> None:
    prepare(photos, tmp_path / "two", **{**BASE, "workers": 2})
    prepare(photos, tmp_path / "again", **BASE, detections=out)
    prepare(photos, "memory://near/out", **BASE)
    fsspec.filesystem("memory").get("/near/out/", str(tmp_path / "fetched") + "/", recursive=True)
    assert digest(tmp_path / "two") == digest(tmp_path / "again") == digest(tmp_path / "fetched") == digest(out)
    (tmp_path / "two" / "train-000000.tar").unlink()
    prepare(photos, tmp_path / "two", **BASE, repair=True)
    assert digest(tmp_path / "two") == digest(out)


def test_failed_comparison_is_repeated(
    photos: Path, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("prepare.near_duplicates", "prepare.face_thumbnail", "storage.write_json"):
        with monkeypatch.context() as patch:
            patch.setattr(f"facegan.prep.{step}", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                prepare(photos, tmp_path / "out", **BASE)
    prepare(photos, tmp_path / "out", **BASE)
    assert digest(tmp_path / "out") == digest(out)


def test_addition_yields_to_what_is_there(photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, few := tmp_path / "photos", ignore=shutil.ignore_patterns("large*", "*bright*"))
    prepare(few, tmp_path / "out", **BASE)
    before = {path.name: sha256_file(path) for path in (tmp_path / "out").glob("*.tar")}
    shutil.copytree(photos, few, dirs_exist_ok=True)
    prepare(few, tmp_path / "out", **BASE)
    found = duplicates(tmp_path / "out")
    assert found["large-02.png"] == ("near_duplicate", "02.jpg")
    assert found["05-bright.png"] == ("near_duplicate", "05.jpg")
    assert {path.name: sha256_file(path) for path in (tmp_path / "out").glob("*.tar")} == before
    assert verify(tmp_path / "out", deep=True).ok


def test_near_duplicates_are_forgotten_together(photos: Path, out: Path, tmp_path: Path) -> None:
    shutil.copytree(out, some := tmp_path / "some")
    with pytest.raises(DatasetError, match=r"^02\.jpg is a near-duplicate of large-02\.png\nForget both"):
        forget(some, ["large-02.png"])
    assert digest(some) == digest(out)
    forget(some, ["03.jpg"])
    forget(some, ["02.jpg", "large-02.png", "07.jpg", "copy-of-07.jpg"])
    (tmp_path / "list").write_text("02.jpg\nlarge-02.png\n07.jpg\ncopy-of-07.jpg\n03.jpg\n")
    prepare(photos, tmp_path / "new", **BASE, exclude=tmp_path / "list")
    assert digest(some) == digest(tmp_path / "new")
    assert verify(some, deep=True).ok


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dedup": "near:9"}, "near:BITS with 0 to 8 bits"),
        ({"dedup": "near:"}, "must be off, exact, near"),
        ({"dedup": "near", "faces": "all"}, "Choose --dedup exact, or --faces best"),
        ({"dedup": "near", "detector": "none", "crop": "squash"}, "--detector none finds none"),
    ],
)
def test_useless_near_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        PrepConfig.of(options)


HASHES = st.lists(
    st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 5), st.builds(lambda n: 1 << n, st.integers(0, 63)))
)


@given(hashes=HASHES, others=HASHES, bits=st.integers(0, 8))
def test_search_finds_what_comparing_all_finds(hashes: list[int], others: list[int], bits: int) -> None:
    expected = [next((i for i, b in enumerate(others) if (a ^ b).bit_count() <= bits), -1) for a in hashes]
    assert first_within(np.array(hashes, np.uint64), np.array(others, np.uint64), bits).tolist() == expected
    kept: list[int] = []
    for at, face_hash in enumerate(hashes):
        if all((face_hash ^ hashes[i]).bit_count() > bits for i in kept):
            kept.append(at)
    first = [next(i for i in kept if (face_hash ^ hashes[i]).bit_count() <= bits) for face_hash in hashes]
    assert kept_among(np.array(hashes, np.uint64), bits).tolist() == first


def test_search_finds_planted_neighbours() -> None:
    rng = np.random.default_rng(0)
    others, wanted = rng.integers(0, 2**64, 5_000, dtype=np.uint64), rng.choice(5_000, 200)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, number % 9, replace=False)) for number in range(200)]
    assert first_within(others[wanted] ^ np.array(flips, np.uint64), others, 8).tolist() == wanted.tolist()


def test_sharper_then_first_path_wins() -> None:
    names = ("path", "side", "sharpness", "hash")
    new = [("d.jpg", 9.0, 5.0, 7), ("a.jpg", 9.0, 4.0, 7), ("c.jpg", 9.0, 5.0, 6), ("x.jpg", 8.0, 9.0, 255)]
    kinds = (pa.string(), pa.float64(), pa.float64(), pa.uint64())
    table = pa.table(
        [pa.array(column, kind) for column, kind in zip(zip(*new, strict=True), kinds, strict=True)], names
    )
    assert near_duplicates(table.slice(0, 0), table, 1) == {"d.jpg": "c.jpg", "a.jpg": "c.jpg"}
    three = dict.fromkeys(("a.jpg", "c.jpg", "d.jpg"), "x.jpg")
    assert near_duplicates(table.slice(3), table.slice(0, 3), 8) == three
