"""Remote photographs over real protocols: faults are retried, and what stays unavailable is reported."""

from __future__ import annotations

import gzip
import itertools
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
from facegan.prep.prepare import prepare
from facegan.prep.sources.base import Entry
from facegan.prep.sources.folder import RemoteFolder
from facegan.prep.sources.remote import PRIVATE_VARIABLE, is_public
from facegan.remote import RemoteUnavailable, TooLarge
from tests.prep import servers
from tests.prep.fake import write_photos
from tests.prep.listing import Listing, read_all
from tests.prep.outputs import digest, rows
from tests.prep.servers import FAST, FlakyServer, s3_server, table_of
from tests.recording import RecordingConsole

PHOTOS = dict(itertools.islice(servers.PHOTOS.items(), 12))
CONFIG = PrepConfig(detector="none", crop="squash", size=28, shard_size=5)
TRANSIENT = ["drop", "503", "short", "hang"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The photographs as a folder, a tar, a zip and a Parquet."""
    top = tmp_path_factory.mktemp("made")
    write_photos(top / "photos", 12)
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
    prepare(made / "photos", out, CONFIG, workers=0)
    return digest(out)


def shards_of(digests: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in digests.items() if name.endswith(".tar")}


@pytest.fixture
def flaky(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    with FlakyServer(made) as server:
        yield server


@pytest.fixture(scope="module")
def s3(made: Path) -> Iterator[str]:
    with s3_server():
        fs = fsspec.filesystem("s3")
        fs.put(f"{made}/", "faces/in/", recursive=True)
        yield "s3://faces/in"


def test_s3_gives_the_same_bytes(s3: str, undisturbed: dict[str, str], tmp_path: Path) -> None:
    prepare(f"{s3}/photos", tmp_path / "out", CONFIG, workers=0)
    assert digest(tmp_path / "out") == undisturbed


def test_bucket_is_listed_by_pages(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("facegan.prep.sources.folder._PAGE_KEYS", 5)
    listing = Listing(f"{s3}/photos")
    assert [(entry.name.decode(), entry.size) for entry in listing.entries] == [
        (name, len(data)) for name, data in PHOTOS.items()
    ]
    fs = fsspec.filesystem("s3")
    for name in ("a.jpg", "b.jpg", "out/photos.parquet", "out/preview.png", "begun/.facegan/lock", "begun/x.jpg"):
        fs.pipe_file(f"faces/in/labelled/{name}", b"x")
    fs.pipe_file("faces/in/labelled/out/dataset.json", b"{}")
    fs.pipe_file("faces/in/labelled/dataset.json", b'{"labels": [["b.jpg", 7]]}')
    found = Listing(f"{s3}/labelled")
    assert [(entry.name, entry.label) for entry in found.entries] == [(b"a.jpg", 0), (b"b.jpg", 7)]
    assert dict(found.ignored) == {".json": 1}


@pytest.mark.parametrize("fault", ["drop", "503"])
def test_failing_store_is_tried_four_times(
    flaky: FlakyServer, s3: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", flaky.url)
    fsspec.filesystem("s3").clear_instance_cache()
    flaky.always["photos/01.jpg"] = fault
    with pytest.raises(RemoteUnavailable):
        RemoteFolder("s3://photos").reader().read(Entry(b"01.jpg", len(PHOTOS["01.jpg"])))
    assert flaky.asked["photos/01.jpg"] in (4, 8)  # aiohttp retries once if a kept connection was dropped
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        *(("photos.tar", fault) for fault in (*TRANSIENT, "no length")),
        ("photos.zip", "short"),
        ("photos.parquet", "503"),
    ],
)
def test_ranges_are_retried_until_complete(flaky: FlakyServer, kind: str, fault: str) -> None:
    listing = Listing(f"{flaky.url}/{kind}")  # listed without faults
    flaky.faults[kind] = [fault] * (1 if fault == "hang" else 3)
    assert listing.read() == {name.encode(): data for name, data in PHOTOS.items()}
    assert not flaky.faults[kind]


def test_unavailable_archive_is_an_error(flaky: FlakyServer) -> None:
    flaky.always["photos.zip"] = "503"
    with pytest.raises(SourceError, match=r"photos.zip is unavailable: ClientResponseError: 503"):
        Listing(f"{flaky.url}/photos.zip")


@pytest.mark.parametrize("kind", ["photos.zip", "photos.parquet", "photos.tar.gz"])
def test_archive_without_ranges_is_downloaded_once(
    flaky: FlakyServer, made: Path, undisturbed: dict[str, str], tmp_path: Path, kind: str
) -> None:
    flaky.ranges = False
    (made / "photos.tar.gz").write_bytes(gzip.compress((made / "photos.tar").read_bytes()))
    prepare(f"{flaky.url}/{kind}", tmp_path / "out", CONFIG, workers=1 if kind == "photos.zip" else 0)
    assert flaky.asked[kind] == 2  # for the first byte, to see if ranges work, and for the file
    assert shards_of(digest(tmp_path / "out")) == shards_of(undisturbed)
    assert not list((tmp_path / "out" / ".facegan").rglob(f"*{kind}"))


def test_download_larger_than_disk_is_refused(
    flaky: FlakyServer, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flaky.ranges = False
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with (flaky.folder / "large.tar").open("wb") as file:
        file.truncate(5_000_000)
    with pytest.raises(
        DiskError, match=r"large\.tar: its server does not support ranges, and .* \(5\.0 MB\)\.\n.*TMPDIR"
    ):
        Listing(f"{flaky.url}/large.tar")
    (flaky.folder / "large.tar").unlink()


def test_query_is_not_a_pattern(flaky: FlakyServer) -> None:
    expected = {name.encode(): data for name, data in PHOTOS.items()}
    for where in ("photos.tar?sum=a*b[1]{2}", "photos.zip?x=1&y=2", "photos.parquet#part?"):
        assert read_all(f"{flaky.url}/{where}") == expected, where


def test_transient_faults_are_retried_final_ones_not(flaky: FlakyServer, tmp_path: Path) -> None:
    names = sorted(PHOTOS)[:5]
    for name, fault in zip(names, [*TRANSIENT, "408"], strict=True):
        flaky.faults[f"photos/{name}"] = [fault] * 3
    listing = Listing(table_of(tmp_path / "x.parquet", f"{flaky.url}/photos", names))
    assert listing.read() == {name.encode(): PHOTOS[name] for name in names}
    assert {flaky.asked[f"photos/{name}"] for name in names} == {4}
    for fault in ("404", "403", "410"):
        flaky.asked.clear()
        flaky.always[f"photos/{names[0]}"] = fault
        with pytest.raises(RemoteUnavailable):
            listing.read()
        assert flaky.asked[f"photos/{names[0]}"] == 1


def test_repair_fetches_unavailable_photos(flaky: FlakyServer, undisturbed: dict[str, str], tmp_path: Path) -> None:
    table, out, heard = (
        table_of(tmp_path / "x.parquet", f"{flaky.url}/photos", sorted(PHOTOS)),
        tmp_path / "out",
        RecordingConsole(),
    )
    flaky.always = {"photos/01.jpg": "503", "photos/02.jpg": "short", "photos/11.jpg": "drop"}
    result = prepare(table, out, CONFIG, workers=0, console=heard)
    assert (result.photos, result.kept, result.rejected) == (12, 9, {"unreachable": 3})
    assert [row["path"] for row in rows(out) if row["reason"] == "unreachable"] == ["01.jpg", "02.jpg", "11.jpg"]
    warnings = [text for text in heard.warnings if "unreachable" in text.lower()]
    assert warnings[0].startswith("unreachable: 01.jpg: ClientResponseError: 503")
    assert warnings[1] == "Unreachable: 3 photographs. Run the same command with --repair to retry."
    flaky.always.clear()
    result = prepare(table, out, CONFIG, workers=0, repair=True)
    assert result.rejected == {}
    assert shards_of(digest(out)) == shards_of(undisturbed)


@pytest.mark.parametrize("declared", [True, False])
def test_oversized_body_is_not_read(
    flaky: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    """Whether its length is declared, or it never ends."""
    name = sorted(PHOTOS)[0]
    listing = Listing(table_of(tmp_path / "x.parquet", f"{flaky.url}/photos", [name]))
    monkeypatch.setattr("facegan.prep.sources.remote.MAX_BYTES", len(PHOTOS[name]) - 1 if declared else 1_000_000)
    if not declared:
        flaky.always[f"photos/{name}"] = "endless"
    with pytest.raises(TooLarge):
        listing.read()
    assert flaky.asked[f"photos/{name}"] == 1
    assert flaky.sent[f"photos/{name}"] < 20_000_000  # in buffers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_private_servers_need_permission(
    flaky: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    name, port = sorted(PHOTOS)[0], flaky.url.rpartition(":")[2]
    pq.write_table(pa.table({"url": [f"http://{host}:{port}/photos/{name}"]}), tmp_path / "x.parquet")
    monkeypatch.delenv(PRIVATE_VARIABLE)
    with pytest.raises(RemoteUnavailable, match=r"is not a public address; set FACEGAN_PRIVATE_URLS=allow"):
        read_all(tmp_path / "x.parquet")
    assert not flaky.asked
    monkeypatch.setenv(PRIVATE_VARIABLE, "allow")
    assert list(read_all(tmp_path / "x.parquet").values()) == [PHOTOS[name]]


@pytest.mark.parametrize("fault", ["slow", "slow head"])
def test_slow_server_is_dropped(
    flaky: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """A drip is never silent, so the whole response must reach 1 kB a second, its head too."""
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "0.25")
    name = sorted(PHOTOS)[0]
    flaky.always[f"photos/{name}"] = fault
    with pytest.raises(RemoteUnavailable, match=r"less than 1,000 bytes a second came for 1 seconds"):
        read_all(table_of(tmp_path / "x.parquet", f"{flaky.url}/photos", [name]))
    assert flaky.asked[f"photos/{name}"] == 1


PRIVATE = ["10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "::1", "::",
           "fe80::1%lo", "fd00::1", "::ffff:10.0.0.1", "2002:7f00:1::1", "2002:a9fe:a9fe::1", "64:ff9b::a9fe:a9fe",
           "64:ff9b::192.168.0.1", "64:ff9b:1::a9fe:a9fe", "2001:0:c000:0204:0:0:5601:5601", "::169.254.169.254",
           "::ffff:0:169.254.169.254", "2606:4700::5efe:169.254.169.254", "2606:4700::200:5efe:10.0.0.1", "fec0::1",
           "feff::1", "224.0.0.1", "255.255.255.255", "ff0e::1", "4000::1"]  # fmt: skip
PUBLIC = ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]


def test_private_addresses_are_recognised() -> None:
    assert [address for address in [*PRIVATE, *PUBLIC] if is_public(address)] == PUBLIC
