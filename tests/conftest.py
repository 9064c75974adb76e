"""What all tests share: where detector models and real photographs may be, and a small drawn data set."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"

# Tests run in two processes, some of which start others: with one thread each they do not wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GLOG_minloglevel", "3")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of them compiles the package and the tests
os.environ["NO_COLOR"] = "1"
os.environ["COLUMNS"] = "120"
if not os.environ.get("FACEGAN_MODELS") and (SHARED / "models").is_dir():
    os.environ["FACEGAN_MODELS"] = str(SHARED / "models")


# A busy machine is no failure.
hypothesis.settings.register_profile("facegan", deadline=None)
hypothesis.settings.load_profile("facegan")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`make slow` gives each file to one process, for its fixtures; the trainings of recipes, half of the time, have
    none."""
    for item in items:
        if item.path.name != "test_convergence.py":
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


# A shell without job control starts background commands with SIGINT ignored, and CI may be such a command.
# The program, called within this process, changes it too.
@pytest.fixture(autouse=True)
def _interruptible() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the collector can skip its million objects."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # else DuckDB reports leaks at the end


@pytest.fixture(scope="session", autouse=True)
def _no_flush() -> Iterator[None]:
    """No test cuts the power: waiting for the disk would take a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        patch.setattr(os, "sync", lambda: None, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_curves() -> Iterator[None]:
    """losses.png is a dot: drawing it takes longer than the rest of a toy run. `curves` draws."""
    if "torch" not in sys.modules:  # prep tests alone load no torch
        yield
        return
    from facegan.sample.generate import png_bytes
    from facegan.training import log

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "draw_curves", lambda rows: png_bytes(np.zeros((1, 1, 3), np.uint8)))
        yield


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """losses.png is drawn."""
    from facegan.training import curves, log

    monkeypatch.setattr(log, "draw_curves", curves.draw_curves)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes, shards and faces that tests keep go with them; fetched models and programs stay where they are."""
    from facegan.faces import detect
    from facegan.files import user_cache

    cache = tmp_path_factory.mktemp("cache")
    (cache / "facegan").mkdir()
    for kept in (detect.cache_folder(), user_cache("web")):
        kept.mkdir(parents=True, exist_ok=True)
        (cache / "facegan" / kept.name).symlink_to(kept)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of detector models; tests with the real detector skip where there is none."""
    from facegan.errors import ModelError
    from facegan.faces.detect import resolve_model
    from facegan.manifests import known_models

    try:
        paths = [resolve_model(model) for model in known_models().values()]
    except ModelError as error:
        pytest.skip(f"no detector models: {error}")
    return paths[0].parent


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB, where this user may mount one; a remount makes it larger."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 drawn portraits, 000001.jpg and on. Not to be written to: copy it."""
    from facegan.demo import write_portraits

    folder = tmp_path_factory.mktemp("portraits") / "photos"
    write_portraits(folder, 60)
    return folder


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory, portraits: Path, models: Path) -> Path:
    """A dataset of the drawn portraits in three shards. Not to be written to: use `dataset_copy`."""
    from facegan.config import PrepConfig
    from facegan.prep.prepare import prepare

    out = tmp_path_factory.mktemp("dataset") / "out"
    prepare(portraits, out, PrepConfig(shard_size=20), workers=0)
    return out


@pytest.fixture
def dataset_copy(dataset: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(dataset, tmp_path / "out"))


@pytest.fixture(scope="session")
def celeba() -> Path:
    """The tar of 8,050 real photographs, where it is beside the repository."""
    path = SHARED / "data" / "img_align_celeba_1.tar"
    if not path.is_file():
        pytest.skip("needs the CelebA photographs beside the repository (../shared/data)")
    return path
