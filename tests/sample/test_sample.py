"""What a generator draws, as files: which latents, in which order, and what stands in the files."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from facegan.config import SampleConfig
from facegan.errors import CheckpointError, DatasetError, DiskError, FaceganError, SettingsError
from facegan.nets import NetSpec, load_generator, make_generator, save_generator
from facegan.sample import (
    best_of,
    count_samples,
    write_grid,
    write_interpolation,
    write_pictures,
    write_progress,
    write_shards,
)
from facegan.sample.generate import sample_latents, to_uint8
from facegan.sample.interpolate import make_interpolation, slerp
from facegan.sample.video import find_ffmpeg
from facegan.shards.format import DatasetInfo
from facegan.shards.inspect import read_samples
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from facegan.training import sample_images
from tests.training.toy import toy_train

SPEC = NetSpec("dcgan", size=32, latent=16, width=4)
FILE = "generator.safetensors"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints: of 32, 64 and 96 images."""
    folder = tmp_path_factory.mktemp("sample") / "run"
    toy_train(folder, width=4, images=96, save_every=32)
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("grey") / FILE
    save_generator(path, make_generator(NetSpec("dcgan", size=32, channels=1, latent=16, width=4, law="uniform")))
    return path


def images_of(run: Path, latents: torch.Tensor) -> np.ndarray:
    """By hand: uint8 (N, H, W, C)."""
    with torch.inference_mode():
        return to_uint8(load_generator(run)(latents)).permute(0, 2, 3, 1).numpy()


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Channels lie last in ours, which may move a last bit, and so a pixel by one level."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def pngs(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])


def film(path: Path) -> tuple[np.ndarray, list[int]]:
    """Frames, RGB, and their durations in milliseconds."""
    with Image.open(path) as image:
        frames, durations = [], []
        for i in range(getattr(image, "n_frames", 1)):
            image.seek(i)
            frames.append(np.asarray(image.convert("RGB")))
            durations.append(image.info["duration"])
        return np.stack(frames), durations


def video(path: Path) -> np.ndarray:
    reader = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    while (read := reader.read())[0]:
        frames.append(read[1][..., ::-1])
    reader.release()
    return np.stack(frames)


def test_an_image_hangs_on_its_latent_alone(run: Path, tmp_path: Path) -> None:
    assert write_pictures(run, tmp_path / "a", SampleConfig(n=70, seed=3), device="cpu") == 70
    assert write_pictures(run, tmp_path / "b", SampleConfig(n=5, seed=3), device="cpu") == 5
    many, few = pngs(tmp_path / "a"), pngs(tmp_path / "b")
    assert (many[:5] == few).all()
    assert near(many, sample_images(load_generator(run), 70, seed=3).permute(0, 2, 3, 1).numpy())
    assert len({picture.tobytes() for picture in many}) == 70


def test_one_image_of_each_seed(run: Path, tmp_path: Path) -> None:
    write_pictures(run, tmp_path / "a", SampleConfig(seeds="7, 2-4"), device="cpu")
    for i, seed in enumerate((7, 2, 3, 4)):
        assert near(pngs(tmp_path / "a")[i], sample_images(load_generator(run), 1, seed)[0].permute(1, 2, 0).numpy())


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
    assert near(pngs(tmp_path / "all"), images_of(run, torch.from_numpy(latents)))
    assert write_pictures(run, tmp_path / "two", SampleConfig(latents=str(file), n=2), device="cpu") == 2


@pytest.mark.parametrize(
    ("latents", "said"),
    [
        (np.zeros((3, 15), np.float32), "has float32 of 3×15; this generator needs floats (N, 16)"),
        (np.zeros(16, np.float32), "of 16"),
        (np.zeros((0, 16), np.float32), "of 0×16"),
        (np.zeros((2, 16), np.int64), "has int64"),
        (np.full((2, 16), np.inf, np.float32), "row 0 has values that are not finite"),
        (np.array([[0.0] * 16, [1e300] * 16]), "row 1 has values that are not finite"),
        (np.array([["x"] * 16], dtype=object), "cannot be read"),  # pickled
    ],
)
def test_latents_that_can_not_be(latents: np.ndarray, said: str, run: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "z.npy", latents, allow_pickle=True)
    with pytest.raises(SettingsError) as error:
        write_grid(run, tmp_path / "grid.png", SampleConfig(latents=str(tmp_path / "z.npy")), device="cpu")
    assert said in str(error.value)
    assert not (tmp_path / "grid.png").exists()


def test_files_that_hold_no_latents(run: Path, tmp_path: Path) -> None:
    def said(name: str, data: bytes | None = None) -> str:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(SettingsError) as error:
            count_samples(run, "out", tmp_path / "grid.png", SampleConfig(latents=str(tmp_path / name)))
        return str(error.value)

    assert "must end in .npy, .npz or .safetensors" in said("z.pt", b"")
    assert "no such file" in said("none.npy")
    for name in ("z.npy", "z.npz", "z.safetensors"):
        assert "cannot be read" in said(name, b"no numbers")
    huge = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999999, 16), }"
    assert "cannot be read" in said("huge.npy", huge.ljust(127) + b"\n")
    with (tmp_path / "holes.npy").open("wb") as file:
        file.write(huge.replace(b"9999999999999", b"    900000000").ljust(127) + b"\n")
        file.truncate(128 + 64 * 900_000_000)
    assert "it has more than 8 GiB" in said("holes.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros((2, 16)), b=np.zeros((2, 16)))
    assert "Name one of them 'latents'" in said("two.npz")


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 3)), min_size=1, max_size=5))
def test_seeds_are_numbers_and_ranges(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    wanted = tuple(number for first, more in ranges for number in range(first, first + more + 1))
    assert SampleConfig.of({"seeds": text}).seed_list == wanted


@pytest.mark.parametrize("text", ["-1", "5-3", "1,,2", "1-2-3", "x", "0-99999999999", "٣"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(SettingsError, match="--seeds"):
        SampleConfig.of({"seeds": text})


@pytest.mark.parametrize(
    ("kind", "name", "given", "said"),
    [
        ("out", "a.png", {"n": 10**6}, "1,000,000 samples are too many for one picture"),
        ("training_progress", "a.png", {"n": 10**5}, "300,000 samples are too many for one picture"),
        ("training_progress", "a.png", {"n": 30_000}, "90,000 samples are too many"),  # a million pixels wide
        ("training_progress", "a.gif", {"n": 10**6}, "1,000,000 samples are too many"),
        ("interpolate", "a.gif", {"n": 10**9, "frames": 10**5}, "100,000,000,000,000 frames of 1 samples need"),
        ("interpolate", "a.webp", {"n": 10**7, "frames": 1000, "walks": 9}, "of memory as a GIF or WebP"),
    ],
)
def test_more_than_a_picture_or_a_film_can_hold(
    kind: str, name: str, given: dict[str, int], said: str, run: Path, tmp_path: Path
) -> None:
    """Told at once, in a dry run as well; nothing is drawn, and no folder made."""
    write = {"out": write_grid, "training_progress": write_progress, "interpolate": write_interpolation}[kind]
    out, config = tmp_path / "new" / name, SampleConfig.of(given)
    for ask in (lambda: write(run, out, config, device="cpu"), lambda: count_samples(run, kind, out, config)):
        with pytest.raises(SettingsError, match=said) as error:
            ask()
        assert len(str(error.value).splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [{"fps": 1e-9}, {"fps": 0}, {"n": 10**40}, {"frames": 10**9}, {"walks": 10**9}])
def test_numbers_that_no_film_has(given: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=rf"--{next(iter(given))} .*: it has to be"):
        SampleConfig.of(given)


def test_a_slow_film(run: Path, tmp_path: Path) -> None:
    config = SampleConfig(n=2, frames=1, fps=0.01)
    for suffix in (".gif", ".webp"):
        write_interpolation(run, tmp_path / f"slow{suffix}", config, device="cpu")
        assert film(tmp_path / f"slow{suffix}")[1] == [100_000, 100_000]


@pytest.mark.parametrize("name", ["a.png", "a.gif", "a.webp", "a.mp4"])
def test_a_folder_where_the_file_is_to_be(name: str, run: Path, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    write = write_grid if name == "a.png" else write_interpolation
    with pytest.raises(DiskError, match=rf"{tmp_path / name} is a folder, and a file is to be written there"):
        write(run, tmp_path / name, SampleConfig(n=2, frames=1), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "told",
    [
        '{"images": "../../x"}',
        '{"images": null}',
        '{"images": 32.5}',
        '{"images": true}',
        '{"value": NaN}',
        "[",
        "[[" * 50_000,
    ],
)
def test_a_best_that_can_not_be(told: str, run: Path, tmp_path: Path) -> None:
    good = {"metric": "swd", "value": 1.0, "images": 32}
    text = json.dumps(good | json.loads(told)) if told.startswith("{") else told
    (tmp_path / "best.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"best\.json can't be read"):
        best_of(tmp_path)


def test_a_dataset_of_samples(run: Path, tmp_path: Path) -> None:
    config = SampleConfig(n=70, seed=1, shard_size=32)
    info = write_shards(run, tmp_path / "a", config, device="cpu")
    write_shards(run, tmp_path / "b", config, device="cpu")
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert [shard.samples for shard in info.shards] == [32, 32, 6]
    assert info == DatasetInfo.read(tmp_path / "a")
    found = verify(tmp_path / "a", deep=True)
    assert (found.problems, found.samples) == ((), 70)
    assert info.is_generated
    assert "They are photographs of nobody" in files["README.md"].decode()
    assert "- synthetic" in files["README.md"].decode()
    assert "generated faces" in json.loads(files["croissant.json"])["description"]
    assert str(tmp_path).encode() not in b"".join(files.values())
    faces = FaceShards(tmp_path / "a")
    pictures = np.stack([faces[i][0] for i in range(len(faces))])
    assert near(pictures, sample_images(load_generator(run), 70, seed=1).permute(0, 2, 3, 1).numpy())
    first = next(iter(read_samples(tmp_path / "a", info.shards[0])))
    assert (first.meta.path, first.key, first.meta.quad[2]) == (
        "sample-000000.png",
        "sample-000000=2Epng",
        [32.0, 32.0],
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files to the collector
def test_webdataset_reads_samples(grey: Path, tmp_path: Path) -> None:
    from webdataset.compat import WebDataset

    write_shards(grey, tmp_path / "a", SampleConfig(seeds="3,3,9"), device="cpu")
    pipeline: Any = WebDataset(str(tmp_path / "a/train-000000.tar"), shardshuffle=False)  # its methods have no types
    samples = list(pipeline.decode("rgb8"))
    assert [sample["json"]["path"] for sample in samples] == [
        "sample-000000-seed-3.png",
        "sample-000001-seed-3.png",
        "sample-000002-seed-9.png",
    ]
    assert verify(tmp_path / "a", deep=True).ok
    assert DatasetInfo.read(tmp_path / "a").channels == 1


def test_photographs_are_not_added_to_samples(run: Path, portraits: Path, tmp_path: Path, models: Path) -> None:
    from facegan.prep.prepare import prepare

    write_shards(run, tmp_path / "a", SampleConfig(n=2), device="cpu")
    with pytest.raises(DatasetError, match="faces from facegan sample"):
        prepare(portraits, tmp_path / "a", workers=1)


def test_a_folder_is_whole_or_not_there(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    for write in (write_pictures, write_shards):
        with pytest.raises(FaceganError, match="not empty"):
            write(run, tmp_path / "full", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]

    def stopped(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr("facegan.sample.images.png_bytes", stopped)
    monkeypatch.setattr("facegan.sample.dataset.encode_image", stopped)
    for write in (write_pictures, write_shards):
        with pytest.raises(KeyboardInterrupt):
            write(run, tmp_path / "new", device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_slerp_against_its_closed_form() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    for share in (0.0, 0.25, 0.5, 1.0):
        wanted = [2 * math.cos(share * math.pi / 2), 2 * math.sin(share * math.pi / 2)]
        assert torch.allclose(slerp(a, b, share), torch.tensor([wanted]), atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0, 1), st.sampled_from([0.0, 1.0, -1.0, -0.5, 1 + 1e-6, -1 - 1e-6]))
def test_slerp_is_finite_and_meets_its_ends(length: int, share: float, along: float) -> None:
    """Also where the second latent lies along the first one."""
    a, b = sample_latents(2, length, length).chunk(2)
    b = a * along if along else b
    ends = slerp(a, b, 0.0), slerp(a, b, 1.0)
    assert torch.equal(ends[0], a)
    assert torch.allclose(ends[1], b, atol=1e-5)
    between = slerp(a, b, share)
    assert between.isfinite().all()
    if length > 1:  # on a line the way to the other side leads through zero
        assert between.norm() >= min(a.norm(), b.norm()) * (1 - 1e-4) / math.sqrt(2)


@pytest.mark.parametrize("law", ["normal", "sphere", "uniform", "uniform01"])
def test_a_walk_shows_its_faces_and_closes(law: str) -> None:
    spec = NetSpec("dcgan", size=32, latent=16, width=4, law=law)  # pyright: ignore[reportArgumentType] - of four
    walk = make_interpolation(SampleConfig(n=3, frames=8, walks=2), spec)
    frames = walk.rows(0, len(walk)).reshape(24, 2, 16)
    faces = sample_latents(6, 16, 0, distribution=spec.law).reshape(2, 3, 16)
    assert torch.equal(frames[::8].transpose(0, 1), faces)
    around = torch.cat([frames, frames[:1]])
    steps = (around[1:] - around[:-1]).norm(dim=2).reshape(3, 8, 2)
    assert (steps.amax(1) / steps.amin(1) < (2 if law == "normal" else 1.001)).all()
    if law == "sphere":
        assert torch.allclose(frames.norm(dim=2), torch.full((24, 2), 4.0), atol=1e-4)
    if law == "uniform01":
        assert 0 <= frames.min() <= frames.max() < 1


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_film_of_a_walk(suffix: str, run: Path, tmp_path: Path) -> None:
    out = tmp_path / f"walk{suffix}"
    made = write_interpolation(run, out, SampleConfig(n=3, frames=4, fps=24, walks=4), device="cpu")
    assert (made.samples, made.frames, made.fps) == (12, 12, 24)
    frames, durations = film(out)
    assert frames.shape == (12, 2 * 34 + 2, 2 * 34 + 2, 3)
    assert sum(durations) == 500
    shown = frames[4, 2:34, 2:34].astype(float)  # of the first walk, at its second face
    wanted = images_of(run, sample_latents(2, 16, 0))[1]
    assert np.abs(shown - wanted).mean() < 8
    write_interpolation(run, tmp_path / f"again{suffix}", SampleConfig(n=3, frames=4, fps=24, walks=4), device="cpu")
    assert out.read_bytes() == (tmp_path / f"again{suffix}").read_bytes()


def test_a_grey_gif_is_exact(grey: Path, tmp_path: Path) -> None:
    write_interpolation(grey, tmp_path / "walk.gif", SampleConfig(n=2, frames=3), device="cpu")
    frames, _ = film(tmp_path / "walk.gif")
    assert near(frames[0][..., :1], images_of(grey, sample_latents(1, 16, 0, distribution="uniform"))[0])


def test_a_gif_has_one_palette(run: Path, tmp_path: Path) -> None:
    write_interpolation(run, tmp_path / "walk.gif", SampleConfig(n=2, frames=6), device="cpu")
    frames, _ = film(tmp_path / "walk.gif")
    assert len(np.unique(frames.reshape(-1, 3), axis=0)) <= 256


def test_an_mp4(run: Path, grey: Path, tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "walk.mp4"
    write_interpolation(run, out, SampleConfig(n=2, frames=5), device="cpu")
    frames = video(out)
    assert frames.shape == (10, 32, 32, 3)
    assert np.abs(frames[5].astype(float) - images_of(run, sample_latents(2, 16, 0))[1]).mean() < 12
    write_interpolation(run, tmp_path / "again.mp4", SampleConfig(n=2, frames=5), device="cpu")
    assert out.read_bytes() == (tmp_path / "again.mp4").read_bytes()
    write_interpolation(grey, tmp_path / "grey.mp4", SampleConfig(n=2, frames=2), device="cpu")
    assert video(tmp_path / "grey.mp4").shape == (4, 32, 32, 3)


@pytest.fixture
def failing_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho 'no such encoder' >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    return program


def test_ffmpeg_that_fails_is_told_of(run: Path, tmp_path: Path, failing_ffmpeg: Path) -> None:
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(FaceganError, match="ffmpeg failed with exit code 3: no such encoder"):
        write_interpolation(run, tmp_path / "walk.mp4", SampleConfig(n=2, frames=2), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]


def test_without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SettingsError, match=r"pip install 'facegan\[video\]'"):
        find_ffmpeg()


def test_how_it_learnt(run: Path, tmp_path: Path) -> None:
    made = write_progress(run, tmp_path / "grow.gif", SampleConfig(n=4), device="cpu")
    assert (made.samples, made.frames) == (4, 3 + 1)  # the last stays for a second
    frames, durations = film(tmp_path / "grow.gif")
    assert durations[-1] >= 500
    assert (np.abs(frames[0].astype(int) - frames[1]) > 0).any()
    write_progress(run, tmp_path / "grow.png", SampleConfig(n=4, seed=2), device="cpu")
    strip = np.asarray(Image.open(tmp_path / "grow.png"))
    assert strip.shape[0] == 3 * 36
    last = sample_images(load_generator(run), 4, 2).permute(0, 2, 3, 1).numpy()
    assert near(strip[2 * 36 + 2 : 2 * 36 + 34, -34:-2], last[3])


def test_a_run_that_kept_too_little_did_not_grow(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints/000000032", tmp_path / "run/checkpoints/000000032")
    with pytest.raises(CheckpointError, match="has only one checkpoint"):
        write_progress(tmp_path / "run", tmp_path / "grow.gif", device="cpu")
    with pytest.raises(CheckpointError, match="has no checkpoints"):
        count_samples(tmp_path, "training_progress", tmp_path / "grow.gif", SampleConfig())
