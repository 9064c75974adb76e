"""Settings of ``facegan train``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from facegan.config.base import Positive, Settings, by_comma, choices_of, images_of, plain_number
from facegan.config.evaluate import METRIC_TABLE, TRAINING_METRICS
from facegan.errors import SettingsError, one_of, suggest
from facegan.plugins import is_import_path

# What a method, and what a pair of nets, sets apart from the defaults of `facegan.config.train`.

Method = Literal["dcgan", "wgan-gp"]
Nets = Literal["dcgan", "dcgan-fc", "dcgan-pool", "mnist-conv", "mlp", "resnet", "began", "r3gan"]
Loss = Literal[
    "non-saturating", "minimax", "max-likelihood", "wgan", "wgan-gp", "lsgan", "hinge", "relativistic", "began"
]
LatentDistribution = Literal["normal", "uniform", "uniform01", "sphere"]

# What a method sets apart from the defaults of `facegan.config.train`. dcgan: Radford et al. 2015. wgan-gp: Gulrajani
# et al. 2017, algorithm 1, but with one step of the critic at thrice the generator's rate for its five at the same, as
# the code of Heusel et al. 2017 has one ("two time scales"), and half its batch: after as many images the generator has
# taken ten times the steps. BENCHMARKS.md has what comes of both.
METHODS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "wgan-gp": {
        "loss": "wgan-gp",
        "norm": "none",
        "batch": 32,
        "lr_g": 1e-4,
        "lr_d": 3e-4,
        "beta1": 0.0,
        "beta2": 0.9,
    },
}

# What a pair of nets sets apart from them, as its paper or code has it; a method's settings go before.
NETS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "dcgan-fc": {"norm": "none", "latent": 128},
    "dcgan-pool": {"width": 16, "latent_distribution": "uniform"},
    "mnist-conv": {"norm": "none"},
    "mlp": {"width": 128, "norm": "none", "latent_distribution": "uniform01"},
    "resnet": {"norm": "spectral", "latent": 128},
    "began": {"loss": "began", "norm": "none", "latent": 64, "latent_distribution": "uniform"},
    "r3gan": {"width": 384, "norm": "none", "latent": 64},
}


def defaults_of_nets(name: str) -> dict[str, Any]:
    """What a pair of nets sets apart; one of a user's own (``MODULE:NAME``) has no norm that facegan could choose."""
    return {"norm": "none"} if is_import_path(name) else NETS.get(name, {})


def _augmentations(text: str) -> str:
    """The same names, each once and in the order in which they are applied."""
    return _names(text, AUGMENTATIONS, "augment")


def _regularisers(text: str) -> str:
    return _names(text, REGULARISERS, "regulariser")


def _nets(name: str) -> str:
    return _known_or_own(name, choices_of(Nets), "nets", "a pair of nets (facegan.nets.Pair)")


def _loss(name: str) -> str:
    return _known_or_own(name, choices_of(Loss), "loss", "a loss (facegan.training.Loss)")


def _known_or_own(name: str, known: tuple[str, ...], setting: str, what: str) -> str:
    if name not in known and not is_import_path(name):
        raise ValueError(
            f"train.{setting} = {name} is not offered: choose {one_of(known)},\n"
            f"or name {what} of your own as MODULE:NAME.{suggest(name, known)}"
        )
    return name


def _names(text: str, known: tuple[str, ...], setting: str) -> str:
    """Names by comma: each once, in the order of ``known``; or ``none``."""
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in known and text != "none":
            raise ValueError(
                f"train.{setting} = {text}: there is no '{name}', only {one_of(known)}.{suggest(name, known)}"
            )
    return ",".join(name for name in known if name in asked) or "none"


def _measured(text: str) -> str:
    """Metrics by comma, each once, in the order given: the first chooses the best checkpoint, by its least value."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in TRAINING_METRICS:
            raise ValueError(
                f"train.eval_metrics = {text}: '{name}' is not measured on the way, only {one_of(TRAINING_METRICS)}."
                f"{suggest(name, TRAINING_METRICS)}"
            )
    if METRIC_TABLE[names[0]].better != "less":
        first = one_of(name for name in TRAINING_METRICS if METRIC_TABLE[name].better == "less")
        raise ValueError(
            f"train.eval_metrics = {text}: the best checkpoint is the one with the least of the first. "
            f"Begin with {first}."
        )
    return ",".join(names)


AUGMENTATIONS = ("color", "translation", "cutout")
REGULARISERS = ("gp", "dragan", "r1", "r2")
PER_SAMPLE = ("gp", "r1", "r2")  # dragan is one too, and was published with batch norm
CROSS_ENTROPY = ("non-saturating", "minimax", "max-likelihood")
# Settings that are lengths; a training is as long as it is in images, whatever the batch or the number of GPUs.
LENGTHS = (
    "images",
    "d_warmup_images",
    "g_warmup_images",
    "ema_images",
    "save_every",
    "sample_every",
    "log_every",
    "eval_every",
)
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[int, Field(ge=0)]


class TrainConfig(Settings):
    """Everything that decides what ``facegan train`` learns, and how it saves what it learnt."""

    section: ClassVar[str] = "train"
    # What may differ between a run and its continuation: it changes no weight.
    FREE_ON_RESUME: ClassVar[frozenset[str]] = frozenset(
        {"images", "save_every", "sample_every", "log_every", "eval_every", "eval_n", "eval_metrics", "keep"}
        | {"milestones"}
    )

    method: Method = Field(default="dcgan", description="nets, loss and schedule by name")
    nets: Annotated[Nets | str, AfterValidator(_nets)] = Field(
        default="dcgan",
        description="pair of generator and discriminator; each has its own width, norm and latents; or MODULE:NAME: "
        "your own (facegan.nets.Pair)",
    )
    width: Positive = Field(
        default=64, description="channels of the layer next to the pixels, or what a pair counts its channels by"
    )
    width_d: Positive | None = Field(default=None, description="the discriminator's width, where it is another")
    norm: Literal["batch", "none", "layer", "spectral"] = Field(
        default="batch", description="normalisation inside the discriminator"
    )
    sync_batchnorm: bool = Field(
        default=False, description="batch norm over the batches of all processes (torch's SyncBatchNorm); GPUs only"
    )
    latent: Positive = Field(default=100, description="length of a latent")
    latent_distribution: LatentDistribution = Field(
        default="normal",
        description="how latents are drawn; uniform: in −1 … 1; uniform01: in 0 … 1; sphere: normal, of length √latent",
    )
    image_range: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="r: the discriminator sees pixels, real and fake, in −r … r"
    )
    loss: Annotated[Loss | str, AfterValidator(_loss)] = Field(
        default="non-saturating",
        description="adversarial loss; wgan-gp is wgan with the regulariser gp; or MODULE:NAME: your own "
        "(facegan.training.Loss)",
    )
    regulariser: Annotated[str, AfterValidator(_regularisers)] = Field(
        default="none", description="penalties on the discriminator's gradient: none, or of gp,dragan,r1,r2 by comma"
    )
    gp_weight: Annotated[float, Field(ge=0)] = Field(default=10.0, description="weight λ of gp and dragan")
    r1_gamma: Annotated[float, Field(ge=0)] = Field(default=10.0, description="γ of r1 and r2, whose weight is γ/2")
    penalty_every: Positive = Field(
        default=1, description="discriminator steps between penalties; each then weighs as much more"
    )
    weight_clip: Annotated[float, Field(ge=0)] = Field(
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
    grad_accum_steps: Positive = Field(
        default=1, description="parts that a batch is computed in, one after the other, for less memory"
    )
    d_steps: Positive = Field(default=1, description="discriminator steps a round")
    g_steps: Positive = Field(default=1, description="generator steps a round")
    d_warmup_images: NotNegative = Field(
        default=0, description="images at the start in which the discriminator alone learns"
    )
    g_warmup_images: NotNegative = Field(
        default=0, description="images at the start in which the generator alone learns"
    )
    optimizer: Literal["adam", "rmsprop", "sgd"] = Field(default="adam", description="of both nets")
    lr_g: Rate = Field(default=2e-4, description="generator's learning rate")
    lr_d: Rate = Field(default=2e-4, description="discriminator's learning rate")
    beta1: Decay = Field(default=0.5, description="Adam's decay of the gradient's mean")
    beta2: Decay = Field(default=0.999, description="Adam's and RMSProp's decay of the gradient's square")
    momentum: Decay = Field(default=0.0, description="of sgd and rmsprop")
    schedule: Literal["constant", "cosine", "linear"] = Field(
        default="constant", description="of both learning rates over the training; cosine and linear end at 0"
    )
    ema_images: Annotated[float, Field(ge=0)] = Field(
        default=10_000.0, description="half-life of the generator's moving average in images; 0 keeps the last weights"
    )
    random_flip: bool = Field(default=False, description="each real image is mirrored with probability ½")
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
    sample_every: Positive = Field(
        default=10_000,
        description="images between sample grids; below that, there are also grids at 500, 1k, 2k and 5k images",
    )
    log_every: Positive = Field(default=1_000, description="images between rows of stats.jsonl")
    eval_every: NotNegative = Field(
        default=0, description="images between measurements, by which the best checkpoint is kept; 0: never"
    )
    eval_n: Positive = Field(default=2_048, description="samples, and real faces, that are compared in a measurement")
    eval_metrics: Annotated[str, AfterValidator(_measured)] = Field(
        default="swd",
        description=f"what is measured on the way, of {','.join(TRAINING_METRICS)} by comma; the best checkpoint is "
        "the one with the least of the first",
    )
    keep: Positive = Field(default=3, description="checkpoints kept beside each other")
    milestones: Annotated[tuple[Positive, ...], BeforeValidator(by_comma)] = Field(
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
            values["milestones"] = by_comma(values["milestones"])
        batch, d_steps = (plain_number(values.get(name, cls.default(name))) for name in ("batch", "d_steps"))
        step_images = batch * d_steps if isinstance(batch, int) and isinstance(d_steps, int) else 1
        try:
            for name in (name for name in LENGTHS if name in values):
                values[name] = images_of(values[name], "--" + name.replace("_", "-"), step_images, faces)
            if isinstance(values.get("milestones"), list | tuple):
                values["milestones"] = [
                    images_of(value, "train.milestones", step_images, faces) for value in values["milestones"]
                ]
        except ValueError as error:
            raise SettingsError(str(error)) from None
        return values

    @model_validator(mode="before")
    @classmethod
    def _nets_have_defaults(cls, values: Any) -> Any:
        return {**defaults_of_nets(str(values.get("nets"))), **values}

    @property
    def step_images(self) -> int:
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
        return self.FREE_ON_RESUME - (set() if self.schedule == "constant" else {"images"})

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
        if self.loss == "relativistic" and self.g_warmup_images:
            raise ValueError(
                "train.g_warmup_images does not go with the loss relativistic: G's compares with real images."
            )
        mixes = self.norm == "batch" or is_import_path(self.nets)
        if self.sync_batchnorm and mixes and "dragan" in self.regularisers:
            raise ValueError(
                "train.sync_batchnorm has no second derivative, which the regulariser dragan needs.\n"
                "Leave one of them out, or set train.norm=none."
            )
        return self

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.batch % self.grad_accum_steps:
            raise ValueError(f"--batch {self.batch} can't be computed in {self.grad_accum_steps} equal parts.")
        if self.d_warmup_images and self.g_warmup_images:
            raise ValueError(
                "d_warmup_images and g_warmup_images: only one net can have a warm-up. Leave one of them out."
            )
        few = [name for name in self.eval_metrics.split(",") if self.eval_n < METRIC_TABLE[name].least_images]
        if few:
            least = METRIC_TABLE[few[0]].least_images
            raise ValueError(f"train.eval_n = {self.eval_n}: {few[0]} needs {least} images. Raise it, or leave it out.")
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
            idle["r1_gamma"] = "without the regulariser r1 or r2"
        if self.loss not in CROSS_ENTROPY and not is_import_path(self.loss):
            idle["label_smoothing"] = f"with the loss {self.loss}, which has no labels"
        if self.loss != "began" and not is_import_path(self.loss):
            idle |= dict.fromkeys(("began_gamma", "began_rate"), f"with the loss {self.loss}")
        if not self.eval_every:
            idle |= dict.fromkeys(("eval_n", "eval_metrics"), "without train.eval_every")
        if self.optimizer == "adam":
            idle["momentum"] = "with adam, whose momentum is train.beta1"
        else:
            idle["beta1"] = f"with {self.optimizer}, whose momentum is train.momentum"
        if self.optimizer == "sgd":
            idle["beta2"] = "with sgd, which keeps no mean of squares"
        return idle
