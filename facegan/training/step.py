"""What one training step does on the device: updates of D, updates of G, the moving average.

All that changes from step to step is in tensors with a fixed address: the batches, the step's number, the learning
rates, the average's decay. So a step can run line by line or be captured as a CUDA graph and replayed.

N batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from facegan.config import TrainConfig
from facegan.nets import drawn
from facegan.nets import random as draws
from facegan.plugins import is_import_path
from facegan.training import augment
from facegan.training.distributed import World
from facegan.training.losses import (
    began_convergence,
    began_k,
    dragan,
    find_loss,
    gradient_penalty,
    real_signs,
    squared_gradient,
)
from facegan.training.optim import Ema, NetOptimizer
from facegan.training.precision import Precision, autocast, float32_as

# What is logged: from D's updates, from G's, and with BEGAN's loss.
TOTALS_D = ("loss_d", "d_real", "d_fake", "d_accuracy", "gp")
TOTALS_G = ("loss_g", "grad_g")
TOTALS_BEGAN = ("k", "convergence")
TOTALS_ADA = ("ada_p", "ada_r")


@dataclass(frozen=True)
class StepVariant:
    """The work of a step; steps of one variant differ only in the contents of their tensors."""

    penalties: tuple[bool, ...]  # one per update of D: whether it has the penalty
    g_steps: int
    gathers: bool = False  # real images are gathered from all images on the device, not copied to it

    @classmethod
    def of(cls, config: TrainConfig, number: int, *, gathers: bool = False) -> StepVariant:
        """The variant of step ``number``, counted from 0."""
        images, d_steps = number * config.step_images, config.d_steps
        if images < config.g_warmup_images:
            return cls((), config.g_steps)
        penalised = bool(config.regularisers)
        pattern = tuple(penalised and (number * d_steps + i) % config.penalty_every == 0 for i in range(d_steps))
        return cls(pattern, 0 if images < config.d_warmup_images else config.g_steps, gathers)


class GanStep:
    """The tensors that a step works on, and the work."""

    def __init__(
        self,
        config: TrainConfig,
        precision: Precision,
        g: NetOptimizer,
        d: NetOptimizer,
        ema: Ema,
        world: World,
        labels: Tensor | None = None,
    ) -> None:
        """``labels``: rows of the condition's table, int64 (2, F), if there is a condition: of each face, and those
        from which fakes draw theirs."""
        self.config, self.world, self.ema = config, world, ema
        self.spec = spec = ema.net.spec
        self.precision: Precision = precision
        self.g, self.d, self.device = g, d, g.device
        self.loss = find_loss(config.loss)
        share = world.share(config.batch)
        shape = config.d_steps, share, spec.size, spec.size, spec.channels
        self.reals = list(torch.zeros(shape, dtype=torch.uint8, device=self.device).permute(0, 1, 4, 2, 3))
        # Or, unless it is None, their indices into ``faces``, uint8 (F, H, W, C): all images.
        self.indices = list(torch.zeros(config.d_steps, share, dtype=torch.int64, device=self.device))
        self.faces: Tensor | None = None
        self.labels = (torch.zeros(0) if labels is None else labels).to(self.device)
        self.codes = (spec.condition.codes() if spec.condition else torch.zeros(0)).to(
            self.device
        )  # of the rows, (T, K)
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)  # of the step
        self.part = share // config.grad_accum_steps  # images of a forward pass
        # Gradients are means over the batch, of which this process computes some parts.
        self.loss_scale = 1 / (config.grad_accum_steps * world.size)
        # Sums since the last row of the log, one row per process, which adds to its own. They stay on the device:
        # reading a number would wait for the GPU.
        self.is_adaptive = config.augment == "ada"
        self.stats = (*TOTALS_D, *TOTALS_G, *(TOTALS_BEGAN if self.loss.autoencoder else ()))
        self.stats += TOTALS_ADA if self.is_adaptive else ()
        self.totals = torch.zeros((world.size, len(self.stats)), device=self.device)
        self.skipped = torch.zeros((), device=self.device)  # updates that a scaler left out since that row
        self._trained = [weight for weight in d.net.parameters() if weight.requires_grad]  # the others are frozen
        self.k = torch.zeros((), device=self.device)  # BEGAN's
        self.ada_p, self.ada_excess = (torch.zeros((), device=self.device) for _ in range(2))  # `augment.adapted`
        self._signs = torch.zeros((), device=self.device)  # of this step in this process, less the target
        self._positions = world.rank * share + torch.arange(share, device=self.device)
        # With one update of each net, G learns from the fakes that D saw, as in PyTorch's example.
        self._same_fakes = config.d_steps == config.g_steps == 1
        # Batch norm has to see one kind of image at a time, and the user's own layers may. With losses that do not
        # pair images, a last bias has gradients that cancel exactly in separate passes: Adam would enlarge what one
        # pass leaves of them.
        self._one_pass = self.loss.pairs and spec.norm in ("none", "layer") and not is_import_path(spec.name)

    def __call__(self, variant: StepVariant) -> None:
        fakes: Tensor | None = None
        self._signs.zero_()
        for i, penalised in enumerate(variant.penalties):
            fakes = self.update_discriminator(i, penalised)
        for i in range(variant.g_steps):
            self.update_generator(i, fakes, after_d=bool(variant.penalties))
        if self.is_adaptive and variant.penalties:
            self._update_p()
        self.ema.update()

    def update_discriminator(self, i: int = 0, penalised: bool = False) -> Tensor | None:
        """Returns the fakes with their graph, (N, C, H, W), where G's update shares them; else None."""
        config, shared = self.config, None
        self.d.gradient.zero_()
        logits: list[tuple[Tensor, Tensor]] = []
        for part in range(config.grad_accum_steps):
            images = self._images(i, config.d_steps, part)
            real, of_real = self._real(i, part, images), self._real_condition(i, part)
            of_fake = self._fake_condition("latents", images)
            if self._same_fakes and config.grad_accum_steps == 1:
                shared = self._generate("latents", images)
                fake = shared.detach()
            else:
                with torch.no_grad():
                    fake = self._generate("latents", images)
            fake = self._for_d(fake, "augment fakes", images)
            real_logits, fake_logits = self._logits((real, *of_real), (fake, *of_fake), images)
            more = (self.k,) if self.loss.autoencoder else filter(None, (config.label_smoothing,))
            loss = self.loss.discriminator(real_logits, fake_logits, *more)
            self.d.backward(loss * self.loss_scale)
            values = {
                "loss_d": loss.detach(),
                "d_real": real_logits,
                "d_fake": fake_logits,
                "d_accuracy": self.loss.accuracy(real_logits, fake_logits),
            }
            if penalised:
                values["gp"], weighted = self._penalties((real, *of_real), (fake, *of_fake), images)
                values["loss_d"] = values["loss_d"] + weighted
            if self.is_adaptive:
                signs = real_signs(self.loss, real_logits.detach(), fake_logits.detach())
                self._signs += (signs - config.ada_target) / config.grad_accum_steps
                values |= {"ada_p": self.ada_p, "ada_r": signs}
            if self.loss.autoencoder:
                logits.append((real_logits.detach(), fake_logits.detach()))
                values |= {"k": self.k, "convergence": began_convergence(*logits[-1], config.began_gamma)}
            self._add(config.grad_accum_steps, **values)
        self.world.sum_(self.d.gradient)
        self.skipped += self.d.step()
        if config.weight_clip:
            with torch.no_grad():
                for weight in self._trained:
                    weight.clamp_(-config.weight_clip, config.weight_clip)
        if self.loss.autoencoder:
            self._update_k(logits)
        return shared

    def update_generator(self, i: int = 0, fakes: Tensor | None = None, *, after_d: bool = True) -> None:
        """D's weights are frozen: only the gradient that passes through D to the pixels is needed.

        ``fakes`` are those of D's update of this step, ``after_d``, with their graph; None generates them.
        """
        config = self.config
        self.g.gradient.zero_()
        self.d.net.requires_grad_(False)
        try:
            for part in range(config.grad_accum_steps):
                images = self._images(i, config.g_steps, part)
                purpose = "latents" if self._same_fakes and after_d else "latents of G"
                fake = self._generate(purpose, images) if fakes is None else fakes
                critic = self._critic(images, self._fake_condition(purpose, images), "fakes of G")
                with autocast(self.device, self.precision):
                    logits = [critic(self._for_d(fake, "augment fakes of G", images))]
                    if self.loss.pairs:  # the real images of D's updates in turn, as D saw them
                        j = i % config.d_steps
                        real = self._real(j, part, self._images(j, config.d_steps, part))
                        logits.append(self._critic(images, self._real_condition(j, part), "reals of G")(real))
                    loss = self.loss.generator(*logits)
                self.g.backward(loss * self.loss_scale)
                self._add(config.grad_accum_steps, loss_g=loss)
        finally:  # a capture that fails is followed by plain steps
            for weight in self._trained:
                weight.requires_grad_(True)
        self.world.sum_(self.g.gradient)
        self._add(1, grad_g=self.g.gradient_norm())
        self.skipped += self.g.step()

    def _images(self, i: int, updates: int, part: int) -> Tensor:
        """The images' numbers in the whole training, int64 (N,): random draws follow from them."""
        here = self._positions[part * self.part : (part + 1) * self.part]
        return (self.number * updates + i) * self.config.batch + here

    def _real(self, i: int, part: int, images: Tensor) -> Tensor:
        here = slice(part * self.part, (part + 1) * self.part)
        if self.faces is None:
            pixels = self.reals[i][here]
        else:
            pixels = self.faces.index_select(0, self.indices[i][here]).permute(0, 3, 1, 2)
        real = pixels.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1.0)  # in [−1, 1]
        if self.config.random_flip:
            real = augment.flip(real, draws.counter_uniform(self.config.seed, "flip", images, 1))
        return self._for_d(real, "augment reals", images)

    def _generate(self, purpose: str, images: Tensor) -> Tensor:
        z = draws.counter_latents(self.config.seed, purpose, images, self.spec.latent, self.config.latent_distribution)
        with autocast(self.device, self.precision):
            return self.g.net(z, *self._fake_condition(purpose, images))

    def _real_condition(self, i: int, part: int) -> tuple[Tensor, ...]:
        """What nets get beside images or latents: the condition, (N, K), or nothing."""
        return self._codes_of(0, self.indices[i][part * self.part : (part + 1) * self.part])

    def _fake_condition(self, purpose: str, images: Tensor) -> tuple[Tensor, ...]:
        """That of a face drawn by the images' numbers, so that conditions are as frequent as among the faces."""
        if not len(self.labels):
            return ()
        words = draws.counter_words(self.config.seed, f"condition of {purpose}", images, 1)[:, 0]
        return self._codes_of(1, words.remainder(self.labels.shape[1]))

    def _codes_of(self, kind: int, faces: Tensor) -> tuple[Tensor, ...]:
        return (self.codes.index_select(0, self.labels[kind].index_select(0, faces)),) if len(self.labels) else ()

    def _for_d(self, pixels: Tensor, purpose: str, images: Tensor) -> Tensor:
        """Pixels in [−1, 1] as D sees them: augmented and scaled."""
        seed = self.config.seed
        if self.config.augmentations:
            random = draws.counter_uniform(seed, purpose, images, augment.COLUMNS)
            pixels = augment.augment(pixels, self.config.augmentations, random)
        elif self.is_adaptive and not augment.is_idle(self.ada_p):
            uniform = draws.counter_uniform(seed, purpose, images, augment.ADA_UNIFORM)
            normal = draws.counter_normal(seed, f"{purpose}, normal", images, augment.ADA_NORMAL)
            with autocast(self.device, "fp32"):
                pixels = augment.adapt(pixels, self.ada_p, uniform, normal)
        return pixels if self.config.image_range == 1 else pixels * self.config.image_range

    def _logits(self, reals: tuple[Tensor, ...], fakes: tuple[Tensor, ...], images: Tensor) -> tuple[Tensor, Tensor]:
        """D's, (N,) each, of images with their condition, if there is one. One pass over both is 6 % faster than two
        on a CPU (BENCHMARKS.md): the weights are prepared, and their gradients added, once."""
        with autocast(self.device, self.precision):
            if self._one_pass:
                pixels, *condition = (torch.cat(both) for both in zip(reals, fakes, strict=True))
                real, fake = self._critic(images, tuple(condition), "reals", "fakes")(pixels).chunk(2)
                return real, fake
            (real, *of_real), (fake, *of_fake) = reals, fakes
            real = self._critic(images, tuple(of_real), "reals")(real)
            return real, self._critic(images, tuple(of_fake), "fakes")(fake)

    def _critic(self, images: Tensor, condition: tuple[Tensor, ...], *what: str) -> Callable[[Tensor], Tensor]:
        """D, (N, C, H, W) to (N,), for as many images of each kind ``what``. Its dropout, if it has any, follows from
        their numbers."""

        def draw(layer: int, columns: int) -> Tensor:
            names = (f"dropout of {kind}, layer {layer}" for kind in what)
            return torch.cat([draws.counter_uniform(self.config.seed, name, images, columns) for name in names])

        def critic(pixels: Tensor) -> Tensor:
            with drawn(self.d.net, draw):
                return self.d.net(pixels, *condition)

        return critic

    @torch.no_grad()
    def _update_p(self) -> None:
        """p follows from the whole batches, of all processes, and moves after every fourth step."""
        step = augment.ADA_STEPS * self.config.step_images / self.config.ada_images
        due = (self.number + 1) % augment.ADA_STEPS == 0
        p, excess = augment.adapted(self.ada_p, self.ada_excess + self.world.sum_(self._signs), due, step)
        self.ada_p.copy_(p)
        self.ada_excess.copy_(excess)

    @torch.no_grad()
    def _update_k(self, logits: list[tuple[Tensor, Tensor]]) -> None:
        """BEGAN's k follows from the whole batch, of all processes."""
        means = torch.stack([torch.stack([real.float().mean(), fake.float().mean()]) for real, fake in logits]).mean(0)
        means = self.world.sum_(means) / self.world.size
        self.k.copy_(began_k(self.k, means[0], means[1], self.config.began_gamma, self.config.began_rate))

    def _penalties(self, reals: tuple[Tensor, ...], fakes: tuple[Tensor, ...], images: Tensor) -> tuple[Tensor, Tensor]:
        """Adds their gradients to D's. Returns their sum without and with their weights. Images come with their
        condition, if there is one, which the points of gp between them interpolate as well.

        A separate backward pass, so that no part of it is TF32. A lazy penalty weighs as much more.
        """
        config, plain, weighted = self.config, torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        (real, *of_real), (fake, *of_fake) = reals, fakes
        with float32_as("ieee", self.device):
            for name in config.regularisers:
                weight = config.penalty_every * (config.gp_weight if name in ("gp", "dragan") else config.r1_gamma / 2)
                critic = self._critic(images, tuple(of_fake if name == "r2" else of_real), name)
                if name == "gp":
                    epsilon = draws.counter_uniform(config.seed, "penalty", images, 1)
                    between = tuple(a * epsilon + b * (1 - epsilon) for a, b in zip(of_real, of_fake, strict=True))
                    critic = self._critic(images, between, name)
                    penalty = gradient_penalty(critic, real, fake, epsilon[:, :, None, None])
                elif name == "dragan":
                    noise = draws.counter_uniform(config.seed, "noise", images, real[0].numel()).reshape(real.shape)
                    penalty = dragan(critic, real, noise)
                else:
                    penalty = squared_gradient(critic, real if name == "r1" else fake)
                self.d.backward(weight * penalty * self.loss_scale)
                plain, weighted = plain + penalty.detach(), weighted + weight * penalty.detach()
        return plain, weighted

    @torch.no_grad()
    def _add(self, parts: int, **values: Tensor) -> None:
        zero = torch.zeros((), device=self.device)
        row = [values[name].float().mean() if name in values else zero for name in self.stats]
        self.totals[self.world.rank].add_(torch.stack(row) / parts)
