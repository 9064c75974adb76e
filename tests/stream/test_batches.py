"""`FaceShards`: faces by number, the form of batches, and errors of wrong requests. Order: see test_properties."""

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


@pytest.fixture(scope="module")
def faces(dataset: Path) -> FaceShards:
    return FaceShards(dataset)


def test_face_equals_its_tar_member(faces: FaceShards, dataset: Path) -> None:
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


def test_dataloader_accepts_dataset(faces: FaceShards) -> None:
    loader = DataLoader(faces, batch_size=4, collate_fn=lambda rows: np.stack([pixels for pixels, _ in rows]))
    assert next(iter(loader)).shape == (4, 64, 64, 3)


def test_dataset_can_be_pickled(faces: FaceShards) -> None:
    copy = pickle.loads(pickle.dumps(faces))  # noqa: S301 - our own object, as a DataLoader's workers get it
    assert np.array_equal(copy[7][0], faces[7][0])


def test_batches_have_form_and_position(faces: FaceShards) -> None:
    batches = faces.batches(8, seed=3)
    batch = next(batches)
    batches.close()
    assert (batch.shape, batch.dtype) == ((8, 3, 64, 64), torch.uint8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert batches.state_dict() == {"position": 8, "fingerprint": faces.fingerprint}


def test_invalid_requests_are_refused(faces: FaceShards) -> None:
    with pytest.raises(SettingsError, match="must be positive, and 0 <= rank < world_size"):
        faces.batches(8, rank=2, world_size=2)
    with pytest.raises(SettingsError, match="must be positive, and 0 <= rank < world_size"):
        faces.batches(0)
    with pytest.raises(SettingsError, match="cannot be divided evenly by 3"):
        faces.batches(8, world_size=3)
    with pytest.raises(SettingsError, match="Did you mean 'ram'"):
        faces.batches(8, cache="rom")


def test_other_dataset_is_refused(faces: FaceShards) -> None:
    with pytest.raises(DatasetError, match="not the dataset of the saved position"):
        faces.batches(8).load_state_dict({"position": 0, "fingerprint": "other"})


def test_damaged_shards_are_noticed_at_open(dataset_copy: Path) -> None:
    shard = dataset_copy / "train-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1024])
    with pytest.raises(DatasetError, match="was cut short"):
        FaceShards(dataset_copy)
    shard.unlink()
    with pytest.raises(DatasetError, match="is missing"):
        FaceShards(dataset_copy)


def test_missing_split_is_named(dataset: Path) -> None:
    with pytest.raises(DatasetError, match="has no split 'val': it has train"):
        FaceShards(dataset, split="val")
