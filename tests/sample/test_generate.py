"""Which latents are drawn, into single images and grids, and what is refused before anything is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from facegan.config import SampleConfig
from facegan.errors import CheckpointError, DiskError, FaceganError, SettingsError
from facegan.nets import NetSpec, load_generator, make_generator
from facegan.sample import (
    best_of,
    count_samples,
    write_grid,
    write_interpolation,
    write_pictures,
    write_progress,
    write_shards,
)
from facegan.sample.generate import grid, sample_images, save_png
from tests.sample.pixels import images_of, near, read_pngs


def test_image_depends_on_its_latent_alone(run: Path, tmp_path: Path) -> None:
    assert write_pictures(run, tmp_path / "a", SampleConfig(n=70, seed=3), device="cpu") == 70
    assert write_pictures(run, tmp_path / "b", SampleConfig(n=5, seed=3), device="cpu") == 5
    many, few = read_pngs(tmp_path / "a"), read_pngs(tmp_path / "b")
    assert (many[:5] == few).all()
    assert near(many, sample_images(load_generator(run), 70, seed=3).permute(0, 2, 3, 1).numpy())
    assert len({picture.tobytes() for picture in many}) == 70


def test_seeds_give_one_image_each(run: Path, tmp_path: Path) -> None:
    write_pictures(run, tmp_path / "a", SampleConfig(seeds="7, 2-4"), device="cpu")
    expected = [sample_images(load_generator(run), 1, seed)[0].permute(1, 2, 0).numpy() for seed in (7, 2, 3, 4)]
    assert near(read_pngs(tmp_path / "a"), np.stack(expected))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
def test_latents_from_a_file(suffix: str, run: Path, tmp_path: Path) -> None:
    latents = np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32)
    file = tmp_path / f"z{suffix}"
    if suffix == ".npy":
        np.save(file, latents)
    elif suffix == ".npz":
        np.savez(file, latents=latents.astype(np.float64), other=latents[0])
    else:
        save_file({"anything": latents}, file)
    assert write_pictures(run, tmp_path / "all", SampleConfig(latents=str(file)), device="cpu") == 5
    assert near(read_pngs(tmp_path / "all"), images_of(run, torch.from_numpy(latents)))
    assert count_samples(run, "out", tmp_path / "grid.png", SampleConfig(latents=str(file), n=2))[0] == 2


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (np.zeros((3, 15), np.float32), "has float32 of 3×15; this generator needs floats (N, 16)"),
        (np.zeros(16, np.float32), "of 16"),
        (np.zeros((0, 16), np.float32), "of 0×16"),
        (np.zeros((2, 16), np.int64), "has int64"),
        (np.array([[0.0] * 16, [1e300] * 16]), "row 1 has values that are not finite"),
        (np.array([["x"] * 16], dtype=object), "cannot be read"),  # pickled
    ],
)
def test_unsuitable_latents_are_refused(latents: np.ndarray, message: str, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", latents, allow_pickle=True)
    with pytest.raises(SettingsError) as error:
        write_grid(run, tmp_path / "grid.png", SampleConfig(latents=str(tmp_path / "z.npy")), device="cpu")
    assert message in str(error.value)
    assert not (tmp_path / "grid.png").exists()


def test_damaged_latent_files_are_refused(run: Path, tmp_path: Path) -> None:
    def error_of(name: str, data: bytes | None = None) -> str:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(SettingsError) as error:
            count_samples(run, "out", tmp_path / "grid.png", SampleConfig(latents=str(tmp_path / name)))
        return str(error.value)

    assert "must end in .npy, .npz or .safetensors" in error_of("z.pt", b"")
    assert "no such file" in error_of("none.npy")
    for name in ("z.npy", "z.npz", "z.safetensors"):
        assert "cannot be read" in error_of(name, b"no numbers")
    huge = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 16), }"
    assert "cannot be read" in error_of("huge.npy", huge.ljust(127) + b"\n")
    with (tmp_path / "sparse.npy").open("wb") as file:
        file.write(huge.replace(b"9999999999999", b"    900000000").ljust(127) + b"\n")
        file.truncate(128 + 64 * 900_000_000)
    assert "it has more than 8 GiB" in error_of("sparse.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 16)), b=np.zeros((2, 16)))
    assert "Name one of them 'latents'" in error_of("two.npz")


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), min_size=1, max_size=5))
def test_seeds_are_numbers_and_ranges(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    expected = tuple(number for first, more in ranges for number in range(first, first + more + 1))
    assert SampleConfig.of({"seeds": text}).seed_list == expected


@pytest.mark.parametrize("text", ["-1", "5-3", "1,,2", "1-2-3", "x", "0-99999999999", "٣"])
def test_invalid_seeds_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="--seeds"):
        SampleConfig.of({"seeds": text})


@pytest.mark.parametrize("values", [{"fps": 1e-9}, {"fps": 0}, {"n": 10**40}, {"frames": 10**9}, {"walks": 10**9}])
def test_numbers_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=f"--{next(iter(values))} "):
        SampleConfig.of(values)


@pytest.mark.parametrize(
    ("kind", "name", "values", "message"),
    [
        ("out", "a.png", {"n": 10**6}, "1,000,000 samples are too many for one picture"),
        ("training_progress", "a.png", {"n": 10**5}, "300,000 samples are too many for one picture"),
        ("training_progress", "a.png", {"n": 30_000}, "90,000 samples are too many"),  # a million pixels wide
        ("training_progress", "a.gif", {"n": 10**6}, "1,000,000 samples are too many"),
        ("interpolate", "a.gif", {"n": 10**9, "frames": 10**5}, "100,000,000,000,000 frames of 1 samples need"),
        ("interpolate", "a.webp", {"n": 10**7, "frames": 1000, "walks": 9}, "of memory as a GIF or WebP"),
    ],
)
def test_too_large_outputs_are_refused_first(
    kind: str, name: str, values: dict[str, int], message: str, run: Path, tmp_path: Path
) -> None:
    """In a dry run, too; nothing is drawn, and no folder made."""
    write = {"out": write_grid, "training_progress": write_progress, "interpolate": write_interpolation}[kind]
    out, config = tmp_path / "new" / name, SampleConfig.of(values)
    for call in (lambda: write(run, out, config, device="cpu"), lambda: count_samples(run, kind, out, config)):
        with pytest.raises(SettingsError, match=message) as error:
            call()
        assert len(str(error.value).splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.mp4"])
def test_folder_in_place_of_file(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    write = write_grid if name == "a.png" else write_interpolation
    with pytest.raises(DiskError, match=rf"{tmp_path / name} is a folder"):
        write(run, tmp_path / name, SampleConfig(n=2, frames=1), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folders_appear_complete_or_not(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for write in (write_pictures, write_shards):
        with pytest.raises(FaceganError, match="not empty"):
            write(run, tmp_path / "full", device="cpu")

    def interrupt(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("facegan.sample.images.png_bytes", interrupt)
    monkeypatch.setattr("facegan.sample.dataset.encode_image", interrupt)
    for write in (write_pictures, write_shards):
        with pytest.raises(KeyboardInterrupt):
            write(run, tmp_path / "new", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize(
    "damage", ['{"images": "../../x"}', '{"images": null}', '{"images": true}', '{"value": NaN}', "[", "[[" * 50_000]
)
def test_damaged_best_file_is_refused(damage: str, tmp_path: Path) -> None:
    best = {"metric": "swd", "value": 1.0, "images": 32}
    (tmp_path / "best.json").write_text(json.dumps(best | json.loads(damage)) if damage.startswith("{") else damage)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged"):
        best_of(tmp_path)


def test_samples_do_not_depend_on_count_or_batch() -> None:
    net = make_generator(NetSpec(size=32, width=4, latent=8)).eval()
    few, many = sample_images(net, 3, seed=1), sample_images(net, 10, seed=1, batch=4)
    assert many.shape == (10, 3, 32, 32)
    assert (few.int() - many[:3].int()).abs().max() <= 1  # kernels for other batch sizes may round otherwise


def test_grid_and_png(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    picture = grid(images, columns=3)
    assert picture.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    assert np.array_equal(picture[12:20, 2:10], images[3].permute(1, 2, 0).numpy())
    save_png(tmp_path / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)
    grey = grid(images[:, :1], columns=3)
    assert grey.shape == (22, 32, 1)
    save_png(tmp_path / "grey.png", grey)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grey.png")), grey[..., 0])
