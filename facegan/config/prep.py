"""Settings of ``facegan prep`` and ``facegan select``."""

from __future__ import annotations

import typing
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from facegan.config.base import Fraction, Positive, Settings, plain_number
from facegan.errors import one_of, suggest
from facegan.plugins import is_import_path

Size = Annotated[Literal[28, 32, 64, 128], BeforeValidator(plain_number)]  # --set gives text
Channels = Annotated[Literal[1, 3], BeforeValidator(plain_number)]
FixedCrop = Literal["dcgan108", "pggan128", "began128", "ncsn140", "vaegan148", "comparegan160", "center178", "squash"]
FIXED_CROPS: tuple[str, ...] = typing.get_args(FixedCrop)
DETECTORS = ("mediapipe", "mediapipe-short", "mediapipe-full", "none")


def _detector_name(name: str) -> str:
    if name not in DETECTORS and not is_import_path(name):
        raise ValueError(
            f"--detector {name} is not offered: choose {', '.join(DETECTORS)},\n"
            f"or name a class of your own as MODULE:CLASS.{suggest(name, DETECTORS)}"
        )
    return name


class PrepConfig(Settings):
    """Everything that decides which bytes ``facegan prep`` writes."""

    section: ClassVar[str] = "prep"

    size: Size = Field(default=64, description="side of a face in pixels")
    channels: Channels = Field(default=3, description="3: colours; 1: grey, by the luma of ITU-R BT.601")
    crop: Literal["aligned", "box"] | FixedCrop = Field(
        default="aligned",
        description="aligned: turned upright by eyes and mouth (FFHQ); box: the detector's square; the others are as "
        "papers cut CelebA's 178×218: so many pixels about the centre of any photo that is large enough; "
        "squash: the whole photo, aspect not kept",
    )
    margin: Annotated[float, Field(gt=0, le=10)] = Field(default=1.0, description="scales the crop about its centre")
    detector: Annotated[str, AfterValidator(_detector_name)] = Field(
        default="mediapipe",
        description="mediapipe: short range, then full range where short finds nothing; mediapipe-short; "
        "mediapipe-full; none: with fixed crops; MODULE:CLASS: your own (facegan.faces.detect.Detector)",
    )
    rotate: Literal["none", "auto"] = Field(
        default="none",
        description="auto: rotate sideways and upside-down photos by 90, 180 or 270° until their face is upright",
    )
    min_score: Fraction = Field(default=0.5, description="least detection score")
    faces: Literal["best", "only", "all"] = Field(
        default="best", description="best: highest score near the centre; only: photos with just one; all: every face"
    )
    min_face: Annotated[int, Field(ge=0)] = Field(
        default=0, description="least side of a crop, in the photo's pixels; smaller is too_small; 0: off"
    )
    min_sharpness: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="minimum variance of the Laplacian of the grey crop; less is blurry; 0: off"
    )
    max_outside: Fraction = Field(default=0.2, description="largest share of a crop that may lie outside the photo")
    dedup: Literal["off", "exact"] = Field(
        default="off", description="exact: of photographs with the same bytes only the first by path is taken"
    )
    split: str = Field(
        default="none", description="none; celeba: by its numbers; source: the source's own; or shares, 0.9,0.05,0.05"
    )
    format: Literal["png", "jpg", "webp"] = Field(
        default="png", description="png: uncompressed, lossless; jpg: quality 95, 4:4:4; webp: lossless"
    )
    shard_size: Positive = Field(default=1000, description="photographs a chunk; what is kept of a chunk is one shard")

    @property
    def crop_is_fixed(self) -> bool:
        """The crop follows from the photograph's size alone."""
        return self.crop in FIXED_CROPS

    @model_validator(mode="after")
    def _no_setting_is_idle(self) -> Self:
        if self.detector == "none" and not self.crop_is_fixed:
            raise ValueError(
                f"--crop {self.crop} cuts out a face, and --detector none looks for none.\n"
                f"Choose a fixed crop ({one_of(FIXED_CROPS)}), or another --detector."
            )
        for name, remedy in self._idle().items():
            value = getattr(self, name)
            if value != self.default(name):
                option = f"--{name.replace('_', '-')} {value}"
                raise ValueError(
                    f"{option} changes nothing with --detector {self.detector} and the fixed --crop {self.crop}.\n"
                    f"Leave it out, or choose {remedy}."
                )
        return self

    def _idle(self) -> dict[str, str]:
        """Settings that change nothing beside the others, and what to choose for them to do so."""
        if not self.crop_is_fixed:
            return {}
        moving, detector = "--crop aligned or box", "another --detector"
        idle: dict[str, str] = dict.fromkeys(("margin", "rotate", "max_outside"), moving)
        if self.crop != "squash":
            idle["min_face"] = moving
        if self.faces == "all":  # a fixed crop is the same for every face of a photograph
            idle["faces"] = moving
        if self.detector == "none":
            idle |= {"min_score": detector, "faces": detector}
        return idle

    @model_validator(mode="after")
    def _split_is_known(self) -> Self:
        names = ("none", "celeba", "source")
        if self.split not in names and not any(character.isdigit() for character in self.split):
            raise ValueError(
                f"--split {self.split} is not offered: choose {one_of(names)}, or shares such as 0.9,0.05,0.05."
                f"{suggest(self.split, names)}"
            )
        return self


class SelectConfig(Settings):
    """Which faces ``facegan select`` takes, and their size."""

    section: ClassVar[str] = "select"

    where: str = Field(
        default="", description="a condition in SQL on the columns of photos.parquet, and score, key, face of a sample"
    )
    limit: Positive | None = Field(default=None, description="only the first N faces")
    split: str = Field(default="", description="only these splits, by comma: train,val")
    size: Size | None = Field(default=None, description="side of a face in pixels, where it is to be smaller")
    channels: Channels | None = Field(default=None, description="1: colours become grey, as by prep.channels")

    @property
    def splits(self) -> list[str]:
        return [name.strip() for name in self.split.split(",")] if self.split else []

    @model_validator(mode="after")
    def _splits_have_names(self) -> Self:
        known = ("train", "val", "test")
        for name in self.splits:
            if name not in known:
                raise ValueError(f"--split {self.split}: there is no split '{name}', only {one_of(known)}.")
        return self
