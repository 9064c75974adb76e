"""What a round does on the device: the discriminator's steps, the generator's steps, the moving average.

All that changes from one round to the next lies in tensors with a fixed place: the batches, the round's number, the
learning rates, the average's weight. So the work may be run line by line, or recorded as a CUDA graph and replayed.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from facegan.config import TrainConfig
from facegan.nets import NetSpec, drawn
from facegan.nets import random as draws
from facegan.training import augment
from facegan.training.distributed import World
from facegan.training.ema import Ema
from facegan.training.losses import (
    began_convergence,
    began_k,
    dragan,
    find_loss,
    gradient_penalty,
    squared_gradient,
)
from facegan.training.optim import NetOptimizer
from facegan.training.precision import Precision, autocast, float32_as

# What is counted for the log: in D's steps, in G's, and in D's of BEGAN alone.
TOTALS_D = ("loss_d", "d_real", "d_fake", "d_accuracy", "gp")
TOTALS_G = ("loss_g", "grad_g")
TOTALS_BEGAN = ("k", "convergence")


def to_float(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) → float32 in [−1, 1], channels last."""
    return images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1.0)


@dataclass(frozen=True)
class StepVariant:
    """Which work a round is; rounds of one kind differ in the contents of their tensors alone."""

    penalties: tuple[bool, ...]  # one a discriminator step: whether it has the penalty
    g_steps: int
    gathered: bool = False  # real images are taken from all that lie on the device, else they are given

    @classmethod
    def of(cls, config: TrainConfig, number: int, *, gathered: bool = False) -> StepVariant:
        """The kind of round ``number``, counted from 0."""
        images, d_steps = number * config.round_images, config.d_steps
        if images < config.g_warmup_images:
            return cls((), config.g_steps)
        penalised = bool(config.regularisers)
        pattern = tuple(penalised and (number * d_steps + i) % config.penalty_every == 0 for i in range(d_steps))
        return cls(pattern, 0 if images < config.d_warmup_images else config.g_steps, gathered)


class GanStep:
    """The tensors that a round works on, and the work."""

    def __init__(
        self,
        config: TrainConfig,
        spec: NetSpec,
        precision: Precision,
        generator: NetOptimizer,
        discriminator: NetOptimizer,
        ema: Ema,
        ranks: World,
    ) -> None:
        self.config, self.spec, self.ranks, self.ema = config, spec, ranks, ema
        self.precision: Precision = precision
        self.g, self.d = generator, discriminator
        self.device = generator.device
        self.loss = find_loss(config.loss)
        share = ranks.share(config.batch)
        shape = (share, spec.channels, spec.size, spec.size)
        place = {"dtype": torch.uint8, "device": self.device}
        self.reals = [
            torch.zeros(shape, **place).contiguous(memory_format=torch.channels_last) for _ in range(config.d_steps)
        ]
        # Or where they stand in ``faces``, uint8 (F, H, W, C): all that there are.
        self.chosen = [torch.zeros(share, dtype=torch.int64, device=self.device) for _ in range(config.d_steps)]
        self.faces: Tensor | None = None
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)  # of the round
        self.part = share // config.grad_accum_steps  # images of a forward pass
        # Gradients are means over the batch, of which this process computes some parts.
        self.weight = 1 / (config.grad_accum_steps * ranks.size)
        # Sums since the last row of the log, of each process; this one adds to its own. They are kept on the device:
        # reading a number would wait for the GPU.
        self.counted = (*TOTALS_D, *TOTALS_G, *(TOTALS_BEGAN if self.loss.autoencoder else ()))
        self.totals = torch.zeros((ranks.size, len(self.counted)), device=self.device)
        self.k = torch.zeros((), device=self.device)  # BEGAN's
        self.skipped = torch.zeros((), device=self.device)  # steps that a scaler left out, in the same time
        self._positions = ranks.rank * share + torch.arange(share, device=self.device)
        # With one step of each net a round G's step takes the fakes of D's, as in PyTorch's example.
        self._shared: Tensor | None = None
        self._shares = config.d_steps == config.g_steps == 1

    def __call__(self, kind: StepVariant) -> None:
        """One round."""
        for step, penalised in enumerate(kind.penalties):
            self.discriminator_step(step, penalised, gathered=kind.gathered)
        for step in range(kind.g_steps):
            self.generator_step(step, after_d=bool(kind.penalties), gathered=kind.gathered)
        self.forget()
        self.ema.update()

    def forget(self) -> None:
        """Lets go of what a round keeps between its steps, also where it broke off."""
        self._shared = None

    def discriminator_step(self, step: int = 0, penalised: bool = False, *, gathered: bool = False) -> None:
        """Real and fake images, (N, C, H, W), pass separately: batch norm then sees one kind at a time."""
        self.d.zero_grad()
        seen: list[tuple[Tensor, Tensor]] = []
        for part in range(self.config.grad_accum_steps):
            images = self._images(step, self.config.d_steps, part)
            real, fake = self._real(step, part, images, gathered), self._fake_for_d(images)
            with autocast(self.device, self.precision):
                real_logits = self._judge("reals", images)(real)
                fake_logits = self._judge("fakes", images)(fake)
            loss = self._loss_of_d(real_logits, fake_logits)
            self.d.backward(loss * self.weight)
            values = {
                "loss_d": loss.detach(),
                "d_real": real_logits,
                "d_fake": fake_logits,
                "d_accuracy": self.loss.accuracy(real_logits, fake_logits),
            }
            if penalised:
                values["gp"], weighted = self._penalties(real, fake, images)
                values["loss_d"] = values["loss_d"] + weighted
            if self.loss.autoencoder:
                seen.append((real_logits.detach(), fake_logits.detach()))
                values |= {"k": self.k, "convergence": began_convergence(*seen[-1], self.config.began_gamma)}
            self._count(self.config.grad_accum_steps, **values)
        self.ranks.sum_(self.d.gradient)
        self.skipped += self.d.step()
        if self.config.weight_clip:
            self.d.clip(self.config.weight_clip)
        if self.loss.autoencoder:
            self._balance(seen)

    def generator_step(self, step: int = 0, *, after_d: bool = True, gathered: bool = False) -> None:
        """D's weights are frozen: only the gradient that passes through it to the pixels is wanted."""
        self.g.zero_grad()
        self.d.net.requires_grad_(False)
        try:
            for part in range(self.config.grad_accum_steps):
                images = self._images(step, self.config.g_steps, part)
                fake = self._fake_for_g(images, after_d)
                with autocast(self.device, self.precision):
                    seen = self._seen(fake, "augment fakes of G", images)
                    fake_logits = self._judge("fakes of G", images)(seen)
                    others: tuple[Tensor, ...] = ()
                    if self.loss.pairs:
                        others = (self._judge("reals of G", images)(self._paired(step, part, gathered)),)
                loss = self.loss.generator(fake_logits, *others)
                self.g.backward(loss * self.weight)
                self._count(self.config.grad_accum_steps, loss_g=loss)
        finally:  # a capture that fails is followed by plain rounds
            self.d.net.requires_grad_(True)
        self.ranks.sum_(self.g.gradient)
        self._count(1, grad_g=self.g.gradient_norm())
        self.skipped += self.g.step()

    def _images(self, step: int, steps: int, part: int) -> Tensor:
        """Which images of the training these are, int64 (N,): what draws are made by."""
        here = self._positions[part * self.part : (part + 1) * self.part]
        return (self.number * steps + step) * self.config.batch + here

    def _real(self, step: int, part: int, images: Tensor, gathered: bool) -> Tensor:
        here = slice(part * self.part, (part + 1) * self.part)
        if gathered and self.faces is not None:
            real = to_float(self.faces.index_select(0, self.chosen[step][here]).permute(0, 3, 1, 2))
        else:
            real = to_float(self.reals[step][here])
        if self.config.random_flip:
            real = augment.flip(real, draws.counter_uniform(self.config.seed, "flip", images, 1))
        return self._seen(real, "augment reals", images)

    def _paired(self, step: int, part: int, gathered: bool) -> Tensor:
        """Real images for a step of G whose loss compares: those of the round's D steps in turn, as D saw them."""
        step %= self.config.d_steps
        return self._real(step, part, self._images(step, self.config.d_steps, part), gathered)

    def _loss_of_d(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.loss.autoencoder:
            return self.loss.discriminator(real, fake, self.k)
        if self.config.label_smoothing:
            return self.loss.discriminator(real, fake, self.config.label_smoothing)
        return self.loss.discriminator(real, fake)

    @torch.no_grad()
    def _balance(self, seen: list[tuple[Tensor, Tensor]]) -> None:
        """BEGAN's k follows from the whole batch, of all processes."""
        means = torch.stack([torch.stack([real.float().mean(), fake.float().mean()]) for real, fake in seen]).mean(0)
        means = self.ranks.sum_(means) / self.ranks.size
        self.k.copy_(began_k(self.k, means[0], means[1], self.config.began_gamma, self.config.began_rate))

    def _fake_for_d(self, images: Tensor) -> Tensor:
        if self._shares and self.config.grad_accum_steps == 1:
            self._shared = self._generate("latents", images)
            fake = self._shared.detach()
        else:
            with torch.no_grad():
                fake = self._generate("latents", images)
        return self._seen(fake, "augment fakes", images)

    def _fake_for_g(self, images: Tensor, after_d: bool) -> Tensor:
        shared, self._shared = self._shared, None
        if shared is not None:
            return shared
        return self._generate("latents" if self._shares and after_d else "latents of G", images)

    def _generate(self, purpose: str, images: Tensor) -> Tensor:
        z = draws.counter_latents(self.config.seed, purpose, images, self.spec.latent, self.config.latent_distribution)
        with autocast(self.device, self.precision):
            return self.g.net(z)

    def _seen(self, images: Tensor, purpose: str, numbers: Tensor) -> Tensor:
        """Images in [−1, 1] as D sees them."""
        if self.config.augmentations:
            random = draws.counter_uniform(self.config.seed, purpose, numbers, augment.COLUMNS)
            images = augment.augment(images, self.config.augmentations, random)
        return images if self.config.image_range == 1 else images * self.config.image_range

    def _judge(self, what: str, numbers: Tensor) -> Callable[[Tensor], Tensor]:
        """D, (N, C, H, W) to (N,), with its dropout, if it has some, drawn by the images' numbers."""

        def draw(layer: int, columns: int) -> Tensor:
            return draws.counter_uniform(self.config.seed, f"dropout of {what}, layer {layer}", numbers, columns)

        def judge(images: Tensor) -> Tensor:
            with drawn(self.d.net, draw):
                return self.d.net(images)

        return judge

    def _penalties(self, real: Tensor, fake: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Adds their gradients to D's, and gives their sum without and with weights.

        A backward pass of its own, so that no step of it is TF32. A lazy penalty weighs as much more.
        """
        config, plain, weighted = self.config, torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        with float32_as("ieee", self.device):
            for name in config.regularisers:
                weight = config.penalty_every * (config.gp_weight if name in ("gp", "dragan") else config.r1_gamma / 2)
                penalty = self._penalty(name, real, fake, images)
                self.d.backward(weight * penalty * self.weight)
                plain, weighted = plain + penalty.detach(), weighted + weight * penalty.detach()
        return plain, weighted

    def _penalty(self, name: str, real: Tensor, fake: Tensor, images: Tensor) -> Tensor:
        critic = self._judge(name, images)
        if name == "gp":
            epsilon = draws.counter_uniform(self.config.seed, "penalty", images, 1)[:, :, None, None]
            return gradient_penalty(critic, real, fake, epsilon)
        if name == "dragan":
            noise = draws.counter_uniform(self.config.seed, "noise", images, real[0].numel()).reshape(real.shape)
            return dragan(critic, real, noise)
        return squared_gradient(critic, real if name == "r1" else fake)

    @torch.no_grad()
    def _count(self, parts: int, **values: Tensor) -> None:
        zero = torch.zeros((), device=self.device)
        rows = [values[name].float().mean() if name in values else zero for name in self.counted]
        self.totals[self.ranks.rank].add_(torch.stack(rows) / parts)
