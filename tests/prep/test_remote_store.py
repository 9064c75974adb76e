"""OUT at a URL: the bytes of a local run, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from facegan.errors import DatasetError, FaceganError, SettingsError
from facegan.prep.prepare import plan_prepare, prepare
from facegan.prep.request import PrepareRequest
from facegan.shards.verify import verify
from tests.prep.fake import TINY, photo, write_photos
from tests.prep.outputs import digest
from tests.prep.servers import FAST, s3_server

LOCK = "/out/.facegan/lock"
CONFIG = TINY.model_copy(update={"shard_size": 5})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 photographs and three broken ones: five chunks, the last of which keeps nothing."""
    folder = write_photos(tmp_path_factory.mktemp("photos"), 20)
    for i in range(20, 23):
        (folder / f"{i:02d}.jpg").write_bytes(b"not a photograph")
    return folder


@pytest.fixture(scope="module")
def local(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "out"
    prepare(photos, out, CONFIG, workers=0)
    return out


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of mirrors."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FACEGAN_RETRY_SECONDS", FAST["FACEGAN_RETRY_SECONDS"])
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_server():
        yield "s3://faces"


@pytest.fixture
def memory() -> Iterator[str]:
    fs = fsspec.filesystem("memory")
    yield "memory://out"
    fs.rm("/out", recursive=True)


def names(url: str) -> list[str]:
    fs, top = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return [path.removeprefix(fs._strip_protocol(top) + "/") for path in fs.find(top)]


def download(url: str, to: Path) -> Path:
    fs, top = fsspec.core.url_to_fs(url)
    for name in names(url):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        fs.get_file(f"{top}/{name}", str(to / name))
    return to


def test_s3_dataset_equals_local_one(s3: str, photos: Path, local: Path, tmp_path: Path, cache: Path) -> None:
    result = prepare(photos, f"{s3}/whole", CONFIG, workers=0)
    assert (result.out, result.kept, result.shards) == (f"{s3}/whole", 20, 4)
    out = download(f"{s3}/whole", tmp_path / "out")
    assert digest(out) == digest(local)
    assert verify(out).ok
    assert sorted(path.name for path in (out / ".facegan").rglob("*")) == ["settings.json", "source.json"]
    assert not [path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"]
    again = prepare(photos, f"{s3}/whole", CONFIG, workers=0)
    assert (again.kept, again.work_seconds) == (20, 0)


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopped_run_resumes_on_another_machine(s3: str, tmp_path: Path, how: signal.Signals) -> None:
    many, url = write_photos(tmp_path / "many", 60, side=40), f"{s3}/stopped-by-{how}"
    settings = [f"--{name.replace('_', '-')}={getattr(CONFIG, name)}" for name in CONFIG.model_fields_set]
    command = [sys.executable, "-m", "facegan", "prep", str(many), url, *settings, "--workers=1", "--quiet"]
    run = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not any(name.endswith(".json") and "/chunks/" in name for name in names(url)):
        assert run.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    run.send_signal(how)
    assert run.wait(10) == (130 if how == signal.SIGINT else -how)
    found = names(url)
    assert "dataset.json" not in found
    assert (".facegan/lock" in found) == (how == signal.SIGKILL)
    shutil.rmtree(tmp_path / "cache")
    prepare(many, url, CONFIG, workers=0)
    prepare(many, tmp_path / "local", CONFIG, workers=0)
    assert digest(download(url, tmp_path / "out")) == digest(tmp_path / "local")


class Killed(BaseException):
    """As SIGKILL: nothing handles it."""


class Store:
    """fsspec's memory file system, watched."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fs: Any = fsspec.filesystem("memory")
        self.left = 10**6  # writes that still succeed
        self.uploaded: Callable[[str], None] = lambda path: None  # called after each upload
        for name in ("pipe_file", "put_file", "cp_file", "rm_file"):
            monkeypatch.setattr(type(self.fs), name, self._watched(getattr(type(self.fs), name)))

    def _watched(self, write: Callable[..., None]) -> Callable[..., None]:
        def watched(fs: Any, path: str, *args: Any, **kwargs: Any) -> None:
            self.left -= 1
            if self.left < 0:
                raise Killed
            write(fs, path, *args, **kwargs)
            if write.__name__ == "put_file":
                self.uploaded(fs._strip_protocol(args[0]))

        return watched

    def put(self, path: str, data: bytes) -> None:
        """As another program would."""
        with self.fs.open(path, "wb") as file:
            file.write(data)


@pytest.fixture
def store(memory: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_run_killed_before_any_write_resumes(
    store: Store, memory: str, photos: Path, local: Path, tmp_path: Path, step: int
) -> None:
    """Whichever write was the last, later runs complete the dataset, and nothing is lost."""
    for writes in range(step, 10**3, step):
        store.left = writes
        with contextlib.suppress(Killed):
            prepare(photos, memory, CONFIG, workers=0)
        done, store.left = store.left >= 0, 10**6
        if store.fs.exists(LOCK):
            store.fs.rm_file(LOCK)
        if done:
            break
    out = download(memory, tmp_path / "out")
    assert digest(out) == digest(local)
    assert not any("/chunks/" in name or "/final/" in name for name in names(memory))


def test_damaged_upload_is_repeated(store: Store, memory: str, photos: Path, local: Path, tmp_path: Path) -> None:
    seen: set[str] = set()

    def spoil_the_first(path: str) -> None:
        if path not in seen:
            store.put(path, b"bad")
        seen.add(path)

    store.uploaded = spoil_the_first
    prepare(photos, memory, CONFIG, workers=0)
    assert digest(download(memory, tmp_path / "out")) == digest(local)
    store.uploaded = lambda path: store.put(path, b"bad")
    with pytest.raises(FaceganError, match=r"cannot be reached or written: OSError: 3 bytes of .* arrived"):
        prepare(photos, f"{memory}/never", CONFIG, workers=0)


def test_run_without_its_lock_stops(store: Store, memory: str, photos: Path) -> None:
    store.uploaded = lambda path: store.put(LOCK, b"{}")
    with pytest.raises(FaceganError, match="The lock of memory://out was taken over"):
        prepare(photos, memory, CONFIG, workers=0)
    assert "dataset.json" not in names(memory)
    assert ".facegan/lock" in names(memory)


def test_additions_equal_local_ones(memory: str, photos: Path, tmp_path: Path) -> None:
    for out in (memory, str(tmp_path / "local")):
        for limit in (7, None):
            prepare(photos, out, CONFIG, workers=0, limit=limit, note_source=False)
    assert digest(download(memory, tmp_path / "out")) == digest(tmp_path / "local")
    assert ".facegan/source.json" not in names(memory)
    plan = plan_prepare(PrepareRequest(photos, memory, CONFIG))
    assert (plan.photos, plan.new, plan.out) == (23, 0, memory)


def test_repair_restores_bytes(memory: str, photos: Path, local: Path, tmp_path: Path) -> None:
    prepare(photos, memory, CONFIG, workers=0)
    fs = fsspec.filesystem("memory")
    fs.rm_file("/out/train-000001.tar")
    spoilt = bytearray(fs.cat_file("/out/train-000002.tar"))
    spoilt[1000] ^= 1
    fs.pipe_file("/out/train-000002.tar", bytes(spoilt))
    more = shutil.copytree(photos, tmp_path / "more")
    (more / "99.jpg").write_bytes(photo(60, 60, seed=99))
    with pytest.raises(DatasetError, match=r"memory://out/train-000001.tar is missing.\n.*--repair"):
        prepare(more, memory, CONFIG, workers=0)
    prepare(photos, memory, CONFIG, workers=0, repair=True)
    assert digest(download(memory, tmp_path / "out")) == digest(local)


def test_force_takes_over_a_lock(memory: str, photos: Path, local: Path, tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    holder = {"process": 7, "host": "elsewhere", "machine": "another", "since": "yesterday", "token": "x"}
    fs.pipe_file(LOCK, json.dumps(holder).encode())
    with pytest.raises(FaceganError, match=r"writing into memory://out \(process 7 on elsewhere, since yesterday\)"):
        prepare(photos, memory, CONFIG, workers=0)
    assert names(memory) == [".facegan/lock"]
    prepare(photos, memory, CONFIG, workers=0, force=True)
    assert digest(download(memory, tmp_path / "out")) == digest(local)
    assert ".facegan/lock" not in names(memory)


def test_foreign_files_are_left_alone(memory: str, photos: Path) -> None:
    fsspec.filesystem("memory").pipe_file("/out/thesis.txt", b"x")
    with pytest.raises(DatasetError, match="memory://out is not empty"):
        prepare(photos, memory, CONFIG, workers=0)
    assert names(memory) == ["thesis.txt"]
    with pytest.raises(SettingsError, match="http is read-only"):
        prepare(photos, "https://example.org/out", CONFIG, workers=0)
    assert plan_prepare(PrepareRequest(photos, "memory://none", CONFIG)).new == 23
    assert names("memory://none") == []
