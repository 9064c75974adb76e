"""Whether a recipe learns: its own nets, loss, penalties, optimizer, steps and latents on four kinds of small pictures.

A few hundred rounds of the real `facegan.train.train`. What has to be another than the recipe's for that is set by
`trial_config`, and told with the result:

- pictures are 32 pixels wide, or as many as the recipe's where that is less (where the nets make no 32, the least that
  they make); channels are the recipe's;
- nets are narrowed to `WIDTHS`, batches to `BATCH` (`SMALL_BATCH` where D takes several steps a round, and of R3GAN,
  which is slow); both learning rates are raised by one factor, at most `MOST_FASTER`, so that G's becomes `RATE`, or
  what `RATES` has; the moving average's half-life is shortened to `EMA_ROUNDS`; lengths of head starts and of the
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from facegan.config import TrainConfig
from facegan.errors import FaceganError, Interrupted
from facegan.recipes.recipe import Recipe, read_recipe
from facegan.recipes.toy import MODES, Nearness, Pictures, nearness

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
_SHORTENED = ("d_head_start", "g_head_start", "plateau_images")


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
    from facegan.train import sample_images, train

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
        "accumulate": 1,
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
        changes["d_head_start"] = AHEAD[config.nets] * batch * d_steps
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
    from facegan.train.rounds.step import spec_of

    sizes = find_pair(spec_of(config, size, channels)).sizes
    return min(size, _SIZE if _SIZE in sizes else min(sizes))


def _parameters(config: TrainConfig, size: int, channels: int) -> dict[str, int]:
    from dataclasses import replace

    import torch

    from facegan.nets import count_parameters, find_pair
    from facegan.train.rounds.step import spec_of

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
