"""Settings of ``facegan prep`` and ``facegan select``."""

from __future__ import annotations

import typing
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, field_validator, model_validator

from facegan.config.base import (
    Fraction,
    NotNegative,
    Positive,
    Settings,
    known_or_own,
    names_among,
    option_of,
    plain_number,
    setting,
)
from facegan.errors import one_of, suggest

Size = Annotated[Literal[28, 32, 64, 128], BeforeValidator(plain_number)]  # --set gives text
Channels = Annotated[Literal[1, 3], BeforeValidator(plain_number)]
FixedCrop = Literal["dcgan108", "pggan128", "began128", "ncsn140", "vaegan148", "comparegan160", "center178", "squash"]
FIXED_CROPS: tuple[str, ...] = typing.get_args(FixedCrop)
Detector = Literal["mediapipe", "mediapipe-short", "mediapipe-full", "none"]
DETECTORS: tuple[str, ...] = typing.get_args(Detector)
# Of 29 pairs among 16,089 faces of CelebA whose hashes differ in at most 3 bits, 22 are one picture; of 28 that differ
# in 4 bits, three are (BENCHMARKS.md).
NEAR_BITS = 3
_MOST_BITS = 8


def _margin(value: object) -> float | str:
    try:
        if value == "auto" or 0 < float(str(value)) <= 10:
            return "auto" if value == "auto" else float(str(value))
    except ValueError:
        pass
    raise ValueError(f"--margin {value} must be auto, or a number greater than 0 and at most 10.")


def _dedup(value: object) -> str:
    """``near`` with its number of bits, which are recorded."""
    name, _, bits = str(value).partition(":")
    if value in ("off", "exact"):
        return str(value)
    if name == "near" and (bits in map(str, range(_MOST_BITS + 1)) or value == "near"):
        return f"near:{bits or NEAR_BITS}"
    raise ValueError(f"--dedup {value} must be off, exact, near or near:BITS with 0 to {_MOST_BITS} bits.")


class PrepConfig(Settings):
    """Everything that decides which bytes ``facegan prep`` writes."""

    section: ClassVar[str] = "prep"

    size: Size = setting(64, "side of a face", "px")
    channels: Channels = setting(3, "3: RGB; 1: grey, by the luma of ITU-R BT.601")
    crop: Literal["aligned", "box"] | FixedCrop = setting(
        "aligned",
        "aligned: upright by eyes and mouth (FFHQ); box: the detector's square; squash: the whole photo, resized; "
        "the others: fixed crops from papers, for CelebA's 178×218; centred on photos of other sizes",
    )
    margin: Annotated[float | str, BeforeValidator(_margin)] = setting(
        "auto", "scale of the crop about its centre; auto: 1, or less where photos are cut tightly around faces", "×"
    )
    detector: Annotated[Detector | str, known_or_own("--detector", DETECTORS, "detector as MODULE:CLASS")] = setting(
        "mediapipe",
        "mediapipe: short range, then full range if short finds no face; none: for fixed crops; MODULE:CLASS: your "
        "own (facegan.faces.detect.Detector)",
    )
    rotate: Literal["none", "auto"] = setting(
        "none", "auto: rotate sideways and upside-down photos by 90, 180 or 270° until their face is upright"
    )
    min_score: Fraction = setting(0.5, "minimum detection score", "0 to 1")
    faces: Literal["best", "only", "all"] = setting(
        "best", "best: the highest score near the centre; only: photos with exactly one face; all: every face"
    )
    min_face: NotNegative = setting(
        0, "minimum side of a crop in the photo; smaller ones are rejected as too_small; 0: off", "px"
    )
    min_sharpness: float = setting(
        0.0,
        "minimum variance of the Laplacian of the grey aligned crop at 64 × 64; lower is rejected as blurry; 0: off",
        "grey levels²",
        ge=0,
    )
    min_brightness: float = setting(
        0.0, "minimum mean of the grey crop; a lower one is rejected as dark; 0: off", "0 to 255", ge=0, le=255
    )
    max_yaw: float = setting(
        90.0, "maximum angle by which a face may look aside, else it is turned_away; 90: off", "degrees", ge=0, le=90
    )
    max_outside: Fraction = setting(0.2, "maximum share of a crop outside the photo", "share of 1")
    dedup: Annotated[str, BeforeValidator(_dedup)] = setting(
        "off",
        "exact: keep the first, by path, of photos with equal bytes; near: also the largest of those whose faces' "
        f"hashes differ in at most {NEAR_BITS} of 64 bits; near:BITS: in at most BITS",
    )
    split: str = setting(
        "auto",
        "auto: source, if it has CelebA's list_eval_partition, else none; celeba: by CelebA's numbers; source: the "
        "source's own; or shares: 0.9,0.05,0.05",
    )
    format: Literal["png", "jpg", "webp"] = setting(
        "png", "png: uncompressed, lossless; jpg: quality 95, 4:4:4; webp: lossless"
    )
    shard_size: Positive = setting(1000, "photos per chunk, which becomes one shard", "photographs")

    options: ClassVar[str] = (
        "size crop margin detector rotate min_score faces min_face min_sharpness "
        "min_brightness max_yaw max_outside dedup split format shard_size"
    )

    @property
    def scale(self) -> float:
        """The margin as a number: 1 for ``auto``, until a run has chosen one."""
        return 1.0 if self.margin == "auto" else float(self.margin)

    def with_margin(self, margin: float) -> Self:
        return self.model_copy(update={"margin": margin})

    @property
    def near_bits(self) -> int | None:
        """By how many bits the hashes of near-duplicates differ at most; None without --dedup near."""
        return int(self.dedup.partition(":")[2]) if ":" in self.dedup else None

    @property
    def crop_is_fixed(self) -> bool:
        """The crop follows from the photograph's size alone."""
        return self.crop in FIXED_CROPS

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.detector == "none" and not self.crop_is_fixed:
            raise ValueError(
                f"--crop {self.crop} needs a face, and --detector none finds none.\n"
                f"Choose a fixed crop ({one_of(FIXED_CROPS)}), or another --detector."
            )
        for name, remedy in self._idle().items():
            value = getattr(self, name)
            if value != self.default(name):
                raise ValueError(
                    f"{option_of(name)} {value} has no effect with --detector {self.detector} and the fixed "
                    f"--crop {self.crop}.\nLeave it out, or choose {remedy}."
                )
        if self.near_bits is not None and (self.faces == "all" or self.detector == "none"):
            why = "--faces all keeps several" if self.faces == "all" else "--detector none finds none"
            raise ValueError(
                f"--dedup near compares one face of each photograph; {why}.\n"
                f"Choose --dedup exact, or {'--faces best' if self.faces == 'all' else 'another --detector'}."
            )
        names = ("auto", "none", "celeba", "source")
        if self.split not in names and not any(character.isdigit() for character in self.split):
            raise ValueError(
                f"--split {self.split} is not available. Choose {one_of(names)}, or shares such as 0.9,0.05,0.05."
                f"{suggest(self.split, names)}"
            )
        return self

    def _idle(self) -> dict[str, str]:
        """Settings that have no effect with the others, and what to choose so that they have one."""
        if not self.crop_is_fixed:
            return {}
        moving, detector = "--crop aligned or box", "another --detector"
        idle: dict[str, str] = dict.fromkeys(("margin", "rotate", "max_outside"), moving)
        if self.crop != "squash":
            idle["min_face"] = moving
        if self.faces == "all":  # a fixed crop is the same for every face of a photograph
            idle["faces"] = moving
        if self.detector == "none":
            idle |= dict.fromkeys(("min_score", "faces", "min_brightness", "max_yaw"), detector)
        return idle


class SelectConfig(Settings):
    """Which faces ``facegan select`` takes, and their size."""

    section: ClassVar[str] = "select"
    options: ClassVar[str] = "where limit split size"

    where: str = setting("", "an SQL condition on the columns of photos.parquet and on score, key and face of a sample")
    limit: Positive | None = setting(None, "only the first N faces")
    split: str = setting("", "only these splits, separated by commas: train,val")
    size: Size | None = setting(None, "side of a face, to make the faces smaller", "px")
    channels: Channels | None = setting(None, "1: convert to grey, as prep.channels does")

    @property
    def splits(self) -> list[str]:
        return self.split.split(",") if self.split else []

    @field_validator("split")
    @classmethod
    def _split(cls, text: str) -> str:
        return ",".join(names_among(text, ("train", "val", "test"), "--split"))
