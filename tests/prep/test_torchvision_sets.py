"""``torchvision:NAME``: files where its classes keep them, fetched from a server on loopback, and never unpickled."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.config import PrepConfig
from facegan.errors import SourceError
from facegan.prep.prepare import prepare
from facegan.prep.sources import open_source
from facegan.prep.sources.torchvision import read_batch
from facegan.stream import FaceShards
from tests.cli.run import facegan
from tests.digits import write_idx
from tests.prep.cifar_files import batch, pictures, write_cifar10
from tests.prep.servers import Fickle

DIGITS = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def found(source: str, download: bool = False) -> list[tuple[bytes, int, str]]:
    entries = open_source(source, download=download).photos(Counter())
    return sorted((entry.name, entry.label, entry.part) for entry in entries)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fickle]:
    """MNIST's four files on a server, and the sums of these in the place of the published ones."""
    from torchvision.datasets import MNIST

    folder = tmp_path / "published"
    folder.mkdir()
    write_idx(folder, "train", DIGITS[:3], [5, 0, 4], packed=True)
    write_idx(folder, "t10k", DIGITS[3:], [7, 2], packed=True)
    sums = [(path.name, _md5(path)) for path in sorted(folder.iterdir())]
    with Fickle(folder) as server:
        monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:1/", f"{server.url}/"])  # at the first nobody listens
        monkeypatch.setattr(MNIST, "resources", sums)
        yield server


def _md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_mnist_is_fetched_once_and_only_if_asked(published: Fickle, tmp_path: Path) -> None:
    source = f"torchvision:MNIST:{tmp_path / 'root'}"
    with pytest.raises(SourceError, match=r"MNIST is not whole in .*--download \(in a recipe: prep\.download=true\)"):
        open_source(source)
    assert not (tmp_path / "root").exists()
    config = PrepConfig.of({"crop": "squash", "detector": "none", "size": 28, "channels": 1, "split": "source"})
    prepare(source, tmp_path / "out", config, workers=1, download=True)
    faces = FaceShards(tmp_path / "out")
    assert [meta["label"] for _, meta in (faces[i] for i in range(3))] == [5, 0, 4]
    assert np.array_equal(np.stack([faces.pixels(i)[..., 0] for i in range(3)]), DIGITS[:3])
    for path in (tmp_path / "published").iterdir():
        path.unlink()
    assert len(found(source)) == 5


def test_a_file_with_another_sum_is_not_taken(
    published: Fickle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "resources", [(name, "0" * 32) for name, _ in MNIST.resources])
    monkeypatch.setattr(MNIST, "mirrors", MNIST.mirrors[1:])
    with pytest.raises(SourceError, match=r"MNIST can't be fetched \(File not found or corrupted\)"):
        open_source(f"torchvision:MNIST:{tmp_path / 'root'}", download=True)
    with pytest.raises(SourceError, match="not whole"):
        open_source(f"torchvision:MNIST:{tmp_path / 'root'}")


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10, FashionMNIST

    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:1/"])
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:1/cifar.tar.gz")
    for name, files in [("FashionMNIST", "train-images-idx3-ubyte.gz, "), ("CIFAR10", "cifar-10-python.tar.gz")]:
        with pytest.raises(SourceError) as raised:
            open_source(f"torchvision:{name}:{tmp_path}", download=True)
        lines = str(raised.value).splitlines()
        assert lines[0].startswith(f"{name} can't be fetched (<urlopen error")
        assert lines[1].startswith(f"Without a network: put {files}")
        assert len(lines) == 3


def test_packed_files_alone_will_do_where_their_sums_are_right(published: Fickle, tmp_path: Path) -> None:
    raw = tmp_path / "root/MNIST/raw"
    raw.mkdir(parents=True)
    for path in (tmp_path / "published").iterdir():
        (raw / path.name).write_bytes(path.read_bytes())
    assert len(found(f"torchvision:MNIST:{tmp_path / 'root'}")) == 5
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"cut short"))
    with pytest.raises(SourceError, match="not whole"):
        open_source(f"torchvision:MNIST:{tmp_path / 'root'}")


def test_what_torch_had_pickled_beside_it_is_not_touched(published: Fickle, tmp_path: Path) -> None:
    """Early versions of torchvision kept MNIST as processed/training.pt; its class loads such a file even now."""
    processed = tmp_path / "root/MNIST/processed"
    processed.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        (processed / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert len(found(f"torchvision:MNIST:{tmp_path / 'root'}", download=True)) == 5


def test_cifar10_from_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_cifar10(tmp_path / "root", monkeypatch)
    entries = found(f"torchvision:CIFAR10:{root}")
    assert Counter(part for *_, part in entries) == {"train": 20, "test": 4}
    config = PrepConfig.of({"crop": "squash", "detector": "none", "size": 32, "split": "source"})
    prepare(f"torchvision:CIFAR10:{root}", tmp_path / "out", config, workers=1)
    faces = FaceShards(tmp_path / "out")
    wanted = np.concatenate([pictures(4, seed) for seed in range(5)])
    assert np.array_equal(np.stack([faces.pixels(i) for i in range(20)]), wanted)
    assert [faces[i][1]["label"] for i in range(8)] == [0, 1, 2, 3, 1, 2, 3, 4]
    assert np.array_equal(FaceShards(tmp_path / "out", split="test").pixels(0), pictures(4, 5)[0])


def test_cifar10_is_fetched_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    root = write_cifar10(tmp_path / "theirs", monkeypatch)
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(root / CIFAR10.base_folder, CIFAR10.base_folder)
    with Fickle(root) as server:
        monkeypatch.setattr(CIFAR10, "url", f"{server.url}/cifar-10-python.tar.gz")
        monkeypatch.setattr(CIFAR10, "tgz_md5", _md5(root / "cifar-10-python.tar.gz"))
        assert len(found(f"torchvision:CIFAR10:{tmp_path / 'ours'}", download=True)) == 24


def test_an_altered_batch_is_not_even_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_cifar10(tmp_path / "root", monkeypatch)
    (root / "cifar-10-batches-py/test_batch").write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(tmp_path / "ran"))
    with pytest.raises(SourceError, match="CIFAR10 is not whole"):
        open_source(f"torchvision:CIFAR10:{root}")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("by_columns", [False, True])
def test_a_batch_of_more_than_a_thousand_labels(tmp_path: Path, by_columns: bool) -> None:
    images, labels = pictures(1200, 3), [i % 10 for i in range(1200)]
    (tmp_path / "batch").write_bytes(batch(images, labels, by_columns))
    found_images, found_labels = read_batch(tmp_path / "batch")
    assert np.array_equal(found_images, images)
    assert found_labels == labels


def test_instructions_of_a_pickle_are_not_carried_out(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    path.write_bytes(b"cos\nsystem\n(S'touch %s'\ntR." % bytes(tmp_path / "ran"))
    with pytest.raises(ValueError, match="0 pictures and 0 labels"):
        read_batch(path)
    assert not (tmp_path / "ran").exists()


@given(cut=st.integers(0, 12_000), junk=st.binary(max_size=30))
def test_damage_is_an_error_or_changes_nothing(cut: int, junk: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    images = pictures(2, 1)
    path = tmp_path_factory.mktemp("damaged") / "batch"
    path.write_bytes(batch(images, [1, 2])[:cut] + junk)
    try:
        found_images, labels = read_batch(path)
    except ValueError:
        return
    assert found_images.shape == (len(labels), 32, 32, 3)


def test_a_dry_run_of_a_recipe_that_may_fetch_says_so(tmp_path: Path) -> None:
    done = facegan("run", "mnist-mlp", "--set", f"prep.source=torchvision:MNIST:{tmp_path / 'root'}",
                   "--to", tmp_path / "to", "--dry-run")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "MNIST is fetched where it is missing" in done.stdout
    assert list(tmp_path.iterdir()) == []
