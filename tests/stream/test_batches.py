"""`FaceShards`: faces by number, and batches that are a pure function of (dataset, seed, position)."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from facegan import FaceShards
from facegan.errors import DatasetError, SettingsError


def take(faces: FaceShards, count: int, **options) -> list[torch.Tensor]:
    batches = faces.batches(**{"batch_size": 8, "seed": 3, **options})
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def faces(dataset: Path) -> FaceShards:
    return FaceShards(dataset)


def test_a_face_by_number_is_what_the_tar_holds(faces: FaceShards, dataset: Path) -> None:
    assert len(faces) == 60
    pixels, meta = faces[25]
    assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)
    assert meta["path"] == "000026.jpg"
    with tarfile.open(dataset / "train-000001.tar") as tar:
        file = tar.extractfile("000026.png")
        assert file is not None
        stored = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR)
    assert stored is not None
    assert np.array_equal(pixels, stored[..., ::-1])
    assert np.array_equal(faces[-1][0], faces[59][0])
    with pytest.raises(IndexError):
        faces[60]


def test_any_dataloader_takes_it(faces: FaceShards) -> None:
    loader = DataLoader(faces, batch_size=4, collate_fn=lambda rows: np.stack([pixels for pixels, _ in rows]))
    assert next(iter(loader)).shape == (4, 64, 64, 3)


def test_it_travels_to_other_processes(faces: FaceShards) -> None:
    copy = pickle.loads(pickle.dumps(faces))  # noqa: S301 - our own object, as a DataLoader's workers get it
    assert np.array_equal(copy[7][0], faces[7][0])


def test_batches_are_uint8_nchw(faces: FaceShards) -> None:
    batch = take(faces, 1)[0]
    assert (batch.shape, batch.dtype) == ((8, 3, 64, 64), torch.uint8)
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_shows_every_face_once(faces: FaceShards) -> None:
    shown = torch.cat(take(faces, 6, batch_size=10)).flatten(1)
    everything = torch.stack([torch.from_numpy(faces[i][0]).permute(2, 0, 1) for i in range(60)]).flatten(1)
    order = [int((everything == row).all(dim=1).nonzero()[0, 0]) for row in shown]
    assert sorted(order) == list(range(60))
    assert order != sorted(order)


def test_the_cache_changes_nothing(faces: FaceShards) -> None:
    assert same(take(faces, 20, cache="ram"), take(faces, 20, cache="off"))
    assert not same(take(faces, 20), take(faces, 20, seed=4))


def test_resuming_continues_the_very_sequence(faces: FaceShards) -> None:
    whole = take(faces, 20)
    first = faces.batches(8, seed=3)
    for _ in range(7):
        next(first)
    for cache in ("ram", "off"):
        second = faces.batches(8, seed=3, cache=cache)
        second.load_state_dict(first.state_dict())
        assert same([next(second) for _ in range(13)], whole[7:])
    assert first.state_dict() == {"position": 56, "fingerprint": faces.fingerprint}


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_a_batch_without_overlap(faces: FaceShards, world_size: int) -> None:
    ranks = [take(faces, 9, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert same([torch.cat(parts) for parts in zip(*ranks, strict=True)], take(faces, 9))


def test_bad_requests_get_sentences(faces: FaceShards) -> None:
    with pytest.raises(SettingsError, match="must be positive, and 0 <= rank < world_size"):
        faces.batches(8, rank=2, world_size=2)
    with pytest.raises(SettingsError, match="must be positive, and 0 <= rank < world_size"):
        faces.batches(0)
    with pytest.raises(SettingsError, match="cannot be divided evenly by 3"):
        faces.batches(8, world_size=3)
    with pytest.raises(SettingsError, match="Did you mean 'ram'"):
        faces.batches(8, cache="rom")


def test_another_dataset_is_refused(faces: FaceShards) -> None:
    with pytest.raises(DatasetError, match="not the dataset of the saved position"):
        faces.batches(8).load_state_dict({"position": 0, "fingerprint": "other"})


def test_a_shard_altered_or_gone_is_noticed_at_open(dataset_copy: Path) -> None:
    shard = dataset_copy / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    with pytest.raises(DatasetError, match="was cut short"):
        FaceShards(dataset_copy)
    shard.unlink()
    with pytest.raises(DatasetError, match="is missing"):
        FaceShards(dataset_copy)


def test_a_split_that_is_not_there(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="has no split 'val': it has train"):
        FaceShards(dataset, split="val")
