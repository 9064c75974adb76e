"""`FaceShards`: faces by number, the form of batches, and errors of wrong requests. Order: see test_properties."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from facegan import FaceShards
from facegan.errors import DatasetError, SettingsError
from facegan.stream import open_faces
from tests.shards.made import Made, flip, make_dataset, members


@pytest.fixture(scope="module")
def faces(dataset: Path) -> FaceShards:
    return FaceShards(dataset)


def test_face_equals_its_tar_member(faces: FaceShards, dataset: Path) -> None:
    assert len(faces) == 60
    pixels, meta = faces[25]
    assert (pixels.shape, pixels.dtype) == ((64, 64, 3), np.uint8)
    assert meta["path"] == "000026.jpg"
    png = members(dataset / "train-000001.tar")["000026.png"]
    stored = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert stored is not None
    assert np.array_equal(pixels, stored[..., ::-1])
    assert np.array_equal(faces[-1][0], faces[59][0])
    with pytest.raises(IndexError):
        faces[60]


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


def test_batches_name_their_faces(faces: FaceShards) -> None:
    batches = faces.batches(8, seed=3, rank=1, world_size=2)
    for _ in range(20):
        batch = next(batches)
        for image, number in zip(batch, batches.indices.tolist(), strict=True):
            assert np.array_equal(image.permute(1, 2, 0).numpy(), faces[number][0])
    batches.close()


def test_invalid_requests_are_refused(faces: FaceShards) -> None:
    options: dict[str, Any]
    for options, said in (
        ({"batch_size": 8, "rank": 2, "world_size": 2}, "must be positive, and 0 <= rank < world_size"),
        ({"batch_size": 0}, "must be positive, and 0 <= rank < world_size"),
        ({"batch_size": 8, "world_size": 3}, "cannot be divided evenly by 3"),
        ({"batch_size": 8, "cache": "rom"}, "Did you mean 'ram'"),
        ({"batch_size": 8, "cache": "gpu"}, "--cache gpu needs a GPU, and the device is cpu"),
    ):
        with pytest.raises(SettingsError, match=said):
            faces.batches(**options)
    for state, said in (
        ({"position": 0, "fingerprint": "other"}, "not the dataset of the saved position"),
        ({"position": -1, "fingerprint": faces.fingerprint}, "must be a whole number"),
    ):
        with pytest.raises(DatasetError, match=said):
            faces.batches(8).load_state_dict(state)


# Grey faces: batches of one channel from every cache and for every rank

PHOTOS = [Made(f"{i:02d}.jpg") for i in range(20)]


@pytest.fixture(scope="module", params=["png", "jpg", "webp"])
def grey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grey") / "out"
    return make_dataset(out, PHOTOS, size=28, channels=1, format=request.param)


@pytest.mark.parametrize("kind", ["off", "ram"])
def test_grey_batches_of_caches_and_ranks(grey: Path, cache: Path, kind: str) -> None:
    faces = FaceShards(grey)
    known = np.stack([faces.pixels(i) for i in range(len(faces))])
    whole = faces.batches(8, seed=2, cache=kind)
    taken = [next(whole) for _ in range(5)]
    whole.close()
    assert all(batch.shape == (8, 1, 28, 28) and batch.dtype == torch.uint8 for batch in taken)
    assert faces.channels == 1
    first_epoch = torch.cat(taken)[:20].permute(0, 2, 3, 1).numpy()
    assert sorted(face.tobytes() for face in first_epoch) == sorted(face.tobytes() for face in known)
    for rank in range(2):
        mine = FaceShards(grey).batches(8, seed=2, cache=kind, rank=rank, world_size=2)
        for batch in taken:
            assert torch.equal(next(mine), batch[4 * rank : 4 * rank + 4])
        mine.close()


def test_grey_webp_has_its_own_fingerprint(tmp_path: Path, cache: Path) -> None:
    """Its bytes do not determine the number of channels."""
    folder = make_dataset(tmp_path / "out", PHOTOS[:4], size=28, channels=1, format="webp")
    as_grey = FaceShards(folder)
    info = json.loads((folder / "dataset.json").read_text())
    info["settings"]["channels"] = 3
    (folder / "dataset.json").write_text(json.dumps(info))
    in_colours = FaceShards(folder)
    assert (as_grey.channels, in_colours.channels) == (1, 3)
    assert np.array_equal(np.repeat(as_grey[0][0], 3, axis=2), in_colours[0][0])
    assert as_grey.fingerprint != in_colours.fingerprint


def test_streams_without_dataset_are_rgb(grey: Path) -> None:
    faces = open_faces(f"pipe:cat {grey}/train-*.tar")
    batches = faces.batches(6)
    batch = next(batches)
    batches.close()
    assert (faces.channels, batch.shape) == (3, (6, 3, 28, 28))
    assert torch.equal(batch[:, 0], batch[:, 1])


def test_damaged_grey_face_is_reported(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "out", PHOTOS[:2], size=28, channels=1)
    flip(folder / "train-000000.tar", 512)
    with pytest.raises(DatasetError, match="is not a complete grey image of 28×28 pixels"):
        FaceShards(folder)[0]
