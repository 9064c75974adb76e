"""Grey faces: batches of one channel from every cache and for every rank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from facegan.errors import DatasetError
from facegan.stream import FaceShards, open_faces
from tests.shards.made import Made, make_dataset

PHOTOS = [Made(f"{i:02d}.jpg") for i in range(20)]


@pytest.fixture(scope="module", params=["png", "jpg", "webp"])
def grey(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("grey") / "out"
    return make_dataset(out, PHOTOS, size=28, channels=1, format=request.param)


def test_grey_face_has_one_channel(grey: Path) -> None:
    faces = FaceShards(grey)
    pixels, meta = faces[3]
    assert (faces.channels, pixels.shape, pixels.dtype) == (1, (28, 28, 1), np.uint8)
    assert meta["path"] == "03.jpg"


@pytest.mark.parametrize("kind", ["off", "ram"])
def test_grey_batches_of_caches_and_ranks(grey: Path, cache: Path, kind: str) -> None:
    faces = FaceShards(grey)
    known = np.stack([faces.pixels(i) for i in range(len(faces))])
    whole = faces.batches(8, seed=2, cache=kind)
    taken = [next(whole) for _ in range(5)]
    whole.close()
    assert all(batch.shape == (8, 1, 28, 28) and batch.dtype == torch.uint8 for batch in taken)
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
    data = bytearray((folder / "train-000000.tar").read_bytes())
    data[512:520] = bytes(8)
    (folder / "train-000000.tar").write_bytes(data)
    with pytest.raises(DatasetError, match="is not a complete grey image of 28×28 pixels"):
        FaceShards(folder)[0]
