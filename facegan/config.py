"""Settings: frozen objects that check themselves. Help texts, defaults and rules stand here and nowhere else."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from facegan.errors import SettingsError, one_of, suggest
from facegan.lengths import images_of

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused, errors as sentences."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    section: ClassVar[str] = "settings"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Checked settings from plain values.

        Raises:
            SettingsError: names the setting, the value, the rule and, for misspelt names, the nearest one.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(cls._sentence(error.errors()[0])) from None

    @classmethod
    def default(cls, name: str) -> Any:
        return cls.model_fields[name].default

    @classmethod
    def describe(cls, name: str) -> str:
        """A setting's meaning, with its choices where it has some."""
        field = cls.model_fields[name]
        choices = choices_of(field.annotation)
        between = "|" if len(choices) < 8 else " | "  # so that a long list breaks into lines
        listed = f" [{between.join(map(str, choices))}]" if choices else ""
        return f"{field.description or ''}{listed}"

    @classmethod
    def _sentence(cls, problem: Any) -> str:
        name = str(problem["loc"][0]) if problem["loc"] else cls.section
        option = "--" + name.replace("_", "-")
        if problem["type"] == "extra_forbidden":
            return f"There is no setting '{name}' in [{cls.section}].{suggest(name, cls.model_fields)}"
        if problem["type"] == "literal_error":
            choices = choices_of(cls.model_fields[name].annotation)
            value = problem["input"]
            return f"{option} {value} is not offered: choose {one_of(choices)}.{suggest(str(value), map(str, choices))}"
        if problem["type"] == "value_error":
            return str(problem["ctx"]["error"])
        rule = problem["msg"].removeprefix("Input should be ").rstrip(".")
        return f"{option} {problem['input']}: it has to be {rule}."


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values that a ``Literal`` annotation (or an ``X | Literal`` union) allows; empty for other types."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return choices_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(c for part in typing.get_args(annotation) for c in choices_of(part))
    return ()


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def _by_comma(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Size = Annotated[Literal[28, 32, 64, 128], BeforeValidator(_number)]  # --set gives text
FixedCrop = Literal["dcgan108", "pggan128", "began128", "ncsn140", "vaegan148", "comparegan160", "center178", "squash"]
FIXED_CROPS: tuple[str, ...] = typing.get_args(FixedCrop)
DETECTORS = ("mediapipe", "mediapipe-short", "mediapipe-full", "none")


def _detector_name(name: str) -> str:
    if name not in DETECTORS and not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", name):
        raise ValueError(
            f"--detector {name} is not offered: choose {', '.join(DETECTORS)},\n"
            f"or name a class of your own as MODULE:CLASS.{suggest(name, DETECTORS)}"
        )
    return name


class PrepConfig(Settings):
    """Everything that decides which bytes ``facegan prep`` writes."""

    section: ClassVar[str] = "prep"

    size: Size = Field(default=64, description="side of a face in pixels")
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
    turn: Literal["none", "auto"] = Field(
        default="none", description="auto: photos on a side or upside down are turned to where their face is upright"
    )
    min_score: Fraction = Field(default=0.5, description="least detection score")
    faces: Literal["best", "only", "all"] = Field(
        default="best", description="best: highest score near the centre; only: photos with just one; all: every face"
    )
    min_face: Annotated[int, Field(ge=0)] = Field(
        default=0, description="least side of a crop, in the photo's pixels; smaller is too_small; 0: off"
    )
    blur: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="least variance of the Laplacian of the crop in grey; less is blurry; 0: off"
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
        idle: dict[str, str] = dict.fromkeys(("margin", "turn", "max_outside"), moving)
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


def _augmentations(text: str) -> str:
    """The same names, each once and in the order in which they are applied."""
    return _names(text, AUGMENTATIONS, "augment")


def _regularisers(text: str) -> str:
    return _names(text, REGULARISERS, "regulariser")


def _names(text: str, known: tuple[str, ...], setting: str) -> str:
    """Names by comma: each once, in the order of ``known``; or ``none``."""
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in known and text != "none":
            raise ValueError(
                f"train.{setting} = {text}: there is no '{name}', only {one_of(known)}.{suggest(name, known)}"
            )
    return ",".join(name for name in known if name in asked) or "none"


Method = Literal["dcgan", "wgan-gp"]
Nets = Literal["dcgan", "dcgan-fc", "dcgan-pool", "mnist-conv", "mlp", "resnet", "began", "r3gan"]
Law = Literal["normal", "uniform", "uniform01", "sphere"]

# What a method sets apart from the defaults below. Radford et al. 2015; Gulrajani et al. 2017, algorithm 1.
METHODS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "wgan-gp": {
        "loss": "wgan-gp",
        "norm": "none",
        "batch": 64,
        "d_steps": 5,
        "lr_g": 1e-4,
        "lr_d": 1e-4,
        "beta1": 0.0,
        "beta2": 0.9,
    },
}

# What a pair of nets sets apart from them, as its paper or code has it; a method's settings go before.
NETS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "dcgan-fc": {"norm": "none", "latent": 128},
    "dcgan-pool": {"width": 16, "latent_law": "uniform"},
    "mnist-conv": {"norm": "none"},
    "mlp": {"width": 128, "norm": "none", "latent_law": "uniform01"},
    "resnet": {"norm": "spectral", "latent": 128},
    "began": {"loss": "began", "norm": "none", "latent": 64, "latent_law": "uniform"},
    "r3gan": {"width": 384, "norm": "none", "latent": 64},
}

AUGMENTATIONS = ("color", "translation", "cutout")
REGULARISERS = ("gp", "dragan", "r1", "r2")
PER_SAMPLE = ("gp", "r1", "r2")  # dragan is one too, and was published with batch norm
CROSS_ENTROPY = ("non-saturating", "minimax", "max-likelihood")
# Settings that are lengths; a training is as long as it is in images, whatever the batch or the number of GPUs.
LENGTHS = (
    "images",
    "d_head_start",
    "g_head_start",
    "plateau_images",
    "ema_images",
    "save_every",
    "sample_every",
    "log_every",
)
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[int, Field(ge=0)]


class TrainConfig(Settings):
    """Everything that decides what ``facegan train`` learns, and how it saves what it learnt."""

    section: ClassVar[str] = "train"
    # What may differ between a run and its continuation: it changes no weight.
    FREE_ON_RESUME: ClassVar[frozenset[str]] = frozenset(
        {"images", "save_every", "sample_every", "log_every", "keep", "milestones"}
    )

    method: Method = Field(default="dcgan", description="nets, loss and schedule by name")
    nets: Nets = Field(
        default="dcgan", description="pair of generator and discriminator; each has its own width, norm and latents"
    )
    width: Positive = Field(
        default=64, description="channels of the layer next to the pixels, or what a pair counts its channels by"
    )
    width_d: Positive | None = Field(default=None, description="the discriminator's width, where it is another")
    norm: Literal["batch", "none", "layer", "spectral"] = Field(
        default="batch", description="normalisation inside the discriminator"
    )
    sync_norm: bool = Field(
        default=False, description="batch norm over the batches of all processes; only with several of them"
    )
    latent: Positive = Field(default=100, description="length of a latent")
    latent_law: Law = Field(
        default="normal",
        description="how latents are drawn; uniform: in −1 … 1; uniform01: in 0 … 1; sphere: normal, of length √latent",
    )
    image_range: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="r: the discriminator sees pixels, real and fake, in −r … r"
    )
    loss: Literal[
        "non-saturating",
        "minimax",
        "max-likelihood",
        "wgan",
        "wgan-gp",
        "lsgan",
        "hinge",
        "relativistic",
        "began",
    ] = Field(default="non-saturating", description="adversarial loss; wgan-gp is wgan with the regulariser gp")
    regulariser: Annotated[str, AfterValidator(_regularisers)] = Field(
        default="none", description="penalties on the discriminator's gradient: none, or of gp,dragan,r1,r2 by comma"
    )
    gp_weight: Annotated[float, Field(ge=0)] = Field(default=10.0, description="weight λ of gp and dragan")
    r_gamma: Annotated[float, Field(ge=0)] = Field(default=10.0, description="γ of r1 and r2, whose weight is γ/2")
    penalty_every: Positive = Field(
        default=1, description="discriminator steps between penalties; each then weighs as much more"
    )
    clip: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="the discriminator's weights are kept within ± this after each step; 0: they are not"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="s: real images are to be called real with probability 1 − s"
    )
    began_gamma: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="γ of BEGAN: the error of fake images relative to that of real ones"
    )
    began_rate: Rate = Field(default=0.001, description="λ_k of BEGAN: how fast k follows")
    images: Positive = Field(
        default=5_000_000,
        description="length of the training: real images shown to the discriminator (200000, 200k, 5M), or steps "
        "(2000st) or epochs (50ep)",
    )
    batch: Positive = Field(default=128, description="images a step, of all processes together")
    accumulate: Positive = Field(
        default=1, description="parts that a batch is computed in, one after the other, for less memory"
    )
    d_steps: Positive = Field(default=1, description="discriminator steps a round")
    g_steps: Positive = Field(default=1, description="generator steps a round")
    d_head_start: NotNegative = Field(
        default=0, description="images at the start in which the discriminator alone learns"
    )
    g_head_start: NotNegative = Field(default=0, description="images at the start in which the generator alone learns")
    optimizer: Literal["adam", "rmsprop", "sgd"] = Field(default="adam", description="of both nets")
    lr_g: Rate = Field(default=2e-4, description="generator's learning rate")
    lr_d: Rate = Field(default=2e-4, description="discriminator's learning rate")
    beta1: Decay = Field(default=0.5, description="Adam's decay of the gradient's mean")
    beta2: Decay = Field(default=0.999, description="Adam's and RMSProp's decay of the gradient's square")
    momentum: Decay = Field(default=0.0, description="of sgd and rmsprop")
    schedule: Literal["constant", "cosine", "linear", "plateau"] = Field(
        default="constant",
        description="of both learning rates over the training; cosine and linear end at 0; plateau: halved where "
        "BEGAN's measure of convergence stalls",
    )
    plateau_images: Positive = Field(
        default=200_000, description="images without a smaller measure of convergence before the rates are halved"
    )
    ema_images: Annotated[float, Field(ge=0)] = Field(
        default=10_000.0, description="half-life of the generator's moving average in images; 0 keeps the last weights"
    )
    flip: bool = Field(default=False, description="each real image is mirrored with probability ½")
    augment: Annotated[str, AfterValidator(_augmentations)] = Field(
        default="none", description="DiffAugment (Zhao et al. 2020): none, or of color,translation,cutout by comma"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="auto: bf16 where the device has it, else fp32; WGAN-GP's penalty is always fp32"
    )
    tf32: bool = Field(default=True, description="TF32 for fp32 on GPUs that have it; never in WGAN-GP's penalty")
    deterministic: bool = Field(default=False, description="on a GPU: only kernels that give the same bits each time")
    graphs: bool = Field(default=True, description="on an NVIDIA GPU: rounds recorded as CUDA graphs and replayed")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="start of every random number")
    save_every: Positive = Field(default=50_000, description="images between checkpoints")
    sample_every: Positive = Field(default=10_000, description="images between sample grids")
    log_every: Positive = Field(default=1_000, description="images between rows of stats.jsonl")
    keep: Positive = Field(default=3, description="checkpoints kept beside each other")
    milestones: Annotated[tuple[Positive, ...], BeforeValidator(_by_comma)] = Field(
        default=(), description="lengths (20k,5M) at which checkpoints are made that are kept for good, by comma"
    )

    @classmethod
    def for_method(cls, method: str, faces: int | None = None, **given: Any) -> Self:
        """Settings of a method, with what is given over its defaults.

        Args:
            faces: how many faces the dataset has: needed where a length is given in epochs.
        """
        values = {**METHODS.get(method, {}), "method": method, **given}
        return cls.of(cls._in_images(values, faces))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        return super().of(cls._in_images(values, None))

    @classmethod
    def _in_images(cls, values: Mapping[str, Any], faces: int | None) -> dict[str, Any]:
        """Lengths that are text as numbers of images."""
        values = dict(values)
        if "milestones" in values:
            values["milestones"] = _by_comma(values["milestones"])
        batch, d_steps = (_number(values.get(name, cls.default(name))) for name in ("batch", "d_steps"))
        round_images = batch * d_steps if isinstance(batch, int) and isinstance(d_steps, int) else 1
        try:
            for name in (name for name in LENGTHS if name in values):
                values[name] = images_of(values[name], "--" + name.replace("_", "-"), round_images, faces)
            if isinstance(values.get("milestones"), list | tuple):
                values["milestones"] = [
                    images_of(value, "train.milestones", round_images, faces) for value in values["milestones"]
                ]
        except ValueError as error:
            raise SettingsError(str(error)) from None
        return values

    @model_validator(mode="before")
    @classmethod
    def _nets_have_defaults(cls, values: Any) -> Any:
        return {**NETS.get(str(values.get("nets")), {}), **values}

    @property
    def round_images(self) -> int:
        """Real images that a round shows to the discriminator."""
        return self.batch * self.d_steps

    @property
    def caution(self) -> str:
        """What can be done and is doubtful, as a sentence; "" where nothing is."""
        if "dragan" in self.regularisers and self.norm == "batch":
            return (
                "train.regulariser = dragan is a penalty per sample, and batch normalisation mixes the samples: it was "
                "published so (Kodali et al. 2017), and train.norm=none is cleaner."
            )
        return ""

    @property
    def regularisers(self) -> tuple[str, ...]:
        given = () if self.regulariser == "none" else tuple(self.regulariser.split(","))
        return ("gp", *given) if self.loss == "wgan-gp" else given

    @property
    def augmentations(self) -> tuple[str, ...]:
        return () if self.augment == "none" else tuple(self.augment.split(","))

    @property
    def free_on_resume(self) -> frozenset[str]:
        """What may change while the run goes on: the length and the log, only where no learning rate hangs on them."""
        tied = {"cosine": {"images"}, "linear": {"images"}, "plateau": {"log_every"}}
        return self.FREE_ON_RESUME - tied.get(self.schedule, set())

    @model_validator(mode="after")
    def _penalty_is_per_sample(self) -> Self:
        per_sample = [name for name in self.regularisers if name in PER_SAMPLE]
        if per_sample and self.norm == "batch":
            what = "loss wgan-gp" if self.loss == "wgan-gp" else f"regulariser {per_sample[0]}"
            raise ValueError(
                f"train.norm = batch does not go with the {what}: its penalty is per sample, and batch\n"
                "normalisation mixes the samples (Gulrajani et al. 2017, section 4). Set train.norm=none."
            )
        if self.loss == "wgan-gp" and "gp" in self.regulariser.split(","):
            raise ValueError("train.regulariser = gp is part of the loss wgan-gp. Leave it out.")
        if self.loss == "relativistic" and self.g_head_start:
            raise ValueError(
                "train.g_head_start does not go with the loss relativistic: G's compares with real images."
            )
        if self.schedule == "plateau" and self.loss != "began":
            raise ValueError("train.schedule = plateau follows BEGAN's measure of convergence: set train.loss=began.")
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.batch % self.accumulate:
            raise ValueError(f"--batch {self.batch} can't be computed in {self.accumulate} equal parts.")
        if self.d_head_start and self.g_head_start:
            raise ValueError(
                "d_head_start and g_head_start: only one net can have a head start. Leave one of them out."
            )
        for name, why in self._idle().items():
            if getattr(self, name) != METHODS[self.method].get(name, self.default(name)):
                raise ValueError(f"train.{name} changes nothing {why}. Leave it out.")
        return self

    def _idle(self) -> dict[str, str]:
        """Settings that change nothing beside the others, and why."""
        idle: dict[str, str] = {}
        if not self.regularisers:
            idle["penalty_every"] = f"with the loss {self.loss}, which has no penalty, and no regulariser"
        if not {"gp", "dragan"} & {*self.regularisers}:
            idle["gp_weight"] = (
                f"with the loss {self.loss}, which has no penalty, and neither regulariser gp nor dragan"
            )
        if not {"r1", "r2"} & {*self.regularisers}:
            idle["r_gamma"] = "without the regulariser r1 or r2"
        if self.loss not in CROSS_ENTROPY:
            idle["label_smoothing"] = f"with the loss {self.loss}, which has no labels"
        if self.loss != "began":
            idle |= dict.fromkeys(("began_gamma", "began_rate"), f"with the loss {self.loss}")
        if self.schedule != "plateau":
            idle["plateau_images"] = f"with the schedule {self.schedule}"
        if self.optimizer == "adam":
            idle["momentum"] = "with adam, whose momentum is train.beta1"
        else:
            idle["beta1"] = f"with {self.optimizer}, whose momentum is train.momentum"
        if self.optimizer == "sgd":
            idle["beta2"] = "with sgd, which keeps no mean of squares"
        return idle
