"""Each recipe learns four kinds of drawn pictures in a few hundred steps, and the measure detects those that do not.

N pictures, C channels, H height, W width.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from facegan.config import PrepConfig, TrainConfig
from facegan.nets import PAIRS, load_generator
from facegan.recipes.recipe import packaged_recipes, read_recipe
from facegan.training import sample_images, train
from tests.tensor_faces import TensorFaces

# Which quarter of the picture is lit, in which colour (RGB; grey pictures use green), on a dark ground. The modes are
# mirror images of themselves, so that a recipe's random flips change none.
MODES = {"middle": (250, 230, 110), "top": (110, 230, 250), "bottom": (250, 230, 230), "sides": (140, 230, 140)}
GROUND = (40, 30, 60)
PICTURES, SAMPLES = 1024, 512
COVERED = 0.05  # a mode counts as covered from this share of the samples on
# What a few hundred steps need: the smallest size, narrow nets, high rates, short lengths.
SIZES = {"resnet": 32}
WIDTHS = {"dcgan": 16, "dcgan-fc": 16, "dcgan-pool": 8, "mnist-conv": 16, "mlp": 64, "resnet": 8, "began": 8}
WIDTHS |= {"r3gan": 8}
STEPS, STEPS_OF = 250, {"mlp": 600, "dcgan-pool": 350, "began": 300, "resnet": 400, "r3gan": 150}
STEPS_OF |= {"max-likelihood": 400, "wgan": 300, "linear": 400, "cosine": 400}
RATE, RATES = 2e-3, {"mlp": 2e-4, "r3gan": 4e-3}  # unless the recipe's are as high: twice those of `fast` collapse


def draw_pictures(count: int, size: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W), and the mode of each, int64 (N,). Modes alternate."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    centre, scale = (size - 1) / 2, size / 2
    pictures = np.empty((count, channels, size, size), np.uint8)
    for number in range(count):
        down, right = rng.integers(-1, 2, 2)
        light = _light(number % len(MODES), (x - centre - right) / scale, (y - centre - down) / scale)
        colours = [*MODES.values()][number % len(MODES)], GROUND
        lit, ground = (np.array(colour if channels == 3 else colour[1:2])[:, None, None] for colour in colours)
        picture = ground + light * (lit - ground)
        picture = 127.5 + (picture - 127.5) * rng.uniform(0.7, 1) + rng.normal(0, 1, picture.shape)
        pictures[number] = picture.round().clip(0, 255)
    return torch.from_numpy(pictures), torch.arange(count) % len(MODES)


def _light(mode: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """0 … 1, with soft edges; u points right and v down, ±1 at the borders."""
    top, bottom, sides = (1 / (1 + np.exp(-each / 0.08)) for each in (-0.5 - v, v - 0.5, np.abs(u) - 0.5))
    between = 1 - top - bottom
    return (between * (1 - sides), top, bottom, between * sides)[mode]


@dataclass(frozen=True)
class Closeness:
    """Mean distances to the nearest real picture, each picture brought to mean 0 and variance 1.

    A discriminator with batch norm hardly sees contrast, so a generator learns shapes long before their contrast.
    """

    distance: float  # of the samples
    shuffled: float  # of pictures whose every pixel comes from another real picture: right pixels, no shape
    modes: dict[str, float]  # shares of samples closer to a picture of that mode than two modes are to each other

    @property
    def covered(self) -> set[str]:
        return {mode for mode, share in self.modes.items() if share >= COVERED}


def measure(samples: Tensor, pictures: Tensor, modes: Tensor, seed: int = 0) -> Closeness:
    real = _normalised(pictures)
    radius = _distances(real, real)[modes[:, None] != modes].min() / 2
    distances, nearest = _distances(_normalised(samples), real).min(1)
    counts = torch.bincount(modes[nearest][distances < radius], minlength=len(MODES))
    control = _distances(_normalised(shuffle_pixels(pictures, len(samples), seed)), real).min(1).values
    shares = dict(zip(MODES, (counts / len(samples)).tolist(), strict=True))
    return Closeness(distances.mean().item(), control.mean().item(), shares)


def shuffle_pixels(images: Tensor, count: int, seed: int) -> Tensor:
    """(count, C, H, W): each value is that of the same pixel in a random image."""
    chosen = torch.randint(len(images), (count, *images.shape[1:]), generator=torch.Generator().manual_seed(seed))
    return images.gather(0, chosen)


def _normalised(images: Tensor) -> Tensor:
    values = images.flatten(1).float()
    centred = values - values.mean(1, keepdim=True)
    return centred / centred.std(1, correction=0, keepdim=True).clamp(min=1e-4)


def _distances(some: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(some, others) / some.shape[1] ** 0.5


def short_config(config: TrainConfig, seed: int, **over: Any) -> TrainConfig:
    """The recipe's nets, loss, penalties, optimizer and ratio of rates; narrower, faster and shorter.

    Only the Wasserstein losses keep several discriminator steps: their critic must be close to its optimum.
    """
    width = min(config.width, WIDTHS.get(config.nets, config.width))
    d_steps = config.d_steps if config.loss in ("wgan", "wgan-gp") else 1
    batch = min(config.batch, 16 if d_steps > 1 or config.nets in ("r3gan", "began") else 32)
    faster = min(max(RATES.get(config.nets, RATE) / config.lr_g, 1.0), 20.0) if config.lr_g < 1e-3 else 1.0
    traits = (config.nets, config.loss, config.schedule)
    steps = next((STEPS_OF[trait] for trait in traits if trait in STEPS_OF), STEPS)
    images = steps * batch * d_steps
    changes: dict[str, Any] = {
        "width": width,
        "width_d": config.width_d and max(config.width_d * width // config.width, 1),
        "batch": batch,
        "d_steps": d_steps,
        "images": images,
        "lr_g": config.lr_g * faster,
        "lr_d": config.lr_d * faster,
        "ema_images": min(config.ema_images, 20 * batch * d_steps),
        "penalty_every": 1,
        "precision": "fp32",
        "seed": seed,
        "milestones": (),
        "eval_every": 0,
        "eval_n": TrainConfig.default("eval_n"),
        "eval_metrics": TrainConfig.default("eval_metrics"),
        **dict.fromkeys(("save_every", "sample_every", "log_every"), images),
    }
    if config.nets == "began":  # a code of 64 numbers reconstructs mixtures of four modes as well as the modes
        changes |= {"latent": 4, "d_warmup_images": 200 * batch * d_steps}
    return TrainConfig.of({**config.model_dump(), **changes, **over})


@functools.cache  # several recipes differ in their photographs alone
def learn(settings: str, channels: int) -> Closeness:
    """Trains with a configuration's JSON at the nets' size in `SIZES`, or the smallest, and measures the samples."""
    config = TrainConfig.model_validate_json(settings)
    size = SIZES.get(config.nets, min(PAIRS[config.nets].sizes))
    pictures, modes = draw_pictures(PICTURES, size, channels, config.seed)
    faces = TensorFaces(pictures, f"four modes, seed {config.seed}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the same result on any number of cores
    try:
        with tempfile.TemporaryDirectory() as run:
            train(config, faces, Path(run), device="cpu")
            return measure(sample_images(load_generator(run), SAMPLES, config.seed), pictures, modes, config.seed)
    finally:
        torch.set_num_threads(threads)


# Which modes a short training loses depends on the seed and on the CPU's rounding: with one seed each, five of the 25
# trainings below cover two modes on one kind of CPU, and three or four on others.
# mnist-mlp keeps three with one seed of three.
SEEDS = range(12)


def check_learns(config: TrainConfig, channels: int, **over: Any) -> None:
    """With one of the seeds the samples have the shape of the pictures and cover three modes."""
    tried = list[Closeness]()
    for seed in SEEDS:
        found = learn(short_config(config, seed, **over).model_dump_json(), channels)
        if len(found.covered) >= 3 and found.distance < 0.9 * found.shuffled:
            return
        tried.append(found)
    raise AssertionError(tried)


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
        assert len(found.covered) == covered
        assert (found.distance < found.shuffled / 5) == (covered > 0)


def test_a_generator_that_hardly_learns_fails() -> None:
    config = short_config(read_recipe("smoke").train(), 0, width=8, images="1st", batch=8, lr_g=1e-9)
    assert not learn(config.model_dump_json(), 3).covered


@pytest.mark.slow
@pytest.mark.parametrize("name", packaged_recipes())
def test_each_recipe_learns(name: str) -> None:
    recipe = read_recipe(name)
    channels = recipe.settings(PrepConfig).channels if "prep" in recipe.values else 3
    config = recipe.train()
    if config.loss != "began":
        check_learns(config, channels)
        return
    found = learn(short_config(config, 0).model_dump_json(), channels)
    assert found.distance < 0.9 * found.shuffled, found
    # Nothing in BEGAN's loss notices that samples are alike, as its heading says: it draws mixtures of the modes.
    assert len(found.covered) < 3, found


# mnist-mlp and mnist-conv have the others.
OTHERS: dict[str, dict[str, Any]] = {
    "dcgan-fc": {"norm": "batch"},
    "resnet wgan-gp": {"norm": "none", "loss": "wgan-gp", "beta1": 0.0, "beta2": 0.9, "d_steps": 5},
    "dcgan wgan": {"norm": "none", "loss": "wgan", "weight_clip": 0.01, "optimizer": "rmsprop", "d_steps": 5}
    | {"lr_g": 5e-5, "lr_d": 5e-5},
    "dcgan minimax": {"loss": "minimax"},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_pairs_and_losses_without_a_recipe_learn(name: str) -> None:
    nets = name.split()[0]
    over: dict[str, Any] = {"images": "100st", "width": 4} if nets == "resnet" else {}
    check_learns(TrainConfig.of({"nets": nets, **OTHERS[name]}), 1, **over)
