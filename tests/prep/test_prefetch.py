"""Prefetching changes no result and stays within its bounds."""

from __future__ import annotations

import contextlib
import random
import signal
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan.config import PrepConfig
from facegan.errors import SettingsError
from facegan.prep.prepare import prepare
from facegan.prep.sources.base import Entry, OnBytes, Reader, Request
from facegan.prep.sources.prefetch import PrefetchingReader, prefetching, schedule
from facegan.remote import MOST_REQUESTS, RemoteUnavailable, TooLarge
from facegan.shards.format import DatasetInfo
from tests.prep.fake import write_photos
from tests.prep.listing import Listing
from tests.prep.outputs import digest, rows
from tests.prep.servers import FAST, NAMES, PHOTOS, FlakyServer, s3_server, table_of, url_table
from tests.process_tree import ProcessTree

CONFIG = PrepConfig(detector="none", crop="squash", size=28, shard_size=25)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("made"), 40)


@pytest.fixture
def flaky(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    for name, value in FAST.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "20")  # requests are counted, so none may be retried
    with FlakyServer(made, keeps_alive=True) as server:
        yield server


@contextlib.contextmanager
def opened(where: Path | str, folder: Path, requests: int) -> Iterator[tuple[Reader, list[Entry]]]:
    """A prefetching reader of a source, and its scheduled entries."""
    listing = Listing(where)
    folder.mkdir(exist_ok=True)
    with contextlib.closing(prefetching(listing.source.unpacked(folder).reader(), requests)) as reader:
        schedule(reader, listing.entries)
        yield reader, listing.entries


def outcome(reader: Reader, entry: Entry) -> bytes | str:
    try:
        return reader.read(entry)
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.slow
def test_dataset_does_not_depend_on_concurrency(
    flaky: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server answers out of order and fails, for some photographs once, for some always."""
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "1")
    chance = random.Random(0)
    flaky.waits = {name: chance.random() / 20 for name in NAMES}
    urls: list[str | None] = [f"{flaky.url}/{name}" for name in NAMES]
    urls[5], urls[6], urls[7], urls[8] = None, "file:///etc/hostname", f"{flaky.url}/none.jpg", "no URL"
    always = {NAMES[9]: "404", NAMES[10]: "short", NAMES[11]: "503", NAMES[12]: "drop"}
    once = {NAMES[14]: "short", NAMES[15]: "429", NAMES[16]: "drop", NAMES[17]: "hang"}
    flaky.always = always
    table, found = url_table(tmp_path / "x.parquet", urls), {}
    for requests in (1, 64):
        flaky.faults = {name: [fault] for name, fault in once.items()}
        prepare(table, tmp_path / str(requests), CONFIG, workers=0, fetch_ahead=requests)
        found[requests] = digest(tmp_path / str(requests))
        assert not any(flaky.faults.values())
    reasons = {row["path"]: row["reason"] for row in rows(tmp_path / "64") if row["reason"]}
    assert reasons == {f"{n:04d}.jpg": "unreachable" for n in (7, *range(9, 13))} | {
        f"{n:04d}.jpg": "unreadable" for n in (5, 6, 8)
    }
    assert found[1] == found[64]
    assert "fetch_ahead" not in DatasetInfo.read(tmp_path / "64").settings


@pytest.mark.parametrize("requests", [1, 7])
def test_concurrent_requests_are_bounded(flaky: FlakyServer, tmp_path: Path, requests: int) -> None:
    flaky.crowd = max(1, requests - 1)  # one is left to the reading thread
    with opened(table_of(tmp_path / "x.parquet", flaky.url), tmp_path / "room", requests) as (reader, entries):
        assert [reader.read(entry) for entry in entries] == [PHOTOS[name] for name in NAMES]
    assert flaky.crowd <= flaky.most_at_once <= requests
    assert flaky.connections <= requests  # connections are reused
    assert set(flaky.asked.values()) == {1}


def test_dedup_uses_concurrent_requests(flaky: FlakyServer, tmp_path: Path) -> None:
    names = [*NAMES, "copy.jpg"]
    table = url_table(tmp_path / "x.parquet", [f"{flaky.url}/{name}" for name in [*NAMES, NAMES[3]]], names)
    flaky.crowd = 6
    result = prepare(table, tmp_path / "out", CONFIG.model_copy(update={"dedup": "exact"}), workers=0, fetch_ahead=7)
    assert (result.photos, result.rejected) == (41, {"duplicate": 1})
    assert flaky.most_at_once <= 7


@pytest.fixture(scope="module")
def s3(made: Path) -> Iterator[str]:
    with s3_server():
        fs = fsspec.filesystem("s3")
        for name, data in PHOTOS.items():
            fs.pipe_file(f"faces/in/{name}", data)
        for part in (0, 1):
            with fs.open(f"faces/tars/{part}.tar", "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
                for name in NAMES[part::2]:
                    tar.add(made / name, name)
        yield "s3://faces"


@pytest.mark.parametrize("what", ["in", "tars/0.tar", "tars/*.tar", "table", "table of many kinds"])
def test_every_remote_source_is_prefetched(s3: str, tmp_path: Path, what: str) -> None:
    if what.startswith("table"):
        url_table(tmp_path / "x.parquet", [f"{s3}/in/{name}" for name in NAMES], NAMES)
        if what == "table of many kinds":  # unsorted rows: unpacked
            order = np.random.default_rng(0).permutation(len(NAMES))
            pq.write_table(pq.read_table(tmp_path / "x.parquet").take(order), tmp_path / "x.parquet", row_group_size=3)
    where = str(tmp_path / "x.parquet") if what.startswith("table") else f"{s3}/{what}"
    with opened(where, tmp_path / "room", 5) as (reader, entries):
        assert isinstance(reader, PrefetchingReader)
        assert {e.name.decode(): reader.read(e) for e in entries} == {
            name: PHOTOS[name] for name in (NAMES[::2] if what == "tars/0.tar" else NAMES)
        }


def test_local_sources_are_not_prefetched(made: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(made / NAMES[0], NAMES[0])
    pq.write_table(pa.table({"image": list(PHOTOS.values())}), tmp_path / "x.parquet")
    for where in (made, tmp_path / "x.tar", tmp_path / "*.tar", tmp_path / "x.parquet"):
        with opened(where, tmp_path / "room", 64) as (reader, _):
            assert not isinstance(reader, PrefetchingReader), where


class ScriptedReader:
    """Photographs with given sizes, delays and errors; counts concurrent requests."""

    def __init__(self, photos: list[tuple[int, float, str]]) -> None:
        self.photos = photos
        self.at_once = self.most_at_once = self.begun = 0
        self._lock = threading.Lock()

    def request(self, entry: Entry) -> Request:
        size, seconds, end = self.photos[entry.locator[0]]
        if end == "asking":
            raise ValueError(f"row {entry.locator[0]}")

        def fetch(on_bytes: OnBytes | None) -> bytes:
            with self._lock:
                self.begun += 1
                self.at_once += 1
                self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                time.sleep(seconds)
                for come in range(0, size, 1000):
                    if on_bytes:
                        on_bytes(min(come + 1000, size))
                if end:
                    raise {"away": RemoteUnavailable, "large": TooLarge, "odd": SystemExit}[end](str(entry.locator[0]))
                return bytes([entry.locator[0]]) * size
            finally:
                with self._lock:
                    self.at_once -= 1

        return fetch

    def read(self, entry: Entry) -> bytes:
        return self.request(entry)(None)

    def close(self) -> None:
        pass


ENDS = st.sampled_from(["", "", "", "", "asking", "away", "large", "odd"])
ANY = st.lists(st.tuples(st.integers(0, 9000), st.sampled_from([0.0, 0.0, 0.001, 0.003]), ENDS), max_size=25)


@given(ANY, st.integers(2, 6), st.sampled_from([9000, 30_000, 1 << 20]), st.data())
@settings(deadline=None, max_examples=50)
def test_results_arrive_in_scheduled_order(
    photos: list[tuple[int, float, str]], requests: int, most_bytes: int, data: st.DataObject
) -> None:
    """Also if a chunk is left in the middle, and if scheduled photographs are skipped."""
    entries = [Entry(b"%d" % number, 0, (number,)) for number in range(len(photos))]
    scripted = ScriptedReader(photos)
    with contextlib.closing(PrefetchingReader(scripted, requests, most_bytes)) as reader:
        for _ in range(2):
            reader.schedule(entries)
            skipped = data.draw(st.sets(st.integers(0, 25)))
            stop = data.draw(st.integers(0, 30))
            for entry, (size, _, end) in zip(entries[:stop], photos, strict=False):
                number = entry.locator[0]
                if number in skipped:
                    continue
                expected = {
                    "": bytes([number]) * size,
                    "asking": f"ValueError: row {number}",
                    "away": f"RemoteUnavailable: {number}",
                    "large": f"TooLarge: {number}",
                    "odd": f"SystemExit: {number}",
                }[end]
                assert outcome(reader, entry) == expected
    assert scripted.most_at_once <= requests


def test_buffered_bytes_are_bounded() -> None:
    """Half of the budget is kept for photographs that turn out larger than is likely."""
    scripted, entries = ScriptedReader([(100_000, 0.0, "")] * 40), [Entry(b"", 100_000, (i,)) for i in range(40)]
    with contextlib.closing(PrefetchingReader(scripted, 8, max_bytes=1_000_000)) as reader:
        reader.schedule(entries)
        for count in range(0, 7, 3):
            for entry in entries[max(0, count - 3) : count]:
                reader.read(entry)
            time.sleep(0.2)
            assert scripted.begun <= count + 5
    time.sleep(0.1)
    assert scripted.begun <= 11  # a closed reader begins nothing


@pytest.mark.parametrize(
    ("number", "dedup"), [(signal.SIGINT, "exact"), pytest.param(signal.SIGTERM, "off", marks=pytest.mark.slow)]
)
def test_running_requests_do_not_block_exit(
    flaky: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, dedup: Literal["off", "exact"]
) -> None:
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "1000")
    flaky.waits = dict.fromkeys(NAMES[10:], 1000.0)
    flaky.crowd = 15
    table = table_of(tmp_path / "x.parquet", flaky.url)
    options = "--detector none --crop squash --workers 1 --set prep.fetch_ahead=16 --dedup"
    with ProcessTree(
        "-W", "error", "-m", "facegan", "prep", table, tmp_path / "out", *options.split(), dedup
    ) as family:
        assert flaky.was_asked(25)  # ten that were sent, fifteen that hang
        family.signal(number)
        code, errors = family.end(30)
        assert code == 130, errors
        assert not family.left()
        assert "Traceback" not in errors
        assert "Warning" not in errors
    flaky.waits.clear()
    result = prepare(table, tmp_path / "out", PrepConfig(detector="none", crop="squash", dedup=dedup), workers=0)
    assert result.kept == len(PHOTOS)


@pytest.mark.parametrize("asks_for", [1, 1_000_000])
def test_retry_after_is_respected_and_bounded(
    flaky: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks_for: int
) -> None:
    """A server that asks for days is given no longer than a silent one."""
    monkeypatch.setenv("FACEGAN_TIMEOUT_SECONDS", "1")
    flaky.busy_until, flaky.busy_seconds = time.monotonic() + 0.9, asks_for
    with opened(table_of(tmp_path / "x.parquet", flaky.url, NAMES[:12]), tmp_path / "room", 6) as (reader, entries):
        assert [reader.read(entry) for entry in entries] == [PHOTOS[name] for name in NAMES[:12]]


@pytest.mark.parametrize("requests", [0, MOST_REQUESTS + 1])
def test_invalid_fetch_ahead_is_refused(requests: int, made: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"fetch_ahead = {requests}"):
        prepare(made, tmp_path / "out", CONFIG, fetch_ahead=requests)
