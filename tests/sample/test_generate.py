"""Which latents are drawn, into single images and grids, and what is refused before anything is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

from facegan import sample
from facegan.config import SampleConfig
from facegan.errors import DiskError, SettingsError
from facegan.sample.generate import grid, save_png
from facegan.sample.latents import sample_latents
from tests.sample.pixels import images_of, near, read_pngs, request


def test_image_depends_on_its_latent_alone(run: Path, tmp_path: Path) -> None:
    assert sample.write_pictures(request(run, n=70, seed=3), tmp_path / "a") == 70
    assert sample.write_pictures(request(run, n=5, seed=3), tmp_path / "b") == 5
    many, few = read_pngs(tmp_path / "a"), read_pngs(tmp_path / "b")
    assert (many[:5] == few).all()
    assert near(many, images_of(run, sample_latents(70, 16, 3)))
    assert len({picture.tobytes() for picture in many}) == 70
    sample.write_pictures(request(run, seeds="7, 2-4,5-5"), tmp_path / "c")
    first = torch.cat([sample_latents(1, 16, seed) for seed in (7, 2, 3, 4, 5)])
    assert near(read_pngs(tmp_path / "c"), images_of(run, first))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_latents_from_a_file(suffix: str, run: Path, tmp_path: Path) -> None:
    latents, file = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32), tmp_path / f"z{suffix}"
    if suffix == ".npy":
        np.save(file, latents)
    elif suffix == ".npz":
        np.savez(file, latents=latents.astype(np.float64), other=latents[0])
    else:
        save_file({"anything": latents}, file)
    assert sample.write_pictures(request(run, latents=str(file)), tmp_path / "all") == 5
    assert near(read_pngs(tmp_path / "all"), images_of(run, torch.from_numpy(latents)))
    assert sample.count_samples(request(run, latents=str(file), n=2), "out", tmp_path / "grid.png")[0] == 2


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((3, 15), np.float32), "has float32 of (3, 15); this generator needs floats (N, 16)"),
        (np.zeros((0, 16), np.float32), "of (0, 16)"),
        (np.zeros((2, 16), np.int64), "has int64"),
        (np.array([[0.0] * 16, [1e300] * 16]), "row 1 has values that are not finite"),
        (np.array([["x"] * 16], dtype=object), "cannot be read"),  # pickled
    ],
)
def test_unsuitable_latents_are_refused(latents: np.ndarray, message: str, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", latents, allow_pickle=True)
    with pytest.raises(SettingsError) as error:
        sample.write_grid(request(run, latents=str(tmp_path / "z.npy")), tmp_path / "grid.png")
    assert message in str(error.value)
    assert not (tmp_path / "grid.png").exists()


def test_damaged_latent_files_are_refused(run: Path, tmp_path: Path) -> None:
    def error_of(name: str, data: bytes | None = None) -> str:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(SettingsError) as error:
            sample.count_samples(request(run, latents=str(tmp_path / name)), "out", tmp_path / "grid.png")
        return str(error.value)

    assert "must end in .npy, .npz or .safetensors" in error_of("z.pt", b"")
    assert "No such file" in error_of("none.npy")
    for name in ("z.npy", "z.npz", "z.safetensors"):
        assert "cannot be read" in error_of(name, b"no numbers")
    huge = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 16), }"
    assert "cannot be read" in error_of("huge.npy", huge.ljust(127) + b"\n")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 16)), b=np.zeros((2, 16)))
    assert "Name one of them 'latents'" in error_of("two.npz")


@pytest.mark.parametrize("text", ["-1", "5-3", "1,,2", "1-2-3", "x", "0-99999999999", "٣"])
def test_invalid_seeds_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--seeds"):
        SampleConfig.of({"seeds": text})


@pytest.mark.parametrize(
    ("kind", "name", "values", "message"),
    [
        ("out", "a.png", {"n": 10**6}, "1,000,000 samples are too many for one picture"),
        ("training_progress", "a.png", {"n": 30_000}, "90,000 samples are too many"),  # a million pixels wide
        ("training_progress", "a.gif", {"n": 10**6}, "1,000,000 samples are too many"),
        ("interpolate", "a.gif", {"n": 10**9, "frames": 10**5}, "100,000,000,000,000 frames of 1 samples need"),
    ],
)
def test_too_large_outputs_are_refused(
    kind: str, name: str, values: dict[str, int], message: str, run: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        sample.count_samples(request(run, **values), kind, tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.mp4"])
def test_folder_in_place_of_file(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    write = sample.write_grid if name == "a.png" else sample.write_interpolation
    with pytest.raises(DiskError, match=rf"{tmp_path / name} is a folder"):
        write(request(run, n=2, frames=1), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("write", [sample.write_pictures, sample.write_shards])
def test_folders_appear_complete_or_not(
    write: Callable[[sample.SampleRequest, Path], object], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("facegan.sample.write.png_bytes", interrupt)
    monkeypatch.setattr("facegan.sample.write.encode_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(request(run), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("channels", [3, 1])
def test_grid_becomes_a_png(channels: int, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, channels, 8, 8), dtype=torch.uint8)
    picture = grid(images, columns=3)
    assert picture.shape == (2 * 10 + 2, 3 * 10 + 2, channels)
    assert np.array_equal(picture[12:20, 2:10], images[3].permute(1, 2, 0).numpy())
    save_png(tmp_path / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture.squeeze())


def test_truncation_scales_normal_latents(run: Path, grey: Path, tmp_path: Path) -> None:
    sample.write_pictures(request(run, n=3, seed=5, truncation=0.5), tmp_path / "a")
    assert near(read_pngs(tmp_path / "a"), images_of(run, 0.5 * sample_latents(3, 16, 5)))
    info = sample.write_shards(request(run, n=2, truncation=0.5), tmp_path / "b")
    assert info.settings["generated"]["truncation"] == 0.5
    assert "truncation" not in sample.write_shards(request(run, n=2), tmp_path / "c").settings["generated"]
    with pytest.raises(SettingsError, match=r"--truncation 0\.7 needs normal latents, .* are uniform\. Leave it out"):
        sample.count_samples(request(grey, truncation=0.7), "out", tmp_path / "grid.png")
    for wrong, rule in ((0, "greater than 0"), (1.5, "less than or equal to 1")):
        with pytest.raises(SettingsError, match=f"--truncation {wrong} must be {rule}"):
            request(run, truncation=wrong)
