"""Damaged shards and images: an error that names them, or with skip_broken a count, a warning and other faces."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from facegan.errors import DatasetError
from facegan.shards.images import decode_into, encode_image
from facegan.stream import FaceShards
from tests.recording import RecordingConsole
from tests.shards.made import members, reseal, rewrite

Numbers = Callable[[torch.Tensor], list[int]]


@pytest.fixture
def copy(made: Path, tmp_path: Path, cache: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "out"))


def epoch(faces: FaceShards, numbers: Numbers, cache: str = "off") -> list[int]:
    batches, taken = faces.batches(10, cache=cache), list[int]()
    for _ in range(3):
        taken += numbers(next(batches))
        assert batches.indices.tolist() == taken[-10:]  # of the faces that are shown, not of damaged ones
    batches.close()
    return taken


def damage(folder: Path, face: int, data: Callable[[bytes], bytes]) -> None:
    """Change the image of a face of shard 1, whose first face is 6, and update dataset.json."""
    shard = folder / "train-000001.tar"
    files = members(shard)
    name = [name for name in files if name.endswith(".png")][face - 6]
    rewrite(shard, {**files, name: data(files[name])})
    reseal(folder)


PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
DAMAGE = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:1000],
    "no image": lambda data: b"x" * len(data),
    "a pixel": lambda data: data[:500] + bytes([data[500] ^ 4]) + data[501:],
    "another size": lambda data: encode_image(PICTURE, "png"),
    "a cut JPEG": lambda data: encode_image(PICTURE[:28, :28], "jpg")[:-200],
    "a JPEG of another size": lambda data: encode_image(PICTURE, "jpg"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_image_is_named_or_skipped(copy: Path, numbers: Numbers, how: str, capfd) -> None:
    damage(copy, 8, DAMAGE[how])
    faces = FaceShards(copy)
    with pytest.raises(DatasetError, match=r"Sample 2 of .*train-000001.tar is not a complete image of 28×28 pixels"):
        epoch(faces, numbers)
    heard = RecordingConsole()
    for kind in ("off", "ram"):
        faces = FaceShards(copy, skip_broken=True, console=heard)
        taken = epoch(faces, numbers, kind)
        assert sorted(taken) == sorted([9, *range(8), *range(9, 30)])
        assert faces.skipped == 1
    assert len(heard.warnings) == 2
    assert heard.warnings[0].endswith("With --skip-broken this face is left out.")


def test_failed_decoding_leaves_output_untouched() -> None:
    """A cache's memory is shared: another thread may have stored a replacement there, or be copying it."""
    out = np.full((28, 28, 3), 7, np.uint8)
    for change in DAMAGE.values():
        assert not decode_into(memoryview(change(encode_image(PICTURE[:28, :28], "png"))), out)
        assert (out == 7).all()


@pytest.mark.parametrize("how", ["gone", "cut"])
def test_missing_or_truncated_local_shard(copy: Path, numbers: Numbers, how: str) -> None:
    shard = copy / "train-000004.tar"
    if how == "gone":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DatasetError, match="is missing" if how == "gone" else "was cut short"):
        FaceShards(copy)
    heard = RecordingConsole()
    faces = FaceShards(copy, skip_broken=True, console=heard)
    assert sorted(epoch(faces, numbers)) == sorted([0, 1, 2, *range(27)])  # the next shard is the first one
    assert faces.skipped == 3
    assert len(heard.warnings) == 1
    assert len(faces) == 30


def test_no_intact_shard_is_left(copy: Path) -> None:
    for shard in copy.glob("*.tar"):
        shard.unlink()
    with pytest.raises(DatasetError, match="Every face is damaged"):
        FaceShards(copy, skip_broken=True)


def test_shard_deleted_during_a_run(copy: Path, numbers: Numbers) -> None:
    faces = FaceShards(copy)
    (copy / "train-000002.tar").unlink()
    with pytest.raises(DatasetError, match=r"train-000002.tar is missing. It existed when the dataset was opened"):
        epoch(faces, numbers)
