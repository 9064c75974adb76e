"""Splits, duplicates, labels and attributes: what of a photograph decides where it goes, and what goes with it."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from facegan.config import PrepConfig
from facegan.errors import DatasetError, SettingsError, SourceError
from facegan.prep.lists import by_hash, shares, splitter
from facegan.prep.prepare import prepare
from facegan.shards.format import DatasetInfo
from facegan.shards.verify import verify
from tests.prep.fake import photo
from tests.prep.outputs import digest, rows, samples
from tests.recording import RecordingConsole

FAST = {"detector": "none", "crop": "center178", "shard_size": 10}


def metas(out: Path) -> list[dict]:
    return [meta for entry in DatasetInfo.read(out).shards for _, meta in samples(out / entry.name)]


@pytest.fixture
def photos(portraits: Path, tmp_path: Path) -> Path:
    """Forty portraits, numbered as in CelebA's three splits, one of them twice and one three times."""
    folder = tmp_path / "photos"
    folder.mkdir()
    numbers = [*range(1, 21), *range(162771, 162781), *range(182638, 182648)]
    for i, number in enumerate(numbers, 1):
        shutil.copyfile(portraits / f"{i:06d}.jpg", folder / f"{number:06d}.jpg")
    shutil.copyfile(folder / "000003.jpg", folder / "000009.jpg")
    for number in (162775, 182640):
        shutil.copyfile(folder / "000005.jpg", folder / f"{number}.jpg")
    return folder


def test_celeba_split_by_number(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(photos, out, PrepConfig.of({**FAST, "split": "celeba"}), workers=0)
    info = DatasetInfo.read(out)
    assert [(shard.name, shard.samples) for shard in info.shards] == [
        ("train-000000.tar", 10), ("train-000001.tar", 10), ("val-000000.tar", 10), ("test-000000.tar", 10)
    ]  # fmt: skip
    assert {row["split"] for row in rows(out) if row["path"] < "000021"} == {"train"}
    assert verify(out).ok
    assert (out / "index-val.json").is_file()


@pytest.mark.parametrize(
    ("split", "said"), [("celeba", r"me\.jpg has no file number"), ("source", r"does not say if me\.jpg is for train")]
)
def test_photos_without_a_split_are_refused(tmp_path: Path, split: str, said: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(photo())
    with pytest.raises(SourceError, match=said):
        prepare(tmp_path / "photos", tmp_path / "out", PrepConfig.of({**FAST, "split": split}))


def test_additions_keep_existing_splits(portraits: Path, tmp_path: Path) -> None:
    config = PrepConfig.of({**FAST, "split": "0.5,0.3,0.2"})
    prepare(portraits, tmp_path / "all", config, workers=0)
    prepare(portraits, tmp_path / "some", config, workers=0, limit=25)
    whole = {row["path"]: row["split"] for row in rows(tmp_path / "all")}
    assert {row["path"]: row["split"] for row in rows(tmp_path / "some")}.items() <= whole.items()
    assert set(whole.values()) == {"train", "val", "test"}
    prepare(portraits, tmp_path / "some", config, workers=0)
    assert {row["path"]: row["split"] for row in rows(tmp_path / "some")} == whole
    assert verify(tmp_path / "some").ok


def test_hash_splits_by_shares() -> None:
    found = [splitter("0.9,0.05,0.05")(b"%d.jpg" % i, "") for i in range(20_000)]
    assert abs(found.count("train") / 20_000 - 0.9) < 0.01
    assert abs(found.count("val") / 20_000 - 0.05) < 0.005
    assert by_hash(b"1.jpg", (0.0, 1.0, 0.0)) == "val"


@pytest.mark.parametrize("text", ["0.9", "0.9,0.2", "0.5,nan", "0.5,x", "-0.5,1.5", "0.25,0.25,0.25,0.25"])
def test_invalid_shares_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="Shares are two or three numbers"):
        shares(text)


def test_dedup_keeps_first_of_equals(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    config = PrepConfig.of({**FAST, "split": "celeba", "dedup": "exact"})
    result = prepare(photos, out, config, workers=0)
    assert result.rejected == {"duplicate": 3}
    found = {row["path"]: row for row in rows(out) if row["reason"]}
    assert sorted(found) == ["000009.jpg", "162775.jpg", "182640.jpg"]
    assert found["162775.jpg"]["sha256"] == next(row["sha256"] for row in rows(out) if row["path"] == "000005.jpg")
    assert found["162775.jpg"]["width"] == 178
    assert {row["duplicate_of"] for row in found.values()} == {"000003.jpg", "000005.jpg"}
    # Earlier additions win.
    shutil.copyfile(photos / "000012.jpg", photos / "000099.jpg")
    result = prepare(photos, out, config, workers=0)
    assert result.rejected == {"duplicate": 4}
    assert rows(out)[-1]["duplicate_of"] == "000012.jpg"
    assert verify(out).ok


def test_dedup_in_compressed_tar(photos: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar.gz", "w:gz") as tar:
        tar.add(photos, ".")
    config = PrepConfig.of({**FAST, "dedup": "exact"})
    for source in (photos, tmp_path / "photos.tar.gz"):
        assert prepare(source, tmp_path / f"out-{source.name}", config, workers=0).rejected == {"duplicate": 3}
    assert digest(tmp_path / "out-photos") == digest(tmp_path / "out-photos.tar.gz")


def test_hash_split_without_dedup_warns(portraits: Path, tmp_path: Path) -> None:
    console = RecordingConsole()
    config = PrepConfig.of({**FAST, "split": "0.5,0.5"})
    prepare(portraits, tmp_path / "out", config, console=console, workers=0, limit=4)
    assert any("--dedup exact" in warning for warning in console.warnings)


def test_identity_keeps_people_in_one_split(portraits: Path, tmp_path: Path) -> None:
    """In CelebA's layout and as a CSV; additions may bring a longer list."""
    names = sorted(path.name for path in portraits.iterdir())
    people = {name: f"P{number // 4}" for number, name in enumerate(names)}
    celeba, table = tmp_path / "identity_CelebA.txt", tmp_path / "people.csv"
    celeba.write_text("".join(f"{name} {person}\n" for name, person in people.items() if name <= "000040.jpg"))
    table.write_text('path,person\r\n"nobody, here.jpg",x\r\n' + "".join(f"{n}, {p}\r\n" for n, p in people.items()))
    out, config = tmp_path / "out", PrepConfig.of({**FAST, "split": "0.5,0.3,0.2"})
    prepare(portraits, out, config, workers=0, limit=40, identity=celeba)
    prepare(portraits, out, config, workers=0, identity=table)
    assert {row["path"]: row["identity"] for row in rows(out)} == people
    assert len({(row["identity"], row["split"]) for row in rows(out)}) == 15
    assert verify(out, deep=True).leaks == ()
    (out / "train-000000.tar").unlink()
    prepare(portraits, out, config, workers=0, identity=table, repair=True)
    assert verify(out, deep=True).ok
    with pytest.raises(DatasetError, match="with --identity FILE; this command asks for --identity none"):
        prepare(portraits, out, config, workers=0)
    celeba.write_text("".join(f"{name},\n" for name in names))  # nobody is known
    prepare(portraits, tmp_path / "by-path", config, workers=0, identity=celeba)
    assert verify(tmp_path / "by-path", deep=True).leaks == ()
    assert len({row["split"] for row in rows(tmp_path / "by-path")}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, r"cannot be read .* a CSV of path and person"),
        ("000001.jpg\n", "Line 1 of .* must have a path and a person"),
        ("000001.jpg 1\n000001.jpg 2\n", r"Line 2 of .* another person for 000001\.jpg"),
        ("000001.jpg 1\n", r"no line for 000002\.jpg"),
        ("path,person\n", "names no photograph"),
    ],
)
def test_invalid_identities_are_refused(photos: Path, tmp_path: Path, text: str | None, said: str) -> None:
    if text:
        (tmp_path / "people").write_text(text)
    with pytest.raises(SourceError, match=said):
        prepare(photos, tmp_path / "out", PrepConfig.of(FAST), identity=tmp_path / "people")


def write_attributes(path: Path, names: list[str], wrong: str = "") -> Path:
    lines = [f"{name} " + " ".join("1" if (i + j) % 3 else "-1" for j in range(40)) for i, name in enumerate(names)]
    header = " ".join(f"Attribute_{j}" for j in range(40))
    path.write_text("\n".join([str(len(names)), header, *lines]) + "\n" + wrong)
    return path


def test_attributes_go_into_json(photos: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in photos.iterdir())
    listed = write_attributes(tmp_path / "list_attr_celeba.txt", [*names, "202599.jpg"])
    out, config = tmp_path / "out", PrepConfig.of(FAST)
    prepare(photos, out, config, workers=0, attributes=listed)
    for i, meta in enumerate(metas(out)):
        assert meta["path"] == names[i]
        assert list(meta["attributes"].values()) == [1 if (i + j) % 3 else -1 for j in range(40)]
    assert verify(out, deep=True).ok
    with pytest.raises(DatasetError, match="--attributes"):  # with others, or none, it would be another dataset
        prepare(photos, out, config, workers=0)
    before = digest(out)
    (out / "train-000001.tar").unlink()
    prepare(photos, out, config, workers=0, attributes=listed, repair=True)
    assert digest(out) == before


def test_invalid_attributes_are_refused(photos: Path, tmp_path: Path) -> None:
    config = PrepConfig.of(FAST)
    with pytest.raises(SourceError, match=r"cannot be read .* list_attr_celeba\.txt"):
        prepare(photos, tmp_path / "out", config, attributes=tmp_path / "nowhere.txt")
    few = write_attributes(tmp_path / "few.txt", ["000001.jpg"])
    with pytest.raises(SourceError, match=r"no attributes of 000002\.jpg"):
        prepare(photos, tmp_path / "out", config, attributes=few)
    broken = write_attributes(tmp_path / "broken.txt", ["000001.jpg"], "000002.jpg 1 -1\n")
    with pytest.raises(SourceError, match=r"Row #4: Expected 41 columns, got 3: 000002\.jpg"):
        prepare(photos, tmp_path / "out", config, attributes=broken)
    (tmp_path / "other.txt").write_text("no list\n")
    with pytest.raises(SourceError, match="not a list of attributes"):
        prepare(photos, tmp_path / "out", config, attributes=tmp_path / "other.txt")


def test_labels_go_into_json(portraits: Path, tmp_path: Path) -> None:
    shutil.copytree(portraits, tmp_path / "photos")
    labels = {"labels": [[path.name, int(path.stem) % 7] for path in portraits.iterdir()]}
    (tmp_path / "photos" / "dataset.json").write_text(json.dumps(labels))
    prepare(tmp_path / "photos", tmp_path / "out", PrepConfig.of(FAST), workers=0, limit=20, note_source=False)
    assert [meta["label"] for meta in metas(tmp_path / "out")] == [i % 7 for i in range(1, 21)]
    assert not (tmp_path / "out" / ".facegan" / "source.json").exists()
