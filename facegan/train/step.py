"""One round of training: the discriminator's steps, the generator's step, the moving average.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from facegan.config import TrainConfig
from facegan.errors import CheckpointError
from facegan.nets import NetSpec, make_discriminator, make_generator
from facegan.nets.noise import latents, random
from facegan.nets.weights import refuse_other_tensors
from facegan.train.ema import Ema
from facegan.train.losses import LOSSES, gradient_penalty
from facegan.train.precision import Precision, autocast

# The rows of Trainer.totals: what D's steps count, and what G's steps do.
_TOTALS_D = ("loss_d", "d_real", "d_fake", "d_accuracy", "gp")
_TOTALS_G = ("loss_g", "grad_g")
_TOTALS = (*_TOTALS_D, *_TOTALS_G)


def spec_of(config: TrainConfig, size: int, channels: int) -> NetSpec:
    return NetSpec(config.nets, size, channels, config.latent, config.width, config.norm)


def to_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) → float32 in [−1, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1.0)


class Trainer:
    """The nets, their optimizers and their average, and the steps that change them.

    Random numbers follow from the seed and the round, so this state and the stream's position are the whole state.
    """

    def __init__(self, config: TrainConfig, spec: NetSpec, device: torch.device, precision: Precision) -> None:
        self.config, self.spec, self.device = config, spec, device
        self.precision: Precision = precision
        self.loss = LOSSES[config.loss]
        # Channels last is the layout that oneDNN and cuDNN compute in; otherwise they reorder at every layer.
        place: dict[str, Any] = {"device": device, "memory_format": torch.channels_last}
        self.generator = make_generator(spec, config.seed).to(**place).train()
        self.discriminator = make_discriminator(spec, config.seed).to(**place).train()
        self.ema = Ema(self.generator, config.ema_images)
        self.optim_g = _adam(self.generator, config.lr_g, config)
        self.optim_d = _adam(self.discriminator, config.lr_d, config)
        # One a net: a scaler may be stepped once between updates, and D has several steps a round.
        scaled = precision == "fp16"
        self.scaler_g = torch.amp.GradScaler(device.type, enabled=scaled)
        self.scaler_d = torch.amp.GradScaler(device.type, enabled=scaled)
        self.skipped = torch.zeros((), device=device)  # steps that a scaler left out since the last row of the log
        # Sums since the last row of the log, kept on the device: reading a number would wait for the GPU.
        self.totals = torch.zeros(len(_TOTALS), device=device)
        self.rounds = self.rounds_in_totals = 0
        self._fake: Tensor | None = None
        self.lr_scale = 1.0

    @property
    def lr_scale(self) -> float:
        """Multiplies both learning rates; a roll-back halves it."""
        return self._lr_scale

    @lr_scale.setter
    def lr_scale(self, scale: float) -> None:
        self._lr_scale = scale
        for optimizer, rate in ((self.optim_g, self.config.lr_g), (self.optim_d, self.config.lr_d)):
            for group in optimizer.param_groups:
                group["lr"] = rate * scale

    @property
    def round_images(self) -> int:
        return self.config.batch * self.config.d_steps

    @property
    def images(self) -> int:
        """Real images shown to the discriminator."""
        return self.rounds * self.round_images

    def round(self, reals: Iterator[Tensor]) -> None:
        """``d_steps`` discriminator steps on as many batches, and one generator step."""
        for step in range(self.config.d_steps):
            self.discriminator_step(to_float(next(reals)), step)
        self.generator_step()
        self.rounds += 1
        self.rounds_in_totals += 1
        self.ema.update(self.round_images, self.images)

    def discriminator_step(self, real: Tensor, step: int = 0) -> None:
        """Real and fake images, (N, C, H, W), pass separately: batch norm then sees one kind at a time."""
        fake = self._fakes(step)
        with autocast(self.device, self.precision):
            real_logits, fake_logits = self.discriminator(real), self.discriminator(fake.detach())
        loss = self.loss.discriminator(real_logits, fake_logits)
        penalty = self._penalty(real, fake.detach(), step)
        self.optim_d.zero_grad(set_to_none=True)
        self.scaler_d.scale(loss + self.config.gp_weight * penalty).backward()
        self._step(self.scaler_d, self.optim_d)
        self._count(
            loss_d=loss + self.config.gp_weight * penalty,
            d_real=real_logits,
            d_fake=fake_logits,
            d_accuracy=self.loss.accuracy(real_logits, fake_logits),
            gp=penalty,
        )

    def generator_step(self) -> None:
        """D's weights are frozen: only the gradient that passes through it to the pixels is wanted."""
        fake = self._fake if self._fake is not None else self._generate(self.config.d_steps)
        self._fake = None
        self.discriminator.requires_grad_(False)
        with autocast(self.device, self.precision):
            fake_logits = self.discriminator(fake)
        loss = self.loss.generator(fake_logits)
        self.optim_g.zero_grad(set_to_none=True)
        self.scaler_g.scale(loss).backward()
        norm = _grad_norm(self.generator) / self.scaler_g.scale(torch.ones((), device=self.device))
        if self.precision == "fp16":  # an overflow there is no illness: the step is left out, and counted
            norm = norm.nan_to_num(0.0, 0.0)
        self._step(self.scaler_g, self.optim_g)
        self.discriminator.requires_grad_(True)
        self._count(loss_g=loss, grad_g=norm)

    def _step(self, scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        """A step that a scaler leaves out, because a gradient overflowed, lowers its scale."""
        one = torch.ones((), device=self.device)
        before = scaler.scale(one)
        scaler.step(optimizer)
        scaler.update()
        self.skipped += scaler.scale(one) < before

    def _fakes(self, step: int) -> Tensor:
        """Fakes for D. With one D step a round G's step takes the same ones, as in PyTorch's example."""
        if self.config.d_steps == 1:
            self._fake = self._generate(step)
            return self._fake
        with torch.no_grad():
            return self._generate(step)

    def _generate(self, step: int) -> Tensor:
        z = latents(self.config.batch, self.spec.latent, self.config.seed, "latents", self._draw(step), self.device)
        with autocast(self.device, self.precision):
            return self.generator(z)

    def _penalty(self, real: Tensor, fake: Tensor, step: int) -> Tensor:
        if not self.loss.penalised:
            return torch.zeros((), device=self.device)
        rng = random(self.config.seed, "penalty", self._draw(step), self.device)
        epsilon = torch.rand(len(real), 1, 1, 1, generator=rng, device=self.device)
        return gradient_penalty(self.discriminator, real, fake, epsilon)

    def _draw(self, step: int) -> int:
        return self.rounds * (self.config.d_steps + 1) + step

    @torch.no_grad()
    def _count(self, **values: Tensor) -> None:
        zero = torch.zeros((), device=self.device)
        self.totals += torch.stack([values[name].float().mean() if name in values else zero for name in _TOTALS])

    def means(self) -> dict[str, float]:
        """Means since `clear_means`; waits for the device.

        ``loss_d``, ``loss_g``; ``d_real``, ``d_fake``: logits; ``d_accuracy``: share of images that D places rightly
        (`facegan.train.losses`); ``grad_g``: L2 norm of G's gradient; with a penalty ``gp``, without its weight; in
        fp16 ``skipped``: how many steps the scalers left out, of both nets.
        """
        steps = [self.config.d_steps] * len(_TOTALS_D) + [1] * len(_TOTALS_G)
        sums: list[float] = self.totals.tolist()
        rounds = max(self.rounds_in_totals, 1)
        means = {name: total / (rounds * n) for name, total, n in zip(_TOTALS, sums, steps, strict=True)}
        if not self.loss.penalised:
            del means["gp"]
        if self.precision == "fp16":
            means["skipped"] = self.skipped.item()
        return means

    def clear_means(self) -> None:
        self.totals.zero_()
        self.skipped.zero_()
        self.rounds_in_totals = 0

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state, by name; the tensors themselves, not copies."""
        parts: dict[str, dict[str, Tensor]] = {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.net.state_dict(),
            "optim_g": _adam_state(self.optim_g, self.generator),
            "optim_d": _adam_state(self.optim_d, self.discriminator),
            "log": {"totals": self.totals, "skipped": self.skipped},
        }
        return {f"{part}.{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def numbers(self) -> dict[str, Any]:
        """The rest of the state, as JSON has it."""
        return {
            "rounds": self.rounds,
            "rounds_in_totals": self.rounds_in_totals,
            "lr_scale": self.lr_scale,
            "scaler": {"generator": self.scaler_g.state_dict(), "discriminator": self.scaler_d.state_dict()},
            "spec": asdict(self.spec),
        }

    @torch.no_grad()
    def load(self, what: str, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Takes up a state; ``what`` names it in errors.

        Raises:
            CheckpointError: it is of other nets.
        """
        differences = NetSpec(**numbers["spec"]).differences(self.spec)
        if differences:
            raise CheckpointError(
                f"{what} belongs to another architecture: it has {differences[0]}.\n"
                "Use the settings that it was made with, or another --run folder."
            )
        own = self.tensors()
        if tensors["log.totals"].shape != self.totals.shape:  # of an older facegan, which counted less
            tensors = {**tensors, "log.totals": torch.zeros_like(self.totals)}
            numbers = {**numbers, "rounds_in_totals": 0}
        tensors = {"log.skipped": torch.zeros_like(self.skipped), **tensors}
        refuse_other_tensors(what, tensors, own)
        # In place: the layout in memory stays as it was made, which fused Adam relies on (a moment in another layout
        # than its weight would be applied to the wrong elements).
        for name, tensor in own.items():
            tensor.copy_(tensors[name])
        self.rounds, self.rounds_in_totals = numbers["rounds"], numbers["rounds_in_totals"]
        self.lr_scale = numbers.get("lr_scale", 1.0)
        self.scaler_g.load_state_dict(numbers["scaler"]["generator"])
        self.scaler_d.load_state_dict(numbers["scaler"]["discriminator"])


def _grad_norm(net: nn.Module) -> Tensor:
    """‖∇‖₂ over all parameters, a float32 scalar on the device."""
    return nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None])


# Kingma & Ba 2015, "Adam: a method for stochastic optimization" (arXiv:1412.6980)
def _adam(net: nn.Module, learning_rate: float, config: TrainConfig) -> torch.optim.Adam:
    """Adam whose moments exist from the start, so that a state has the same tensors at every image."""
    fused = next(net.parameters()).device.type in ("cpu", "cuda")
    optimizer = torch.optim.Adam(
        net.parameters(), learning_rate, betas=(config.beta1, config.beta2), fused=fused or None
    )
    for parameter in net.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), device=parameter.device if fused else "cpu"),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    return optimizer


def _adam_state(optimizer: torch.optim.Adam, net: nn.Module) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": tensor
        for name, parameter in net.named_parameters()
        for key, tensor in optimizer.state[parameter].items()
    }
