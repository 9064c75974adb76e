"""``torchvision:NAME``: data sets downloaded from a local server, and pickles never loaded unchecked."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from facegan.config import PrepConfig
from facegan.errors import SourceError
from facegan.prep.prepare import prepare
from facegan.prep.sources import open_source
from facegan.stream import FaceShards
from tests.digits import write_idx
from tests.prep.cifar_files import pictures, write_cifar10
from tests.prep.servers import FlakyServer

DIGITS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def found(source: str, download: bool = False) -> list[tuple[bytes, int, str]]:
    entries = open_source(source, download=download).photos(Counter())
    return sorted((entry.name, entry.label, entry.part) for entry in entries)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyServer]:
    """MNIST's four files on a server; their checksums replace the published ones."""
    from torchvision.datasets import MNIST

    folder = tmp_path / "published"
    folder.mkdir()
    write_idx(folder, "train", DIGITS[:3], [5, 0, 4], packed=True)
    write_idx(folder, "t10k", DIGITS[3:], [7, 2], packed=True)
    sums = [(path.name, _md5(path)) for path in sorted(folder.iterdir())]
    with FlakyServer(folder) as server:
        monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:1/", f"{server.url}/"])  # the first is down
        monkeypatch.setattr(MNIST, "resources", sums)
        yield server


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_mnist_is_downloaded_once_on_request(published: FlakyServer, tmp_path: Path) -> None:
    source = f"torchvision:MNIST:{tmp_path / 'root'}"
    with pytest.raises(SourceError, match=r"MNIST is incomplete in .*--download \(in a recipe: prep\.download=true\)"):
        open_source(source)
    assert not (tmp_path / "root").exists()
    config = PrepConfig.of({"crop": "squash", "detector": "none", "size": 28, "channels": 1, "split": "source"})
    prepare(source, tmp_path / "out", config, workers=0, download=True)
    faces = FaceShards(tmp_path / "out")
    assert [meta["label"] for _, meta in (faces[i] for i in range(3))] == [5, 0, 4]
    assert np.array_equal(np.stack([faces.pixels(i)[..., 0] for i in range(3)]), DIGITS[:3])
    for path in (tmp_path / "published").iterdir():
        path.unlink()
    assert len(found(source)) == 5


def test_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10, FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar.tar.gz")
    for name, files in [("FashionMNIST", "its four files"), ("CIFAR10", "cifar-10-python.tar.gz")]:
        with pytest.raises(SourceError, match=rf"{name} could not be downloaded .*\nWithout a network, put {files}"):
            open_source(f"torchvision:{name}:{tmp_path}", download=True)
    with pytest.raises(SourceError, match="Did you mean 'MNIST'"):
        open_source("torchvision:MNITS")


def test_only_checked_files_are_read(published: FlakyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Early versions of torchvision kept MNIST as processed/training.pt; its class still loads such a file."""
    from torchvision.datasets import MNIST

    source, raw = f"torchvision:MNIST:{tmp_path / 'root'}", tmp_path / "root/MNIST/raw"
    for folder in (raw, raw.parent / "processed"):
        folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (raw.parent / "processed" / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    for path in (tmp_path / "published").iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    assert len(found(source)) == 5
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"incomplete"))
    with pytest.raises(SourceError, match="incomplete"):
        open_source(source)
    monkeypatch.setattr(MNIST, "resources", [(name, "0" * 32) for name, _ in MNIST.resources])
    monkeypatch.setattr(MNIST, "mirrors", MNIST.mirrors[1:])
    with pytest.raises(SourceError, match=r"MNIST could not be downloaded \(File not found or corrupted\)"):
        open_source(source, download=True)


def test_cifar10_is_downloaded_and_read_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    theirs, root = write_cifar10(tmp_path / "theirs", monkeypatch), tmp_path / "root"
    with tarfile.open(theirs / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(theirs / CIFAR10.base_folder, CIFAR10.base_folder)
    with FlakyServer(theirs) as server:
        monkeypatch.setattr(CIFAR10, "url", f"{server.url}/cifar-10-python.tar.gz")
        monkeypatch.setattr(CIFAR10, "tgz_md5", _md5(theirs / "cifar-10-python.tar.gz"))
        entries = found(f"torchvision:CIFAR10:{root}", download=True)
    assert Counter(part for *_, part in entries) == {"train": 20, "test": 4}
    config = PrepConfig.of({"crop": "squash", "detector": "none", "size": 32, "split": "source"})
    prepare(f"torchvision:CIFAR10:{root}", tmp_path / "out", config, workers=0)
    faces = FaceShards(tmp_path / "out")
    wanted = np.concatenate([pictures(4, seed) for seed in range(5)])
    assert np.array_equal(np.stack([faces.pixels(i) for i in range(20)]), wanted)
    assert [faces[i][1]["label"] for i in range(8)] == [0, 1, 2, 3, 1, 2, 3, 4]
    assert np.array_equal(FaceShards(tmp_path / "out", split="test").pixels(0), pictures(4, 5)[0])


@pytest.mark.parametrize("file", ["test_batch", "batches.meta"])
def test_an_altered_pickle_is_not_loaded(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_cifar10(tmp_path / "root", monkeypatch)
    (root / "cifar-10-batches-py" / file).write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(tmp_path / "ran"))
    with pytest.raises(SourceError, match="CIFAR10 is incomplete"):
        open_source(f"torchvision:CIFAR10:{root}")
    assert not (tmp_path / "ran").exists()
