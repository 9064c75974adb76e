"""Photographs behind URLs, over real protocols: what fails is tried again, and what stays away is told of."""

from __future__ import annotations

import gzip
import io
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facegan.config import PrepConfig
from facegan.errors import DiskError, SourceError
from facegan.prep.chunk import Chunk, Item, process_chunk
from facegan.prep.prepare import prepare
from facegan.prep.sources.base import Entry
from facegan.prep.sources.remote import PRIVATE_VARIABLE, RemoteFolder, _public_socket
from facegan.remote import RemoteUnavailable, TooLarge
from tests.hearing import Heard
from tests.prep.fake import FakeDetector, Memory, photo
from tests.prep.outputs import digest, rows
from tests.prep.servers import FAST, Fickle, s3_server
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


def test_a_bucket_is_listed_page_by_page(s3: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.prep.sources.remote._PAGE_KEYS", 5)
    listing = Listing(f"{s3}/photos")
    assert [(entry.name.decode(), entry.size) for entry in listing.entries] == [
        (name, len(data)) for name, data in PHOTOS.items()
    ]
    fs = fsspec.filesystem("s3")
    for name in ("labelled/a.jpg", "labelled/b.jpg", "labelled/out/photos.parquet", "labelled/out/preview.png"):
        fs.pipe_file(f"faces/in/{name}", b"x")
    fs.pipe_file("faces/in/labelled/out/dataset.json", b"{}")
    fs.pipe_file("faces/in/labelled/dataset.json", b'{"labels": [["b.jpg", 7]]}')
    found = Listing(f"{s3}/labelled")
    assert [(entry.name, entry.label) for entry in found.entries] == [(b"a.jpg", 0), (b"b.jpg", 7)]
    assert dict(found.ignored) == {".json": 1}


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
    with pytest.raises(RemoteUnavailable):
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


@pytest.fixture
def whole_only(made: Path, fast: None) -> Iterator[Fickle]:
    with Fickle(made, ranges=False) as server:
        yield server


@pytest.mark.parametrize("kind", ["photos.tar", "photos.zip", "photos.parquet", "photos.tar.gz"])
def test_an_archive_whose_server_gives_no_parts_of_files_is_fetched_once(
    whole_only: Fickle, made: Path, undisturbed: dict[str, str], tmp_path: Path, kind: str
) -> None:
    (made / "photos.tar.gz").write_bytes(gzip.compress((made / "photos.tar").read_bytes()))
    prepare(f"{whole_only.url}/{kind}", tmp_path / "out", CONFIG, workers=2)
    assert whole_only.asked[kind] == 2  # for its first byte, which tells that there are no parts, and for all
    expected = {name: undisturbed[name] for name in undisturbed if name.endswith(".tar")}
    assert {name: digest(tmp_path / "out")[name] for name in expected} == expected
    assert not list((tmp_path / "out" / ".facegan").rglob(f"*{kind}"))


@pytest.mark.parametrize("fault", ["drop", "503", "short"])
def test_an_archive_that_is_fetched_whole_is_fetched_until_it_is_whole(whole_only: Fickle, fault: str) -> None:
    whole_only.faults["photos.zip"] = ["", fault, fault]
    assert read_all(f"{whole_only.url}/photos.zip") == {name.encode(): data for name, data in PHOTOS.items()}
    assert whole_only.asked["photos.zip"] == 4


def test_an_archive_that_was_fetched_whole_is_fetched_anew_for_another_run(whole_only: Fickle, tmp_path: Path) -> None:
    whole_only.folder = tmp_path
    for count in (1, 2):
        with tarfile.open(tmp_path / "x.tar", "w") as tar:
            for name in sorted(PHOTOS)[:count]:
                info = tarfile.TarInfo(name)
                info.size = 5
                tar.addfile(info, io.BytesIO(b"bytes"))
        assert len(Listing(f"{whole_only.url}/x.tar").entries) == count


def test_a_process_that_read_an_archive_fetched_whole_ends_without_a_word(whole_only: Fickle) -> None:
    code = "import sys; from facegan.prep.sources.remote import Blob; print(len(Blob(sys.argv[1]).open().read(10)))"
    command = [
        sys.executable,
        "-X",
        "dev",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        code,
        f"{whole_only.url}/photos.zip",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.stdout.strip(), ended.stderr) == ("10", "")


def test_an_archive_for_which_there_is_no_room_is_not_begun(
    whole_only: Fickle,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with (whole_only.folder / "large.tar").open("wb") as file:
        file.truncate(5_000_000)
    with pytest.raises(
        DiskError, match=r"large\.tar: its server gives no parts of files, and .* \(5\.0 MB\)\.\n.*TMPDIR"
    ):
        Listing(f"{whole_only.url}/large.tar")
    (whole_only.folder / "large.tar").unlink()


def test_a_query_in_a_web_address_is_no_pattern(fickle: Fickle) -> None:
    expected = {name.encode(): data for name, data in PHOTOS.items()}
    for where in ("photos.tar?sum=a*b[1]{2}", "photos.zip?x=1&y=2", "photos.parquet#part?"):
        assert read_all(f"{fickle.url}/{where}") == expected, where


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
        with pytest.raises(RemoteUnavailable):
            listing.read()
        assert fickle.asked[f"photos/{names[0]}"] == 1


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


@pytest.mark.parametrize("told", [True, False])
def test_a_body_larger_than_a_photograph_may_be_is_not_read_to_its_end(
    fickle: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    """Neither where its length is told before, nor where it goes on and on."""
    name = sorted(PHOTOS)[0]
    listing = Listing(url_table(tmp_path / "x.parquet", fickle, [name]))
    monkeypatch.setattr("facegan.prep.sources.remote.MAX_BYTES", len(PHOTOS[name]) - 1 if told else 1_000_000)
    if not told:
        fickle.always[f"photos/{name}"] = "endless"
    with pytest.raises(TooLarge):
        listing.read()
    assert fickle.asked[f"photos/{name}"] == 1
    assert fickle.sent[f"photos/{name}"] < 20_000_000  # what was under way in buffers


def test_a_photograph_that_is_too_large_where_it_lies_is_told_of_as_such(tmp_path: Path) -> None:
    class Large(Memory):
        def read(self, entry: Entry) -> bytes:
            raise TooLarge

    items = (Item(b"1.jpg", Entry(b"1.jpg", 0)),)
    result = process_chunk(Chunk(0, items), CONFIG, Large({}), FakeDetector(), tmp_path / "x.tar", tmp_path / "x")
    assert [row.reason for row in result.rows] == ["too_large"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_table_does_not_reach_servers_of_this_network_unless_that_is_allowed(
    fickle: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    name, port = sorted(PHOTOS)[0], fickle.url.rpartition(":")[2]
    pq.write_table(pa.table({"url": [f"http://{host}:{port}/photos/{name}"]}), tmp_path / "x.parquet")
    monkeypatch.delenv(PRIVATE_VARIABLE)
    with pytest.raises(RemoteUnavailable, match=r"is no public address; FACEGAN_PRIVATE_URLS=allow in the environment"):
        read_all(tmp_path / "x.parquet")
    assert not fickle.asked
    monkeypatch.setenv(PRIVATE_VARIABLE, "allow")
    assert list(read_all(tmp_path / "x.parquet").values()) == [PHOTOS[name]]


@pytest.mark.parametrize("fault", ["slow", "slow head"])
def test_a_server_that_drips_is_given_up(
    fickle: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Each byte ends a silence: the whole answer, its head too, has to come at 1 kB a second."""
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "0.25")
    name = sorted(PHOTOS)[0]
    fickle.always[f"photos/{name}"] = fault
    with pytest.raises(RemoteUnavailable, match=r"less than 1,000 bytes a second came for 1 seconds"):
        read_all(url_table(tmp_path / "x.parquet", fickle, [name]))
    assert fickle.asked[f"photos/{name}"] == 1


def test_an_archive_that_drips_ends_in_a_sentence(fickle: Fickle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "0.25")
    fickle.always["photos.tar"] = "slow head"
    with pytest.raises(SourceError, match=r"photos.tar can't be reached: less than 1,000 bytes a second"):
        Listing(f"{fickle.url}/photos.tar")


PRIVATE = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::",
           "fe80::1%lo", "fd00::1", "::ffff:10.0.0.1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe",
           "64:ff9b::192.168.0.1", "64:ff9b:1::a9fe:a9fe", "2001:0:c000:0204:0:0:5601:5601", "::169.254.169.254",
           "::ffff:0:169.254.169.254", "2606:4700::5efe:169.254.169.254", "2606:4700::200:5efe:10.0.0.1", "fec0::1",
           "feff::1", "224.0.0.1", "255.255.255.255", "ff0e::1", "4000::1"]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_none_of_the_internets(address: str) -> None:
    with pytest.raises(RemoteUnavailable):
        _public_socket(
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, 80))
        )


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"])
def test_addresses_of_the_internet(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _public_socket((family, socket.SOCK_STREAM, 0, "", (address, 80))).close()
