"""Photographs behind URLs, over real protocols: what fails is tried again, and what stays away is told of."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facegan.config import PrepConfig
from facegan.console import Console
from facegan.errors import SourceError
from facegan.prep.prepare import prepare
from facegan.prep.sources.base import Entry
from facegan.prep.sources.folder import RemoteFolder
from facegan.remote import Unreachable
from tests.prep.fake import photo
from tests.prep.servers import FAST, Fickle, s3_server
from tests.prep.test_prepare import digest, rows
from tests.prep.test_sources import Listing, read_all

PHOTOS = {f"{i:02d}.jpg": photo(60, 60, seed=i) for i in range(12)}
CONFIG = PrepConfig(detector="none", crop="squash", size=28, shard_size=5)
TRANSIENT = ["drop", "503", "short", "hang"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs as a folder, a tar, a zip and a Parquet."""
    top = tmp_path_factory.mktemp("made")
    (top / "photos").mkdir()
    for name, data in PHOTOS.items():
        (top / "photos" / name).write_bytes(data)
    with tarfile.open(top / "photos.tar", "w") as tar:
        tar.add(top / "photos", ".")
    with zipfile.ZipFile(top / "photos.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((top / "photos").iterdir()):
            archive.write(path, path.name)
    images = [{"bytes": data, "path": name} for name, data in PHOTOS.items()]
    pq.write_table(pa.table({"image": images}), top / "photos.parquet", row_group_size=4)
    return top


@pytest.fixture(scope="module")
def undisturbed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    prepare(made / "photos", out, CONFIG, workers=1)
    return digest(out)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def fickle(made: Path, fast: None) -> Iterator[Fickle]:
    with Fickle(made) as server:
        yield server


@pytest.fixture(scope="module")
def s3(made: Path) -> Iterator[str]:
    with s3_server():
        fs = fsspec.filesystem("s3")
        fs.put(f"{made}/", "faces/in/", recursive=True)
        yield "s3://faces/in"


def test_every_kind_reads_from_s3_as_it_does_here(s3: str, made: Path) -> None:
    for kind in ("photos", "photos.tar", "photos.zip", "photos.parquet"):
        assert read_all(f"{s3}/{kind}") == {name.encode(): data for name, data in PHOTOS.items()}, kind
    assert read_all(f"{s3}/*.tar") == read_all(made / "photos.tar")


def test_a_run_from_s3_gives_the_bytes_of_a_run_from_here(s3: str, undisturbed: dict[str, str], tmp_path: Path) -> None:
    prepare(f"{s3}/photos", tmp_path / "out", CONFIG, workers=1)
    assert digest(tmp_path / "out") == undisturbed


def test_what_is_not_on_s3_says_so(s3: str) -> None:
    with pytest.raises(SourceError, match=r"s3://faces/in/other.tar can't be reached"):
        Listing(f"{s3}/other.tar")


@pytest.mark.parametrize("fault", ["drop", "503", "hang"])
def test_a_store_that_fails_is_asked_four_times(
    fickle: Fickle, s3: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", fickle.url)
    fsspec.filesystem("s3").clear_instance_cache()
    fickle.always["photos/01.jpg"] = fault
    with pytest.raises(Unreachable):
        RemoteFolder("s3://photos").reader().read(Entry(b"01.jpg", len(PHOTOS["01.jpg"])))
    assert fickle.asked["photos/01.jpg"] in (4, 8)  # aiohttp asks once more where a kept connection was dropped
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize("fault", [*TRANSIENT, "untold"])
@pytest.mark.parametrize("kind", ["photos.tar", "photos.zip", "photos.parquet"])
def test_parts_of_a_file_are_asked_for_until_they_come_whole(fickle: Fickle, kind: str, fault: str) -> None:
    listing = Listing(f"{fickle.url}/{kind}")  # listed in peace, for here it is reading that is asked about
    fickle.faults[kind] = [fault] * (1 if fault == "hang" else 3)
    assert listing.read() == {name.encode(): data for name, data in PHOTOS.items()}
    assert not fickle.faults[kind]


@pytest.mark.parametrize("fault", TRANSIENT)
def test_a_listing_outlives_faults_as_well(fickle: Fickle, fault: str) -> None:
    fickle.faults["photos.tar"] = [fault] * (1 if fault == "hang" else 3)
    assert len(Listing(f"{fickle.url}/photos.tar").entries) == len(PHOTOS)
    assert not fickle.faults["photos.tar"]


def test_an_archive_that_stays_away_ends_in_a_sentence(fickle: Fickle) -> None:
    fickle.always["photos.zip"] = "503"
    with pytest.raises(SourceError, match=r"photos.zip can't be reached: ClientResponseError: 503"):
        Listing(f"{fickle.url}/photos.zip")


def test_a_server_without_parts_of_files_is_named_as_such(made: Path, fast: None) -> None:
    with Fickle(made, ranges=False) as server:
        listing = Listing(f"{server.url}/photos.tar")  # smaller than what is asked for at once
        with pytest.raises(Unreachable, match="does not give parts of files"):
            listing.read()


def url_table(path: Path, fickle: Fickle, names: list[str]) -> Path:
    pq.write_table(pa.table({"url": [f"{fickle.url}/photos/{name}" for name in names], "path": names}), path)
    return path


def test_urls_are_tried_again_and_those_gone_for_good_are_not(fickle: Fickle, tmp_path: Path) -> None:
    names = sorted(PHOTOS)[:5]
    for name, fault in zip(names, [*TRANSIENT, "408"], strict=True):
        fickle.faults[f"photos/{name}"] = [fault] * 3
    listing = Listing(url_table(tmp_path / "x.parquet", fickle, names))
    assert listing.read() == {name.encode(): PHOTOS[name] for name in names}
    assert {fickle.asked[f"photos/{name}"] for name in names} == {4}
    for fault in ("404", "403", "410"):
        fickle.asked.clear()
        fickle.always[f"photos/{names[0]}"] = fault
        with pytest.raises(Unreachable):
            listing.read()
        assert fickle.asked[f"photos/{names[0]}"] == 1


class Heard(Console):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_photographs_that_stay_away_come_with_repair(
    fickle: Fickle, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    table, out, heard = url_table(tmp_path / "x.parquet", fickle, sorted(PHOTOS)), tmp_path / "out", Heard()
    fickle.always = {"photos/01.jpg": "503", "photos/02.jpg": "short", "photos/11.jpg": "drop"}
    result = prepare(table, out, CONFIG, workers=1, console=heard)
    assert (result.photos, result.kept, result.rejected) == (12, 9, {"unreachable": 3})
    assert [row["path"] for row in rows(out) if row["reason"] == "unreachable"] == ["01.jpg", "02.jpg", "11.jpg"]
    told = [text for text in heard.warnings if "unreachable" in text]
    assert told[0].startswith("unreachable: 01.jpg: ClientResponseError: 503")
    assert told[1] == "3 photographs are unreachable; --repair tries them again."
    fickle.always.clear()
    result = prepare(table, out, CONFIG, workers=1, repair=True)
    assert result.rejected == {}
    (tmp_path / "peace").mkdir()
    prepare(table, tmp_path / "peace", CONFIG, workers=1)
    assert digest(out) == digest(tmp_path / "peace")
    assert {name: digest(out)[name] for name in digest(out) if name.endswith(".tar")} == {
        name: undisturbed[name] for name in undisturbed if name.endswith(".tar")
    }


def test_a_dataset_beside_the_photographs_of_a_bucket_is_no_photograph() -> None:
    memory = fsspec.filesystem("memory")
    for name in ("1.jpg", "out/preview.png", "out/dataset.json", "out/photos.parquet", "begun/.facegan/lock"):
        memory.pipe_file(f"/beside/{name}", b"x")
    memory.pipe_file("/beside/begun/.facegan/chunks/000000.tar", b"x")
    listing = Listing("memory://beside")
    assert [entry.name for entry in listing.entries] == [b"1.jpg"]
    assert dict(listing.ignored) == {}
