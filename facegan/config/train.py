"""Settings of ``facegan train``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationInfo, model_validator

from facegan.config.base import (
    NotNegative,
    Positive,
    Seed,
    Settings,
    choices_of,
    images_of,
    in_epochs,
    known_or_own,
    listed,
    names_among,
    plain_number,
    seconds_of,
    setting,
    unique_names,
)
from facegan.config.evaluate import METRIC_TABLE, TRAINING_METRICS
from facegan.console import shown
from facegan.errors import one_of
from facegan.plugins import is_import_path

Method = Literal["dcgan", "wgan-gp", "fast"]
Nets = Literal["dcgan", "dcgan-fc", "dcgan-pool", "mnist-conv", "mlp", "resnet", "began", "r3gan"]
Loss = Literal[
    "non-saturating", "minimax", "max-likelihood", "wgan", "wgan-gp", "lsgan", "hinge", "relativistic", "began"
]
LatentDistribution = Literal["normal", "uniform", "uniform01", "sphere"]

# Settings of a method that differ from the defaults. dcgan: Radford et al. 2015. wgan-gp: Gulrajani et al. 2017,
# algorithm 1, but with one critic step at three times the generator's rate instead of five at the same rate, as in the
# code of Heusel et al. 2017 ("two time scales"), and half the batch: after as many images the generator has taken ten
# times the steps. fast: the losses and penalties of Huang et al. 2024 (R3GAN) on DCGAN's nets, with lazy penalties
# and adaptive augmentation; width, rates and batch by search for an hour on two CPU cores (BENCHMARKS.md).
METHODS: dict[str, dict[str, Any]] = {
    "dcgan": {},
    "wgan-gp": {"loss": "wgan-gp", "norm": "none", "batch": 32, "lr_g": 1e-4, "lr_d": 3e-4, "beta1": 0.0, "beta2": 0.9},
    "fast": {"width": 48, "norm": "none", "loss": "relativistic", "regulariser": "r1,r2", "r1_gamma": 1.0, "batch": 16}
    | {"penalty_every": 8, "lr_g": 1e-3, "lr_d": 1e-3, "schedule": "cosine", "beta1": 0.0, "beta2": 0.99}
    | {"random_flip": True, "augment": "ada", "ada_images": 100_000},
}

# Settings of a pair of nets that differ from the defaults, from its paper or code. A method's settings override them.
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

CONDITIONAL_NETS = ("dcgan", "dcgan-fc", "resnet", "r3gan")  # their discriminators have `Discriminator.features`


def defaults_of_nets(name: str) -> dict[str, Any]:
    """Settings of a pair of nets that differ from the defaults. facegan cannot choose the norm of a user's own pair."""
    return {"norm": "none"} if is_import_path(name) else NETS.get(name, {})


def _some_of(setting: str, known: tuple[str, ...]) -> AfterValidator:
    """Comma-separated names, each once, in the order of ``known``; or ``none``."""

    def check(text: str) -> str:
        names = [] if text == "none" else names_among(text, known, f"train.{setting} =")
        if "ada" in names and len(names) > 1:
            raise ValueError(f"train.augment = {text}: ada is used alone. Leave out the others, or ada.")
        return ",".join(name for name in known if name in names) or "none"

    return AfterValidator(check)


def _eval_metrics(text: str) -> str:
    """Metrics in the given order: the lowest value of the first is the best."""
    names = names_among(text, TRAINING_METRICS, "train.eval_metrics =", "'{}' is not available during training")
    if not names or METRIC_TABLE[names[0]].better != "lower":
        first = one_of(name for name in TRAINING_METRICS if METRIC_TABLE[name].better == "lower")
        rule = "the first must be a metric whose lower values are better"
        raise ValueError(f"train.eval_metrics = {text}: {rule}. Start with {first}.")
    return ",".join(names)


AUGMENTATIONS = ("color", "translation", "cutout", "ada")
REGULARISERS = ("gp", "dragan", "r1", "r2")
PER_SAMPLE = ("gp", "r1", "r2")  # dragan is one too, and was published with batch norm
CROSS_ENTROPY = ("non-saturating", "minimax", "max-likelihood")
_EVERY = ("save_every", "sample_every", "log_every", "eval_every")
# Settings that are lengths. They count images, whatever the batch size and the number of GPUs.
LENGTHS = ("images", "d_warmup_images", "g_warmup_images", "ema_images", "ada_images", *_EVERY)
_OWN_NETS = known_or_own("train.nets =", choices_of(Nets), "pair (facegan.nets.Pair) as MODULE:NAME")
_OWN_LOSS = known_or_own("train.loss =", choices_of(Loss), "loss (facegan.training.Loss) as MODULE:NAME")
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _shares(text: str) -> str:
    pairs, names = listed(text), set[str]()
    if text and not pairs:
        raise ValueError(f"--balance {text} has no shares. Write NAME=SHARE, separated by commas, or leave it out.")
    for pair in pairs:
        name, _, share = pair.partition("=")
        if name in names:
            raise ValueError(f"--balance {text} has two shares of {name}. Leave one of them out.")
        names.add(name)
        if not (name and re.fullmatch(r"0?\.\d+", share)) or not float(share):
            raise ValueError(f"--balance {pair} is invalid. Write NAME=SHARE, with a share between 0 and 1.")
    return text


class TrainConfig(Settings):
    """Everything that decides what ``facegan train`` learns, logs and saves."""

    section: ClassVar[str] = "train"
    options: ClassVar[str] = (
        "method condition balance balance_by images batch precision seed save_every sample_every log_every eval_every "
        "stop_after keep deterministic graphs"
    )
    # Settings that may change when a run resumes: they change no weight.
    FREE_ON_RESUME: ClassVar[tuple[str, ...]] = (
        *("images", *_EVERY, "eval_n", "eval_metrics", "stop_after", "keep", "milestones"),
    )

    method: Method = setting("dcgan", "nets, loss and schedule by name")
    nets: Annotated[Nets | str, _OWN_NETS] = setting(
        "dcgan",
        "pair of generator and discriminator, with its own default width, norm and latents; or MODULE:NAME: your own "
        "(facegan.nets.Pair)",
    )
    width: Positive = setting(64, "channels of the layer next to the pixels, or the pair's unit of width", "channels")
    width_d: Positive | None = setting(None, "the discriminator's width, if it differs", "channels")
    norm: Literal["batch", "none", "layer", "spectral"] = setting("batch", "normalisation in the discriminator")
    sync_batchnorm: bool = setting(
        False, "normalise over the batches of all processes (torch's SyncBatchNorm); GPUs only"
    )
    latent: Positive = setting(100, "length of a latent", "numbers")
    latent_distribution: LatentDistribution = setting(
        "normal",
        "distribution of latents; uniform: in −1 … 1; uniform01: in 0 … 1; sphere: normal, scaled to length √latent",
    )
    image_range: float = setting(1.0, "r: the discriminator sees real and fake pixels in −r … r", gt=0, le=1)
    loss: Annotated[Loss | str, _OWN_LOSS] = setting(
        "non-saturating",
        "adversarial loss; wgan-gp is wgan with the regulariser gp; or MODULE:NAME: your own (facegan.training.Loss)",
    )
    regulariser: Annotated[str, _some_of("regulariser", REGULARISERS)] = setting(
        "none", "gradient penalties on the discriminator: none, or some of gp,dragan,r1,r2"
    )
    gp_weight: float = setting(10.0, "weight λ of gp and dragan", ge=0)
    r1_gamma: float = setting(10.0, "γ of r1 and r2, whose weight is γ/2", ge=0)
    penalty_every: Positive = setting(1, "discriminator steps between penalties, each weighted by this number", "steps")
    weight_clip: float = setting(0.0, "clip the discriminator's weights to ± this after each step; 0: off", ge=0)
    label_smoothing: float = setting(0.0, "s: the target probability of real images is 1 − s", ge=0, lt=0.5)
    began_gamma: float = setting(0.5, "γ of BEGAN: the target ratio of the errors of fake and real images", gt=0, le=1)
    began_rate: Rate = setting(0.001, "λ_k of BEGAN: the step size of k", "per step")
    condition: Annotated[str, unique_names("--condition")] = setting(
        "", "attributes to condition on: Eyeglasses,Male, or one with classes"
    )
    balance: Annotated[str, AfterValidator(_shares)] = setting(
        "", "shares of attributes in an epoch: Eyeglasses=0.3,Male=0.5"
    )
    balance_by: str = setting("", "balance classes: the same number of faces of each")
    images: Positive = setting(
        5_000_000,
        "length of the training: real images shown to the discriminator (200000, 200k, 5M), steps (2000st), epochs "
        "(50ep) or time on this machine (30min, 1h, 2d)",
        "images",
    )
    batch: Positive = setting(128, "batch size over all processes", "images")
    grad_accum_steps: Positive = setting(1, "equal parts of a batch, computed in turn to save memory", "parts")
    freeze_d: NotNegative = setting(
        0, "first layers of the discriminator that keep the weights of --init (FreezeD, Mo et al. 2020)", "layers"
    )
    d_steps: Positive = setting(1, "discriminator steps per iteration", "steps")
    g_steps: Positive = setting(1, "generator steps per iteration", "steps")
    d_warmup_images: NotNegative = setting(0, "images at the start that train only the discriminator", "images")
    g_warmup_images: NotNegative = setting(0, "images at the start that train only the generator", "images")
    optimizer: Literal["adam", "rmsprop", "sgd"] = setting("adam", "optimizer of both nets")
    lr_g: Rate = setting(2e-4, "generator's learning rate", "per step")
    lr_d: Rate = setting(2e-4, "discriminator's learning rate", "per step")
    beta1: Decay = setting(0.5, "Adam's decay of the gradient's mean", "per step")
    beta2: Decay = setting(0.999, "Adam's and RMSProp's decay of the squared gradient's mean", "per step")
    momentum: Decay = setting(0.0, "momentum of sgd and rmsprop", "per step")
    schedule: Literal["constant", "cosine", "linear"] = setting(
        "constant", "schedule of both learning rates; cosine and linear end at 0"
    )
    ema_images: float = setting(
        10_000.0, "half-life of the generator's moving average; 0: use the last weights", "images", ge=0
    )
    random_flip: bool = setting(False, "mirror each real image with probability ½")
    augment: Annotated[str, _some_of("augment", AUGMENTATIONS)] = setting(
        "none",
        "none; some of color,translation,cutout (DiffAugment, Zhao et al. 2020); or ada, whose strength follows the "
        "discriminator (Karras et al. 2020)",
    )
    ada_target: float = setting(
        0.6, "mean sign of the discriminator on real images above which ada augments more, else less", gt=-1, lt=1
    )
    ada_images: Positive = setting(500_000, "images in which ada's probability can rise from 0 to 1", "images")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto", "auto: bf16 if the device supports it, else fp32; gradient penalties are always fp32"
    )
    tf32: bool = setting(
        True, "use TF32 for fp32 matrix products on GPUs that support it, except in gradient penalties"
    )
    deterministic: bool = setting(False, "use only GPU kernels that give the same bits each time")
    graphs: bool = setting(True, "capture steps as CUDA graphs (NVIDIA GPUs)")
    seed: Seed = setting(0, "seed of all random numbers")
    save_every: Positive = setting(50_000, "images between checkpoints", "images")
    sample_every: Positive = setting(
        10_000, "images between sample grids; if above 5k, also at 500, 1k, 2k and 5k images", "images"
    )
    log_every: Positive = setting(1_000, "images between rows of stats.jsonl", "images")
    eval_every: NotNegative = setting(
        0, "images between evaluations, which choose the best checkpoint; 0: never", "images"
    )
    eval_n: Positive = setting(2_048, "samples, and real faces, per evaluation", "images")
    eval_metrics: Annotated[str, AfterValidator(_eval_metrics)] = setting(
        "swd",
        f"metrics of an evaluation, some of {','.join(TRAINING_METRICS)}; the checkpoint with the lowest value of the "
        "first is the best",
    )
    stop_after: NotNegative = setting(
        0, "stop when the first of eval_metrics has not improved for so many evaluations; 0: never", "evaluations"
    )
    keep: Positive = setting(3, "number of latest checkpoints to keep", "checkpoints")
    milestones: tuple[Positive, ...] = setting((), "images (20k,5M) whose checkpoints are never pruned", "images")

    _time: str = PrivateAttr("")

    @property
    def time(self) -> str:
        """The length as time (``1h``), until `facegan.train` has measured how many images that is: `images` is unknown
        so long. Else ""."""
        return self._time

    @property
    def length(self) -> str:
        """``"200,000 images"``, or the time."""
        return self.time or f"{self.images:,} images"

    @property
    def unmeasured(self) -> dict[str, Any]:
        """Of a plan whose length is a time."""
        return {"images": None, "time": self.time} if self.time else {}

    def with_images(self, images: int) -> Self:
        """These settings with a number of images instead of a time."""
        return self.of({**self.model_dump(), "images": images})

    @classmethod
    def for_method(cls, method: str, faces: int | None = None, **given: Any) -> Self:
        """Settings of a method; lengths in epochs need the number of faces."""
        return cls.of({"method": method, **given}, faces=faces)

    @staticmethod
    def lengths_in_epochs(values: Mapping[str, Any]) -> tuple[str, ...]:
        """The settings whose value depends on the number of faces."""
        return tuple(name for name in (*LENGTHS, "milestones") if any(map(in_epochs, listed(values.get(name)))))

    @classmethod
    def default_text(cls, name: str) -> str:
        by_method = any(name in values for values in METHODS.values())
        return "by method" if by_method and name != "method" else super().default_text(name)

    @model_validator(mode="before")
    @classmethod
    def _with_defaults(cls, given: Any, info: ValidationInfo) -> dict[str, Any]:
        """Defaults of the nets and the method, which overrides the nets; lengths as numbers of images."""
        values = defaults_of_nets(str(given.get("nets"))) | METHODS.get(str(given.get("method")), {}) | given
        batch, d_steps = (plain_number(values.get(name, cls.default(name))) for name in ("batch", "d_steps"))
        step_images = batch * d_steps if isinstance(batch, int) and isinstance(d_steps, int) else 1
        faces = (info.context or {}).get("faces")
        for name in (name for name in LENGTHS if name in values):
            values[name] = images_of(values[name], cls.label(name), step_images, faces)
        if "milestones" in values:
            lengths = listed(values["milestones"])
            values["milestones"] = [images_of(value, "train.milestones", step_images, faces) for value in lengths]
        return values

    @model_validator(mode="wrap")
    @classmethod
    def _with_time(cls, given: Any, validate: Callable[[Any], Self]) -> Self:
        time = str(given.get("images")) if isinstance(given, Mapping) else ""
        if (seconds := seconds_of(time)) is None:
            return validate(given)
        if not seconds:
            raise ValueError(f"--images {shown(time)} is too short. Write a time greater than 0.")
        config = validate({name: value for name, value in given.items() if name != "images"})
        config._time = time.strip()
        return config

    @property
    def step_images(self) -> int:
        """Real images that one iteration shows to the discriminator."""
        return self.batch * self.d_steps

    @property
    def caution(self) -> str:
        """A sentence about a doubtful combination of settings; "" if there is none."""
        if "dragan" not in self.regularisers or self.norm != "batch":
            return ""
        mixing = "train.regulariser = dragan is a penalty per sample, and batch normalisation mixes the samples."
        return f"{mixing} Kodali et al. 2017 published it so; train.norm=none is cleaner."

    @property
    def regularisers(self) -> tuple[str, ...]:
        given = () if self.regulariser == "none" else tuple(self.regulariser.split(","))
        return ("gp", *given) if self.loss == "wgan-gp" else given

    @property
    def augmentations(self) -> tuple[str, ...]:
        """Of DiffAugment."""
        return () if self.augment in ("none", "ada") else tuple(self.augment.split(","))

    @property
    def decisive(self) -> frozenset[str]:
        """Settings that decide the last weights, also of those that may change when the run resumes."""
        decide_end = {"stop_after", "eval_every", "eval_n", "eval_metrics"} if self.stop_after else set()
        return frozenset(type(self).model_fields) - self.free_on_resume | {"images"} | decide_end

    @property
    def free_on_resume(self) -> frozenset[str]:
        """What may change when the run resumes; the length only if the learning rates do not depend on it."""
        return frozenset(self.FREE_ON_RESUME) - (set() if self.schedule == "constant" else {"images"})

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        for problem in self._contradictions():
            raise ValueError(problem)
        for name, why in self._idle().items():
            if getattr(self, name) != METHODS[self.method].get(name, self.default(name)):
                needed = why.removeprefix("without ")
                remedy = f"Set {needed}, or leave it out." if needed.startswith("train.") else "Leave it out."
                raise ValueError(f"train.{name} has no effect {why}. {remedy}")
        return self

    def _contradictions(self) -> Iterator[str]:
        """Settings that cannot be used together, as sentences."""
        per_sample = [name for name in self.regularisers if name in PER_SAMPLE]
        if per_sample and self.norm == "batch":
            what = "loss wgan-gp" if self.loss == "wgan-gp" else f"regulariser {per_sample[0]}"
            why = "its penalty is per sample, and batch\nnormalisation mixes them (Gulrajani et al. 2017, section 4)"
            yield f"train.norm = batch cannot be used with the {what}: {why}. Set train.norm=none."
        if self.loss == "wgan-gp" and "gp" in self.regulariser.split(","):
            yield "train.regulariser = gp is part of the loss wgan-gp. Leave it out."
        if self.loss == "relativistic" and self.g_warmup_images:
            yield "train.g_warmup_images cannot be used with the loss relativistic: G's loss needs real images."
        is_normalised = self.norm == "batch" or is_import_path(self.nets)
        if self.sync_batchnorm and "dragan" in self.regularisers and is_normalised:
            why = "train.sync_batchnorm has no second derivative, which the regulariser dragan needs."
            yield f"{why}\nLeave one of them out, or set train.norm=none."
        if self.condition and self.nets not in CONDITIONAL_NETS:
            able = f"Leave it out, or set train.nets to {one_of(CONDITIONAL_NETS)}."
            yield f"--condition {shown(self.condition)} cannot be used with the nets '{shown(self.nets)}'. {able}"
        if self.balance_by and self.balance_by in {pair.partition("=")[0] for pair in listed(self.balance)}:
            yield f"--balance and --balance-by both name {shown(self.balance_by)}. Leave one of them out."
        if self.batch % self.grad_accum_steps:
            yield f"--batch {self.batch} cannot be split into {self.grad_accum_steps} equal parts."
        if self.d_warmup_images and self.g_warmup_images:
            yield "train.d_warmup_images and train.g_warmup_images cannot be used together. Leave one of them out."
        for metric in (METRIC_TABLE[name] for name in self.eval_metrics.split(",")):
            if self.eval_n < metric.least_images:
                least = f"{metric.name} needs {metric.least_images} images"
                yield f"train.eval_n = {self.eval_n}: {least}. Raise it, or leave it out."

    @property
    def shares(self) -> dict[str, float | None]:
        """Of attributes in an epoch, as `facegan.FaceShards.order` takes them."""
        pairs = (pair.partition("=") for pair in listed(self.balance) if pair)
        shares: dict[str, float | None] = {name: float(share) for name, _, share in pairs}
        return shares | ({self.balance_by: None} if self.balance_by else {})

    def _idle(self) -> dict[str, str]:
        """Settings that have no effect with the others, and why."""
        idle: dict[str, str] = {}
        if not self.regularisers:
            idle["penalty_every"] = f"with the loss {self.loss}, which has no penalty, and no regulariser"
        if not {"gp", "dragan"} & {*self.regularisers}:
            idle["gp_weight"] = f"with the loss {self.loss}, which has no penalty, and no regulariser gp or dragan"
        if not {"r1", "r2"} & {*self.regularisers}:
            idle["r1_gamma"] = "without the regulariser r1 or r2"
        if self.loss not in CROSS_ENTROPY and not is_import_path(self.loss):
            idle["label_smoothing"] = f"with the loss {self.loss}, which has no labels"
        if self.loss != "began" and not is_import_path(self.loss):
            idle |= dict.fromkeys(("began_gamma", "began_rate"), f"with the loss {self.loss}")
        if self.augment != "ada":
            idle |= dict.fromkeys(("ada_target", "ada_images"), "without train.augment=ada")
        if not self.eval_every:
            idle |= dict.fromkeys(("eval_n", "eval_metrics", "stop_after"), "without train.eval_every")
        if self.optimizer == "adam":
            idle["momentum"] = "with adam, whose momentum is train.beta1"
        else:
            idle["beta1"] = f"with {self.optimizer}, whose momentum is train.momentum"
        if self.optimizer == "sgd":
            idle["beta2"] = "with sgd, which keeps no mean of squared gradients"
        return idle
