"""Samples of conditional generators: drawn as among the faces, or with the attributes that are asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facegan.config import SampleConfig
from facegan.errors import SettingsError
from facegan.nets import Condition, NetSpec, make_generator, save_generator
from facegan.sample import count_samples, write_interpolation, write_pictures, write_shards
from facegan.sample.generate import sample_images
from facegan.sample.interpolate import make_interpolation
from facegan.sample.latents import contrast_inputs, make_latents, sample_inputs, sample_latents
from facegan.shards.verify import verify
from facegan.stream import FaceShards
from tests.sample.pixels import images_of, near, read_pngs, request

BINARY = Condition(("Eyeglasses", "Male"), 0, ((-1, -1), (-1, 1), (1, 1)), (50, 30, 20))
CLASSES = Condition(("digit",), 4, ((0,), (2,), (3,)), (10, 20, 70))
SPECS = {
    "conditional": NetSpec("dcgan", 32, 1, latent=16, width=4, condition=BINARY),
    "digits": NetSpec("dcgan-fc", 32, 1, latent=16, width=4, norm="none", condition=CLASSES),
}


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of generators with random weights."""
    folder = tmp_path_factory.mktemp("conditions")
    for name, spec in SPECS.items():
        save_generator(folder / f"{name}.safetensors", make_generator(spec))
    return {name: folder / f"{name}.safetensors" for name in SPECS}


def codes_of(spec: NetSpec, n: int = 300, **settings: Any) -> torch.Tensor:
    return make_latents(SampleConfig.of(settings), spec).rows(0, n)[:, spec.latent :]


def test_samples_follow_the_real_distribution() -> None:
    spec = SPECS["conditional"]
    inputs = sample_inputs(spec, 300, 7)
    assert torch.equal(inputs[:, :16], sample_latents(300, 16, 7))
    assert torch.equal(inputs[100:110], sample_inputs(spec, 10, 7, first=100))
    assert torch.equal(inputs, make_latents(SampleConfig(seed=7), spec).rows(0, 300))
    assert (inputs[:, 16:] == torch.tensor([1, 1])).all(1).double().mean().item() == pytest.approx(0.2, abs=0.07)
    assert torch.equal(make_latents(SampleConfig(seeds="7,9"), spec).row(1), sample_inputs(spec, 1, 9))


def test_attributes_are_asked_for(tmp_path: Path) -> None:
    spec = SPECS["conditional"]
    assert set(map(tuple, codes_of(spec, with_="Male").tolist())) == {(-1, 1), (1, 1)}
    assert set(map(tuple, codes_of(spec, without="Eyeglasses").tolist())) == {(-1, -1), (-1, 1)}
    assert set(map(tuple, codes_of(spec, with_="Eyeglasses", without="Male").tolist())) == {(1, -1)}
    assert codes_of(SPECS["digits"], class_=2).tolist() == [[0, 0, 1, 0]] * 300
    np.save(tmp_path / "z.npy", latents := np.random.default_rng(0).standard_normal((5, 16)).astype(np.float32))
    rows = make_latents(SampleConfig(latents=str(tmp_path / "z.npy"), with_="Eyeglasses"), spec).rows(0, 5)
    assert np.array_equal(rows[:, :16], latents)
    assert rows[:, 16:].tolist() == [[1, 1]] * 5


def test_files_show_what_was_asked(nets: dict[str, Path], tmp_path: Path) -> None:
    write_pictures(request(nets["conditional"], n=5, with_="Eyeglasses", seed=3), tmp_path / "faces")
    expected = torch.cat([sample_latents(5, 16, 3), torch.ones(5, 2)], 1)
    assert near(read_pngs(tmp_path / "faces")[..., None], images_of(nets["conditional"], expected))


def test_dataset_has_the_asked_attributes(nets: dict[str, Path], tmp_path: Path) -> None:
    info = write_shards(request(nets["conditional"], n=40, shard_size=16, without="Eyeglasses"), tmp_path / "a")
    assert verify(tmp_path / "a", deep=True).problems == ()
    assert info.settings["generated"]["without"] == "Eyeglasses"
    assert "attributes that no sample was to have" in (tmp_path / "a/README.md").read_text()
    faces = FaceShards(tmp_path / "a")
    codes = codes_of(SPECS["conditional"], 40, without="Eyeglasses")
    table = faces.attributes()
    assert table.column("Eyeglasses").to_pylist() == [False] * 40
    assert table.column("Male").to_pylist() == (codes[:, 1] > 0).tolist()
    assert faces[3][1]["attributes"] == {"Eyeglasses": -1, "Male": int(codes[3, 1])}
    write_shards(request(nets["digits"], n=20), tmp_path / "b")
    digits = FaceShards(tmp_path / "b").attributes(["digit"]).column("digit").to_pylist()
    assert digits == codes_of(SPECS["digits"], 20).argmax(1).tolist()
    hostile = replace(SPECS["conditional"], condition=replace(BINARY, names=("path", "Male")))
    save_generator(tmp_path / "hostile.safetensors", make_generator(hostile))
    with pytest.raises(SettingsError, match="attribute path is a column of every dataset"):
        write_shards(request(tmp_path / "hostile.safetensors", n=2), tmp_path / "c")


def test_one_attribute_moves_along_a_walk(nets: dict[str, Path], tmp_path: Path) -> None:
    config = SampleConfig(n=2, frames=4, along="Eyeglasses", walks=2)
    walk = make_interpolation(config, SPECS["conditional"], Path("a.gif"))
    frames = walk.rows(0, walk.count).reshape(-1, 2, 18)  # frames, walks
    assert len(frames) == 16
    z, glasses = frames[..., :16], frames[:, 0, 16]
    assert glasses.tolist() == [-1, -0.5, 0, 0.5, 1, 1, 1, 1, 1, 0.5, 0, -0.5, -1, -1, -1, -1]
    assert torch.equal(z[0:5], z[:1].expand(5, -1, -1))  # the face stays
    assert torch.equal(z[8:13], z[8:9].expand(5, -1, -1))
    assert torch.equal(frames[0, :, :16], sample_latents(4, 16, 0)[[0, 2]])
    assert torch.equal(frames[:5, 0, 17], frames[:1, 0, 17].expand(5))  # so does the other attribute
    made = write_interpolation(request(nets["conditional"], n=1, frames=3, along="Male"), tmp_path / "a.gif")
    assert (made.samples, made.frames) == (2, 6)
    classes = make_interpolation(SampleConfig(n=1, frames=2, along="digit"), SPECS["digits"], Path("a.gif"))
    assert classes.rows(0, 6)[::2, 16:].tolist() == torch.eye(4)[[0, 2, 3]].tolist()  # those of faces


def test_plain_walk_interpolates_conditions() -> None:
    walk = make_interpolation(SampleConfig(n=4, frames=2), SPECS["conditional"], Path("a.gif"))
    keyframes = sample_inputs(SPECS["conditional"], 4, 0)
    frames = walk.rows(0, 8)
    assert torch.equal(frames[::2], keyframes)
    assert torch.allclose(frames[1::2, 16:], (keyframes[:, 16:] + keyframes.roll(-1, 0)[:, 16:]) / 2)


@pytest.mark.parametrize(
    ("condition", "titles"),
    [
        (BINARY, ["with Eyeglasses", "without Eyeglasses", "with Male", "without Male"]),
        (Condition(tuple("abcde"), 0, ((1,) * 5, (-1,) * 5), (1, 1)), [f"with {name}" for name in "abcde"]),
        (CLASSES, ["digit 0", "digit 2", "digit 3"]),
        (Condition(("n",), 1000, tuple((i,) for i in range(1000)), (1,) * 1000), [f"n {i}" for i in range(8)]),
    ],
)
def test_grids_contrast_equal_latents(condition: Condition, titles: list[str]) -> None:
    assert list(condition.contrasts()) == titles
    spec = replace(SPECS["conditional"], condition=condition)
    rows = contrast_inputs(spec, 0, 8).reshape(len(titles), 8, spec.inputs)
    assert torch.equal(rows[..., :16], sample_latents(8, 16, 0).expand(len(titles), 8, 16))
    for row, (name, value) in zip(rows, condition.contrasts().values(), strict=True):
        assert condition.values_of(row[:, 16:])[name] == [value] * 8


@pytest.mark.parametrize(
    ("net", "settings", "message"),
    [
        (
            "plain",
            {"with_": "Male"},
            "--with Male needs a generator that was trained with --condition, and this one was",
        ),
        ("plain", {"along": "Male"}, "--along Male needs a generator that was trained with --condition"),
        (
            "conditional",
            {"with_": "Mail"},
            r"knows no attribute 'Mail': its condition is Eyeglasses or Male\. Did you mean 'Male'",
        ),
        ("conditional", {"along": "Smiling"}, "knows no attribute 'Smiling'"),
        ("conditional", {"with_": "male"}, "Did you mean 'Male'"),
        (
            "conditional",
            {"class_": 0},
            r"--class 0 cannot be used here: the generator knows Eyeglasses,Male\. Use --with and",
        ),
        (
            "digits",
            {"without": "digit"},
            r"--without digit cannot .* knows digit of 4 classes\. Use --class with one of 0, 2, 3\.",
        ),
        ("digits", {"class_": 4}, r"--class 4: no face .* digit had the classes 0, 2, 3\."),
    ],
)
def test_impossible_attributes_are_refused(
    nets: dict[str, Path], grey: Path, net: str, settings: dict[str, Any], message: str
) -> None:
    for kind in ("out", "interpolate"):
        with pytest.raises(SettingsError, match=message):
            count_samples(request(nets.get(net, grey), **settings), kind, Path("a.gif"))


def test_contradicting_attributes_are_refused() -> None:
    with pytest.raises(SettingsError, match="--with and --without both name Male"):
        SampleConfig.of({"with_": "Eyeglasses,Male", "without": "Male"})
    with pytest.raises(SettingsError, match="--with , has no names"):
        SampleConfig.of({"with_": ","})


def test_evaluation_draws_natural_conditions() -> None:
    generator = make_generator(SPECS["conditional"]).eval()
    with torch.inference_mode():
        expected = ((generator(sample_inputs(SPECS["conditional"], 70, 5)) + 1) * 127.5).round().byte()
    difference = (sample_images(generator, 70, 5).int() - expected.int()).abs()
    assert difference.max() <= 1
