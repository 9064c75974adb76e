"""Whether a recipe learns: its own nets, loss, penalties, optimizer, steps and latents on four kinds of small pictures.

A few hundred rounds of the real `facegan.training.train`. What has to be another than the recipe's for that is set by
`trial_config`, and told with the result:

- pictures are 32 pixels wide, or as many as the recipe's where that is less (where the nets make no 32, the least that
  they make); channels are the recipe's;
- nets are narrowed to `WIDTHS`, batches to `BATCH` (`SMALL_BATCH` where D takes several steps a round, and of R3GAN,
  which is slow); both learning rates are raised by one factor, at most `MOST_FASTER`, so that G's becomes `RATE`, or
  what `RATES` has; the moving average's half-life is shortened to `EMA_ROUNDS`; lengths of warm-ups and of the
  plateau as the training is;
- codes of an autoencoder, and the latents, which are as long, are of `LATENTS` numbers: with BEGAN's 64 it draws all
  that lies between four kinds of pictures as well as these, and its error tells nothing. It has learnt for `AHEAD`
  rounds before G begins, and the pulling-away term weighs `APART` times as much as in the recipe, for four kinds lie
  further apart than faces do;
- several steps of D a round are left to the Wasserstein losses, whose critic has to be near its optimum: with hinge,
  five chase the generator from one kind of pictures to the next as long as rounds are few;
- a lazy penalty is had at every step: every 16th would be 25 of 400;
- float32 on one CPU thread, so that it comes out the same on any number of cores; saved and logged at the end alone,
  and measured by nothing else.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from facegan.config import TrainConfig
from facegan.errors import FaceganError, Interrupted
from facegan.recipes.recipe import Recipe, read_recipe
from facegan.stream.sampler import Sampler

# Four unmistakable kinds of small pictures, and how near to them others are: what a recipe has to learn in a minute.
#
# All is drawn by a seed. The kinds are the same mirrored, so that a recipe's flips change nothing of them.
#
# N pictures, C channels, H height, W width.

MODES: tuple[str, ...] = ("middle", "top", "bottom", "sides")
# The lit quarter of each, RGB, on a dark ground; the one channel of grey pictures is green, in which all are as light.
_LIT = ((250, 230, 110), (110, 230, 250), (250, 230, 230), (140, 230, 140))
_GROUND = (40, 30, 60)
_SHIFT = 1  # px, up or down and left or right
_SOFTNESS = 0.08  # of half a side
_LEAST_CONTRAST, _NOISE = 0.7, 1.0  # of 1, about middle grey; standard deviation in grey levels
COVERED = 0.05  # the share of samples from which on a mode counts as covered: a fifth of its share of the pictures


def draw_pictures(count: int, size: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W), and the number of each one's mode, int64 (N,); modes take turns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    centre, scale = (size - 1) / 2, size / 2
    pictures = np.empty((count, channels, size, size), np.uint8)
    for number in range(count):
        down, right = rng.integers(-_SHIFT, _SHIFT + 1, 2)
        v, u = (y - centre - down) / scale, (x - centre - right) / scale
        mode = number % len(MODES)
        lit, ground = (np.array(colour)[:, None, None] for colour in (_LIT[mode], _GROUND))
        if channels == 1:
            lit, ground = lit[1:2], ground[1:2]
        picture = ground + _light(mode, u, v) * (lit - ground)
        picture = 127.5 + (picture - 127.5) * rng.uniform(_LEAST_CONTRAST, 1) + rng.normal(0, _NOISE, picture.shape)
        pictures[number] = picture.round().clip(0, 255)
    return torch.from_numpy(pictures), torch.arange(count) % len(MODES)


def _light(mode: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """0 … 1: which quarter of the picture is lit; u goes right and v down from the middle, ±1 at the borders.

    The quarters do not meet, so two modes have a correlation of about −1/3: four pictures can't differ by more.
    """
    top, bottom = _step(-0.5 - v), _step(v - 0.5)
    between, sides = 1 - top - bottom, _step(np.abs(u) - 0.5)
    return (between * (1 - sides), top, bottom, between * sides)[mode]


def _step(distance: np.ndarray) -> np.ndarray:
    """From 0 to 1 about 0, softly: a discriminator is to learn the shapes before it can tell how sharp an edge is."""
    return 1 / (1 + np.exp(-distance / _SOFTNESS))


class Pictures:
    """The four kinds as `facegan.training.Faces`."""

    def __init__(self, count: int, size: int, channels: int, seed: int) -> None:
        self.size, self.channels = size, channels
        self.fingerprint = f"four modes, {count} of {size}×{size}×{channels}, seed {seed}"
        self.images, self.modes = draw_pictures(count, size, channels, seed)

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, batch_size: int, *, seed: int = 0, device: str = "cpu", rank: int = 0, world_size: int = 1
    ) -> PictureBatches:
        share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        return PictureBatches(self.images.to(device), Sampler(len(self), seed), batch_size, share)


class PictureBatches:
    """Batches in the order in which `facegan.FaceShards` gives its own."""

    def __init__(self, images: Tensor, order: Sampler, batch: int, share: slice) -> None:
        self._images, self._order, self._batch, self._share, self._position = images, order, batch, share, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        numbers = self._order.at(self._position, self._batch)[self._share]
        self._position += self._batch
        return self._images[torch.from_numpy(numbers).to(self._images.device)]

    def state_dict(self) -> Mapping[str, Any]:
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._position = state["position"]

    def describe(self) -> Mapping[str, Any]:
        return {"cache": "ram"}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Nearness:
    """How samples lie to real pictures: root mean squares over all values of two pictures' difference.

    Attributes:
        distance: mean of the samples to the nearest real picture, of values in [−1, 1].
        shuffled: the same of the control: each value of each pixel comes from a real picture chosen anew, so that every
            pixel is spread as the real ones are, and no picture is of any mode.
        real: the same of other real pictures: what a perfect generator would have.
        shape_distance, shape_shuffled, shape_real: the same where each picture is brought to mean 0 and variance 1. A
            discriminator with batch norm sees real and fake batches normalised apart, and so hardly any contrast: a
            generator has the shapes long before their contrast.
        radius: half the least ``shape`` distance between two real pictures of different modes; so no picture can be
            within it of two modes.
        modes: share of the samples within the radius of each mode, by name.
        covered: modes with at least 5 % of the samples.
    """

    distance: float
    shuffled: float
    real: float
    shape_distance: float
    shape_shuffled: float
    shape_real: float
    radius: float
    modes: dict[str, float]
    covered: int


def nearness(samples: Tensor, pictures: Pictures, seed: int) -> Nearness:
    """``samples``: uint8 (N, C, H, W)."""
    others, _ = draw_pictures(len(samples), pictures.size, pictures.channels, seed + 1)
    kinds = (samples, shuffled(pictures.images, len(samples), seed), others)
    plain = [_nearest(_flat(kind), _flat(pictures.images))[0].mean().item() for kind in kinds]
    real = _normalised(pictures.images)
    shape = [_nearest(_normalised(kind), real)[0].mean().item() for kind in kinds]
    names = ("distance", "shuffled", "real")
    means = dict(zip((*names, *(f"shape_{name}" for name in names)), plain + shape, strict=True))
    radius = (_distances(real, real)[pictures.modes[:, None] != pictures.modes].min() / 2).item()
    distances, at = _nearest(_normalised(samples), real)
    inside = pictures.modes[at][distances < radius]
    shares = torch.bincount(inside, minlength=len(MODES)) / len(samples)
    modes = dict(zip(MODES, shares.tolist(), strict=True))
    return Nearness(**means, radius=radius, modes=modes, covered=int((shares >= COVERED).sum()))


def shuffled(images: Tensor, count: int, seed: int) -> Tensor:
    """(count, C, H, W): each value that of the same place in one of ``images``, chosen at random for each."""
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(images), (count, *images.shape[1:]), generator=rng)
    return images.gather(0, chosen)


def _flat(images: Tensor) -> Tensor:
    """float32 (N, values) in [−1, 1]."""
    return images.flatten(1).float().div(127.5).sub(1)


def _normalised(images: Tensor) -> Tensor:
    """float32 (N, values), each row of mean 0 and variance 1; zeros where all values are the same."""
    values = _flat(images)
    centred = values - values.mean(1, keepdim=True)
    return centred / centred.std(1, correction=0, keepdim=True).clamp(min=1e-6)


def _nearest(some: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of ``some`` the distance to the nearest of ``others``, and which that is."""
    return _distances(some, others).min(1)


def _distances(some: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(some, others) / some.shape[1] ** 0.5


ROUNDS, LONGER, EMA_ROUNDS = 400, {"mlp": 600, "began": 600}, 20
LATENTS, AHEAD, APART = {"began": 4}, {"began": 100}, 300.0
WIDTHS = {
    "dcgan": 16,
    "dcgan-fc": 16,
    "dcgan-pool": 8,
    "mnist-conv": 16,
    "mlp": 64,
    "resnet": 8,
    "began": 16,
    "r3gan": 8,
}
RATES, RATE, MOST_FASTER = {"mlp": 5e-4}, 2e-3, 20.0  # a rate that is far too low stays so
BATCH, SMALL_BATCH = 32, 16
PICTURES, SAMPLES = 1024, 512
LEAST_COVERED = 3  # of the four modes
_SIZE = 32
_NEAR_OPTIMUM = ("wgan", "wgan-gp")
_SHORTENED = ("d_warmup_images", "g_warmup_images", "plateau_images")


@dataclass(frozen=True)
class Trial:
    """How a recipe did.

    Attributes:
        problem: why it failed; "" where it learnt.
        size, channels: of the pictures.
        rounds, images: length of the training.
        parameters: of the recipe's own nets, at the size that it trains at: generator, discriminator.
        parameters_tried: of the nets that were trained here.
        changed: settings that differ from the recipe's: [its value, the value here].
        nearness: how its samples lie to the pictures; None where it could not be trained.
    """

    recipe: str
    problem: str
    size: int
    channels: int
    rounds: int
    images: int
    parameters: dict[str, int]
    parameters_tried: dict[str, int]
    changed: dict[str, list[Any]]
    nearness: Nearness | None
    seconds: float

    @property
    def ok(self) -> bool:
        return not self.problem

    def to_json(self) -> dict[str, Any]:
        told = {"recipe": self.recipe, "ok": self.ok, **asdict(self)}
        return {**{name: value for name, value in told.items() if name != "nearness"}, **(told["nearness"] or {})}

    def texts(self) -> dict[str, str]:
        """A row of the table, by its heading."""
        near, (generator, discriminator) = self.nearness, self.parameters.values()
        row = {
            "recipe": self.recipe,
            "": "ok" if self.ok else "failed",
            "parameters": f"{generator:,} + {discriminator:,}",
        }
        row["tried with"] = " + ".join(f"{count:,}" for count in self.parameters_tried.values())
        row["rounds"] = f"{self.rounds:,}"
        row["distance"] = f"{near.distance:.2f}" if near else "–"
        row["shuffled"] = f"{near.shuffled:.2f}" if near else "–"
        row["in shape"] = f"{near.shape_distance:.2f}" if near else "–"
        row["shuffled in shape"] = f"{near.shape_shuffled:.2f}" if near else "–"
        row["modes"] = " ".join(f"{share:.0%}" for share in near.modes.values()) if near else "–"
        return row | {"seconds": f"{self.seconds:,.1f}"}


def try_recipes(
    texts: Sequence[str], seed: int = 0, processes: int = 1, *, trust_code: bool = False
) -> Iterator[Trial]:
    """Each as it is done, in their order; ``processes`` at once.

    Raises:
        SettingsError: one names code that is not trusted.
    """
    for text in texts:
        read_recipe(text).refuse_untrusted(trust_code, "train")
    with ProcessPoolExecutor(min(processes, len(texts)), get_context("spawn")) as pool:
        yield from pool.map(try_recipe, texts, [seed] * len(texts))


def try_recipe(text: str, seed: int = 0) -> Trial:
    """Trains by a recipe, and looks at what it draws.

    Args:
        text: a name or file, as `facegan.recipes.recipe.read_recipe` has it.
        seed: of the pictures, the training and the samples.
    """
    recipe = read_recipe(text)
    size, channels = _shape(recipe)
    return try_config(text, recipe.train(), size, channels, seed=seed)


def try_config(name: str, config: TrainConfig, size: int, channels: int, *, seed: int = 0, **over: Any) -> Trial:
    """
    Args:
        size, channels: of the pictures that the settings are meant for.
        over: settings over those of `trial_config`.
    """
    from facegan.nets import load_generator
    from facegan.training import sample_images, train

    started = time.perf_counter()
    side = _side(config, size, channels)
    tried = trial_config(config, seed, **over)
    before, after = config.model_dump(mode="json"), tried.model_dump(mode="json")
    changed = {setting: [before[setting], value] for setting, value in after.items() if before[setting] != value}
    found, problem = None, ""
    with tempfile.TemporaryDirectory() as folder, _one_thread():
        pictures = Pictures(PICTURES, side, channels, seed)
        try:
            train(tried, pictures, Path(folder), device="cpu")
            found = nearness(sample_images(load_generator(folder), SAMPLES, seed), pictures, seed)
            problem = _problem(found)
        except Interrupted:  # nothing is found out about the recipe
            raise
        except FaceganError as error:
            problem = str(error).partition("\n")[0]
    return Trial(
        recipe=name,
        problem=problem,
        size=side,
        channels=channels,
        rounds=tried.images // tried.round_images,
        images=tried.images,
        parameters=_parameters(config, size, channels),
        parameters_tried=_parameters(tried, side, channels),
        changed=changed,
        nearness=found,
        seconds=round(time.perf_counter() - started, 1),
    )


def trial_config(config: TrainConfig, seed: int, **over: Any) -> TrainConfig:
    """A recipe's settings, with what the few rounds need in the place of its own."""
    width = min(config.width, WIDTHS.get(config.nets, config.width))
    d_steps = config.d_steps if config.loss in _NEAR_OPTIMUM else 1
    slow = d_steps > 1 or config.nets == "r3gan"
    batch = min(config.batch, SMALL_BATCH if slow else BATCH)
    faster = min(max(RATES.get(config.nets, RATE) / config.lr_g, 1.0), MOST_FASTER)
    images = LONGER.get(config.nets, ROUNDS) * batch * d_steps
    changes: dict[str, Any] = {
        "width": width,
        "pull_away": config.pull_away * APART,
        "latent": LATENTS.get(config.nets, config.latent),
        "width_d": config.width_d and max(config.width_d * width // config.width, 1),
        "batch": batch,
        "grad_accum_steps": 1,
        "d_steps": d_steps,
        "images": images,
        "lr_g": config.lr_g * faster,
        "lr_d": config.lr_d * faster,
        "ema_images": min(config.ema_images, EMA_ROUNDS * batch * d_steps),
        "penalty_every": 1,
        "precision": "fp32",
        "seed": seed,
        "milestones": (),
        "eval_every": 0,
        "eval_n": TrainConfig.default("eval_n"),
        "eval_metrics": TrainConfig.default("eval_metrics"),
        **dict.fromkeys(("save_every", "sample_every", "log_every"), images),
    }
    if config.nets in AHEAD:
        changes["d_warmup_images"] = AHEAD[config.nets] * batch * d_steps
    changes |= {
        name: -(-getattr(config, name) * images // config.images)
        for name in _SHORTENED
        if getattr(config, name) != config.default(name)
    }
    return TrainConfig.of({**config.model_dump(), **changes, **over})


def _problem(found: Nearness) -> str:
    """Why the samples are not what was to be learnt; "" where they are."""
    if found.shape_distance >= found.shape_shuffled:
        return (
            f"its samples are no nearer to the pictures in shape ({found.shape_distance:.2f}) than shuffled ones "
            f"({found.shape_shuffled:.2f})"
        )
    if found.covered < LEAST_COVERED:
        return f"its samples cover {found.covered} of {len(MODES)} modes, and {LEAST_COVERED} are wanted"
    return ""


def _shape(recipe: Recipe) -> tuple[int, int]:
    """Side and channels of the images that a recipe makes."""
    return (recipe.prep.size, recipe.prep.channels) if recipe.prep else (64, 3)


def _side(config: TrainConfig, size: int, channels: int) -> int:
    from facegan.nets import find_pair
    from facegan.training.trainer import spec_of

    sizes = find_pair(spec_of(config, size, channels)).sizes
    return min(size, _SIZE if _SIZE in sizes else min(sizes))


def _parameters(config: TrainConfig, size: int, channels: int) -> dict[str, int]:
    from dataclasses import replace

    import torch

    from facegan.nets import count_parameters, find_pair
    from facegan.training.trainer import spec_of

    spec = spec_of(config, size, channels)
    pair = find_pair(spec)
    with torch.device("meta"):  # shapes alone
        nets = pair.generator(spec), pair.discriminator(replace(spec, width=config.width_d or spec.width))
    return dict(zip(("generator", "discriminator"), map(count_parameters, nets), strict=True))


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
