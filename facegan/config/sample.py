"""Settings of ``facegan sample``, ``facegan project`` and ``facegan export``."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, model_validator

from facegan.config.base import NotNegative, Positive, Seed, Settings, listed, option_of, setting, unique_names

MOST_SEEDS = 10_000_000
_MOST_STEPS = 100  # along a direction


def _seeds(text: str) -> str:
    _expand(text := re.sub(r"\s", "", text))
    return text


def _expand(text: str) -> tuple[int, ...]:
    """The seeds of ``0-63`` or ``1,5,9-12``."""
    if not text:
        return ()
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part, re.ASCII)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ValueError(f"--seeds {text}: write numbers and ranges, such as 0-63 or 1,5,9-12.")
        ranges.append(range(first, last + 1))
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise ValueError(f"--seeds {text}: the maximum is {MOST_SEEDS:,} seeds.")
    return tuple(number for numbers in ranges for number in numbers)


def _moves(text: str) -> str:
    _steps(text)
    return text


def _steps(text: str) -> dict[str, float]:
    """Steps by the name of a direction."""
    steps = dict[str, float]()
    for part in (listed(text) or [text]) if text else []:
        name, _, number = part.rpartition("=")
        try:
            step = float(number)
        except ValueError:
            step = math.nan
        if not (name.strip() and abs(step) <= _MOST_STEPS) or name.strip() in steps:
            rule = f"write NAME=STEPS, each name once, such as Smiling=+2,Young=-1, with at most {_MOST_STEPS} steps"
            raise ValueError(f"--move {text}: {rule}.")
        steps[name.strip()] = step
    return steps


class AttributeChoice(Settings):
    """Which faces a conditional generator draws."""

    with_: Annotated[str, unique_names("--with")] = setting(
        "", "attributes that all samples have (Eyeglasses,Smiling), of a generator that was trained with --condition"
    )
    without: Annotated[str, unique_names("--without")] = setting("", "attributes that no sample has")
    class_: int | None = setting(None, "class of all samples, of a generator with a class as its condition", ge=0)

    @property
    def attributes(self) -> dict[str, int]:
        """Those of ``with`` and ``without``."""
        return dict.fromkeys(listed(self.with_), 1) | dict.fromkeys(listed(self.without), -1)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked of the condition, by option without ``--``."""
        values = {option_of(name)[2:]: getattr(self, name, "") for name in ("with_", "without", "class_", "along")}
        return {name: value for name, value in values.items() if value not in ("", None)}

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if both := sorted({*listed(self.with_)} & {*listed(self.without)}):
            raise ValueError(f"--with and --without both name {both[0]}. Leave it out of one of them.")
        return self


class SampleConfig(AttributeChoice):
    """Which samples ``facegan sample`` draws, and how they move in an animation."""

    section: ClassVar[str] = "sample"
    options: ClassVar[str] = "n seed seeds latents truncation move with_ without class_ along frames fps walks"

    n: int | None = setting(
        None,
        "number of samples: by default 64, with --training-progress 16; with --interpolate the faces of a walk, by "
        "default 8; with --latents by default all",
        gt=0,
        le=10**9,
    )
    seed: NotNegative = setting(0, "seed: image i depends on the seed and i, not on n")
    seeds: Annotated[str, AfterValidator(_seeds)] = setting(
        "", "instead of --seed: one image per seed, 0-63 or 1,5,9-12; each equals the first image of that --seed"
    )
    latents: str = setting("", "instead of --seed: latents from a .npy, .npz or .safetensors file, float (N, latent)")
    truncation: float = setting(
        1.0, "scale of normal latents, above 0 to 1: below 1 faces are more usual, and less varied", "×", gt=0, le=1
    )
    move: Annotated[str, AfterValidator(_moves)] = setting(
        "", "standard deviations along directions that facegan directions found: Smiling=+2,Young=-1"
    )
    along: str = setting("", "with --interpolate: an attribute that each face loses or gains on the way")
    frames: int = setting(24, "with --interpolate: frames between two faces", "frames", gt=0, le=100_000)
    fps: float | None = setting(
        None, "frames per second: by default 24, with --training-progress 2", "frames/s", ge=0.01, le=120
    )
    walks: int = setting(1, "with --interpolate: walks to show side by side in a grid", "walks", gt=0, le=10_000)
    shard_size: Positive = setting(1000, "with --shards: samples per shard", "samples")

    @property
    def seed_list(self) -> tuple[int, ...]:
        return _expand(self.seeds)

    @property
    def steps(self) -> dict[str, float]:
        """Those of ``move``, by the name of the direction."""
        return _steps(self.move)

    @property
    def changes(self) -> dict[str, Any]:
        """Of the latents, by option without ``--``; empty by default."""
        values = {name: getattr(self, name) for name in ("truncation", "move")}
        return {name: value for name, value in values.items() if value != self.default(name)}

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.seeds and self.latents:
            raise ValueError("--seeds and --latents both choose the samples. Leave one of them out.")
        for name in ("seeds", "latents"):
            if getattr(self, name) and self.seed:
                raise ValueError(f"--seed {self.seed} has no effect with --{name}. Leave one of them out.")
        if self.seeds and self.n:
            raise ValueError(f"--n {self.n} has no effect with --seeds, which sets the number. Leave it out.")
        return self


class ProjectConfig(AttributeChoice):
    """How ``facegan project`` looks for the latent of a photograph's face."""

    section: ClassVar[str] = "project"
    options: ClassVar[str] = "starts steps seed with_ without class_"

    starts: int = setting(8, "latents to start from: the nearest of 32 times as many", "latents", gt=0, le=256)
    steps: int = setting(200, "steps of Adam from each", "steps", gt=0, le=100_000)
    rate: float = setting(0.1, "learning rate, which falls to 0 by half a cosine", gt=0, le=10)
    pixels: float = setting(0.5, "weight of the pixels' distance; the random network's has the rest", ge=0, le=1)
    held_out: NotNegative = setting(8, "held-out real faces whose distances are the reference", "faces")
    seed: Seed = setting(0, "seed of the latents to start from, and of the choice of real faces")


class DirectionsConfig(Settings):
    """How ``facegan directions`` finds directions in the latents."""

    section: ClassVar[str] = "directions"

    n: int = setting(10_000, "samples that the directions are fitted to", "samples", ge=100, le=10_000_000)
    seed: Seed = setting(0, "seed of the samples, and of the classifier")


class ExportConfig(Settings):
    """Which files ``facegan export`` writes."""

    section: ClassVar[str] = "export"
    options: ClassVar[str] = "onnx fp16 int8"

    onnx: bool = setting(False, "write generator.onnx: float32, any batch size")
    fp16: bool = setting(False, "also write generator-fp16.onnx, half the size")
    int8: bool = setting(False, "also write generator-int8.onnx, a quarter of the size")
    program: bool = setting(True, "write generator.pt2, a torch.export program")
    samples: int = setting(64, "faces in samples.png", "images", gt=0, le=10_000)
    compared: int = setting(64, "samples on which ONNX files are compared with PyTorch", "images", gt=0, le=100_000)
    seed: Seed = setting(0, "seed of the samples")

    @property
    def with_onnx(self) -> bool:
        """The smaller files are made from the float32 one, which is written too."""
        return self.onnx or self.fp16 or self.int8
