"""Settings of ``facegan sample``."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from facegan.config.base import Positive, Settings

MOST_SEEDS = 10_000_000


def _numbers(text: str) -> str:
    """The same text without blanks.

    Raises:
        ValueError: it is no list of seeds.
    """
    text = re.sub(r"\s", "", text)
    if text:
        _expanded(text)
    return text


def _expanded(text: str) -> tuple[int, ...]:
    ranges = []
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part, re.ASCII)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last:
            raise ValueError(f"--seeds {text}: write numbers and ranges by comma, such as 0-63 or 1,5,9-12.")
        ranges.append(range(first, last + 1))
    if sum(map(len, ranges)) > MOST_SEEDS:
        raise ValueError(f"--seeds {text}: these are more than {MOST_SEEDS:,}, the most that can be named.")
    return tuple(number for numbers in ranges for number in numbers)


class SampleConfig(Settings):
    """Which samples ``facegan sample`` draws, and how they move in a film."""

    section: ClassVar[str] = "sample"

    n: Annotated[int, Field(gt=0, le=10**9)] | None = Field(
        default=None,
        description="how many samples, by default 64 (--training-progress 16); with --interpolate the faces that a "
        "walk visits, by default 8; with --latents by default all",
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        default=0, description="which samples: image i follows from the seed and i, whatever n is"
    )
    seeds: Annotated[str, AfterValidator(_numbers)] = Field(
        default="", description="instead: one image of each seed, 0-63 or 1,5,9-12; the same as the first of --seed"
    )
    latents: str = Field(
        default="", description="instead: latents from a .npy, .npz or .safetensors file, float (N, latent)"
    )
    frames: Annotated[int, Field(gt=0, le=100_000)] = Field(
        default=24, description="with --interpolate the frames from one face to the next"
    )
    fps: Annotated[float, Field(ge=0.01, le=120)] | None = Field(
        default=None, description="frames a second of a film; 24 by default, 2 with --training-progress"
    )
    walks: Annotated[int, Field(gt=0, le=10_000)] = Field(
        default=1, description="with --interpolate the walks beside one another, as a grid"
    )
    shard_size: Positive = Field(default=1000, description="with --shards the samples of a shard")

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The numbers of ``seeds``."""
        return _expanded(self.seeds) if self.seeds else ()

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.seeds and self.latents:
            raise ValueError("--seeds and --latents both say which samples: leave one of them out.")
        for name in ("seeds", "latents"):
            if getattr(self, name) and self.seed:
                raise ValueError(f"--seed {self.seed} changes nothing beside --{name}: leave one of them out.")
        if self.seeds and self.n:
            raise ValueError(f"--n {self.n} changes nothing beside --seeds, which says how many: leave it out.")
        return self


# Settings of ``facegan export``.


class ExportConfig(Settings):
    """What of a generator ``facegan export`` writes."""

    section: ClassVar[str] = "export"

    onnx: bool = Field(default=False, description="generator.onnx: float32, any number of latents at once")
    fp16: bool = Field(default=False, description="generator-fp16.onnx: half the size, with onnx")
    int8: bool = Field(default=False, description="generator-int8.onnx: a quarter of the size, with onnx")
    program: bool = Field(default=True, description="generator.pt2: a torch.export program")
    samples: Annotated[int, Field(gt=0, le=10_000)] = Field(default=64, description="faces in samples.png")
    compared: Annotated[int, Field(gt=0, le=100_000)] = Field(
        default=64, description="samples by which ONNX files are compared with PyTorch"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="which samples")

    @property
    def with_onnx(self) -> bool:
        """The smaller files are made of the float32 one, and stand beside it."""
        return self.onnx or self.fp16 or self.int8
