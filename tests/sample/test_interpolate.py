"""Interpolations and training progress, as latents and as files."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facegan.config import LatentDistribution, SampleConfig
from facegan.errors import CheckpointError, FaceganError, SettingsError
from facegan.nets import NetSpec
from facegan.sample import count_samples, write_interpolation, write_progress
from facegan.sample.interpolate import make_interpolation, slerp
from facegan.sample.latents import sample_latents
from facegan.sample.video import find_ffmpeg
from tests.sample.pixels import images_of, near, request


def read_animation(path: Path) -> tuple[np.ndarray, list[int]]:
    """Frames, RGB, and their durations in milliseconds."""
    with Image.open(path) as image:
        frames, durations = [], []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return np.stack(frames), durations


def read_video(path: Path) -> np.ndarray:
    reader = cv2.VideoCapture(str(path))
    frames = [frame[..., ::-1] for _, frame in iter(reader.read, (False, None))]
    reader.release()
    return np.stack(frames)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from([0.0, 1.0, -1.0, -0.5, 1 + 1e-6, -1 - 1e-6]))
def test_slerp_is_finite_and_meets_ends(length: int, t: float, scale: float) -> None:
    """Also for parallel and opposite latents."""
    a, b = sample_latents(2, length, length).chunk(2)
    b = a * scale if scale else b
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.allclose(slerp(a, b, 1.0), b, atol=1e-5)
    assert slerp(a, b, t).isfinite().all()
    circle = torch.tensor([[2 * math.cos(t * math.pi / 2), 2 * math.sin(t * math.pi / 2)]])
    assert torch.allclose(slerp(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]]), t), circle, atol=1e-6)


@pytest.mark.parametrize("distribution", ["normal", "sphere", "uniform", "uniform01"])
def test_interpolation_meets_keyframes_and_closes(distribution: LatentDistribution) -> None:
    spec = NetSpec("dcgan", size=32, latent=16, width=4, distribution=distribution)
    walk = make_interpolation(SampleConfig(n=3, frames=8, walks=2), spec, Path("a.gif"))
    frames = walk.rows(0, walk.count).reshape(24, 2, 16)
    faces = sample_latents(6, 16, 0, distribution=spec.distribution).reshape(2, 3, 16)
    assert torch.equal(frames[::8].transpose(0, 1), faces)
    around = torch.cat([frames, frames[:1]])
    steps = (around[1:] - around[:-1]).norm(dim=2).reshape(3, 8, 2)
    assert (steps.amax(1) / steps.amin(1) < (2 if distribution == "normal" else 1.001)).all()
    if distribution == "sphere":
        assert torch.allclose(frames.norm(dim=2), torch.full((24, 2), 4.0), atol=1e-4)
    if distribution == "uniform01":
        assert 0 <= frames.min() <= frames.max() < 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animation_of_several_walks(suffix: str, run: Path, grey: Path, tmp_path: Path) -> None:
    out, slow = tmp_path / f"out{suffix}", tmp_path / f"slow{suffix}"
    made = write_interpolation(request(run, n=3, frames=4, fps=24, walks=4), out)
    assert (made.samples, made.frames, made.fps) == (12, 12, 24)
    frames, durations = read_animation(out)
    assert frames.shape == (12, 2 * 34 + 2, 2 * 34 + 2, 3)
    assert sum(durations) == 500
    assert suffix != ".gif" or len(np.unique(frames.reshape(-1, 3), axis=0)) <= 256
    second = images_of(run, sample_latents(2, 16, 0))[1]  # of the first walk
    assert np.abs(frames[4, 2:34, 2:34] - second.astype(float)).mean() < 8
    net = grey if suffix == ".gif" else run  # WebP joins frames as alike as those of the untrained net
    write_interpolation(request(net, n=2, frames=1, fps=0.01), slow)
    frames, durations = read_animation(slow)
    assert durations == [100_000, 100_000]
    first = images_of(grey, sample_latents(1, 16, 0, distribution="uniform"))[0]
    assert suffix != ".gif" or near(frames[0][..., :1], first)


def test_mp4_is_reproducible(run: Path, grey: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    for name in ("a.mp4", "b.mp4"):
        write_interpolation(request(run, n=2, frames=5), tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert (frames := read_video(tmp_path / "a.mp4")).shape == (10, 32, 32, 3)
    assert np.abs(frames[5].astype(float) - images_of(run, sample_latents(2, 16, 0))[1]).mean() < 12
    write_interpolation(request(grey, n=2, frames=2), tmp_path / "grey.mp4")
    assert read_video(tmp_path / "grey.mp4").shape == (4, 32, 32, 3)


def test_failing_ffmpeg_is_reported(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imageio_ffmpeg")
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'no such encoder' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(FaceganError, match="ffmpeg failed with exit code 3: no such encoder"):
        write_interpolation(request(run, n=2, frames=200), tmp_path / "walk.mp4")  # more than a pipe holds
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_missing_ffmpeg_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match=r"pip install 'facegan\[video\]'"):
        find_ffmpeg()


def test_progress_shows_every_checkpoint(run: Path, tmp_path: Path) -> None:
    made = write_progress(request(run, n=1), tmp_path / "progress.gif")
    assert (made.samples, made.frames) == (1, 3 + 1)  # the last stays for a second
    frames, durations = read_animation(tmp_path / "progress.gif")
    assert durations[-1] >= 500
    assert (np.abs(frames[0].astype(int) - frames[1]) > 0).any()
    write_progress(request(run, n=4, seed=2), tmp_path / "progress.png")
    picture = np.asarray(Image.open(tmp_path / "progress.png"))
    assert picture.shape[0] == 3 * 36
    assert near(picture[2 * 36 + 2 : 2 * 36 + 34, -34:-2], images_of(run, sample_latents(4, 16, 2))[3])
    shutil.copytree(run / "checkpoints/000000032", tmp_path / "run/checkpoints/000000032")
    with pytest.raises(CheckpointError, match="has only one checkpoint"):
        write_progress(request(tmp_path / "run"), tmp_path / "a.gif")
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        count_samples(request(tmp_path), "training_progress", tmp_path / "a.gif")
