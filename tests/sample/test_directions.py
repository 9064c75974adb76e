"""Samples that are moved along named directions, and files of directions that are refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from facegan.config import SampleConfig
from facegan.errors import DamagedFile, SettingsError
from facegan.files import sha256_file
from facegan.nets import NetSpec
from facegan.sample import count_samples, write_pictures
from facegan.sample.directions import DIRECTIONS, Directions
from facegan.sample.latents import make_latents, sample_latents
from tests.recipes.program import facegan
from tests.sample.pixels import images_of, near, read_pngs, request


@pytest.fixture
def moved(run: Path, tmp_path: Path) -> Path:
    """A run with two directions."""
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    Directions(
        ("Smiling", "hair = 3"), torch.eye(16)[:2], torch.eye(2), sha256_file(folder / "generator.safetensors")
    ).write(folder / DIRECTIONS)
    return folder


def test_samples_move_along_names(moved: Path, tmp_path: Path) -> None:
    write_pictures(request(moved, n=3, truncation=0.5, move="Smiling=+2, hair = 3=-1.5"), tmp_path / "a")
    expected = 0.5 * sample_latents(3, 16, 0) + 2 * torch.eye(16)[0] - 1.5 * torch.eye(16)[1]
    assert near(read_pngs(tmp_path / "a"), images_of(moved, expected))
    assert facegan("sample", moved, "--move", "Smiling=1", "--n", 2, "--interpolate", tmp_path / "a.gif").code == 0
    ended = facegan("sample", moved, "--move", "Smiling=1", "--training-progress", tmp_path / "a.gif")
    assert "--move needs --out or --dir or --shards or --interpolate" in ended.stderr


def test_moved_latents_stay_in_their_distribution() -> None:
    for distribution, check in (
        ("uniform", lambda z: z.abs().max() <= 1),
        ("sphere", lambda z: (z.norm() - 4).abs() < 1e-5),
    ):
        spec = NetSpec("dcgan", 32, 1, 16, 4, distribution=distribution)
        assert check(make_latents(SampleConfig(), spec, step=3 * torch.eye(16)[0]).row(0))


def test_missing_directions_are_named(moved: Path, run: Path, tmp_path: Path) -> None:
    def refused(folder: Path, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            count_samples(request(folder, move="Smilng=1"), "out", tmp_path / "a.png")

    refused(run, SettingsError, "There is no .*directions.safetensors. Find .* facegan directions .* --shards OUT")
    refused(moved, SettingsError, r"no direction 'Smilng'\. Did you mean 'Smiling'\? There are Smiling, hair = 3\.")
    whole = Directions(("Smiling",), torch.ones(1, 16), torch.eye(1), "0" * 64)
    whole.write(moved / DIRECTIONS)
    refused(moved, SettingsError, "is of another generator")
    for damaged in (replace(whole, names=("a", "b")), replace(whole, steps=torch.ones(1, 15))):
        damaged.write(moved / DIRECTIONS)
        refused(moved, DamagedFile, "it has no directions")
    (moved / DIRECTIONS).write_bytes(b"no tensors")
    refused(moved, DamagedFile, "directions.safetensors")


@pytest.mark.parametrize("text", ["Smiling", "Smiling=", "=2", "Smiling=x", "Smiling=nan", "A=1,A=2", "A=1e9", ","])
def test_unclear_moves_are_refused(text: str, run: Path) -> None:
    with pytest.raises(SettingsError, match="write NAME=STEPS, each name once"):
        request(run, move=text)
