"""Baselines: the usual tutorial loops in float32; and the comparison of two rates.

``reals`` are endless batches of float32 (N, 3, 64, 64) in [−1, 1]; each item of a loop is one training step.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from facegan import system
from facegan.config import TrainConfig
from facegan.console import Console

_CHANNELS, _LATENT = 3, 100


@dataclass(frozen=True)
class Bench:
    """A comparison: rates of ours and of the baseline in ``unit``, one per pair."""

    what: str
    baseline: str
    unit: str
    ours: list[float]
    theirs: list[float]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios; above 1, ours is faster."""
        return statistics.median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "baseline_is": self.baseline,
            "unit": self.unit,
            "ours": [round(rate, 1) for rate in self.ours],
            "baseline": [round(rate, 1) for rate in self.theirs],
            "ratio": round(self.ratio, 3),
            **self.notes,
            "machine": system.describe(),
        }


def interleaved(
    ours: Callable[[], float], theirs: Callable[[], float], pairs: int, console: Console
) -> tuple[list[float], list[float]]:
    """The rates of both, measured in turn ``pairs`` times: machines drift, so only neighbours compare."""
    rates: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs):
        for measured, job in zip(rates, (ours, theirs), strict=True):
            measured.append(job())
        console.note(f"pair {pair + 1} of {pairs}: {rates[0][-1]:,.0f} against {rates[1][-1]:,.0f}")
    return rates


def folder_batches(folder: Path, batch: int) -> Iterator[Tensor]:
    """Image files as tutorials read them: by ``ImageFolder`` and two worker processes; one on a single CPU."""
    from torchvision import datasets, transforms

    half = (0.5,) * _CHANNELS
    prepare = transforms.Compose([transforms.Resize(64), transforms.ToTensor(), transforms.Normalize(half, half)])
    images = datasets.ImageFolder(str(folder), prepare)
    workers = min(2, system.usable_cpus())
    loader = torch.utils.data.DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True)
    while True:
        yield from (batch for batch, _ in loader)


def _generator(width: int) -> nn.Sequential:
    layers: list[nn.Module] = [nn.ConvTranspose2d(_LATENT, 8 * width, 4, 1, 0, bias=False)]
    for outer in (8 * width, 4 * width, 2 * width):
        layers += [nn.BatchNorm2d(outer), nn.ReLU(True), nn.ConvTranspose2d(outer, outer // 2, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(width), nn.ReLU(True), nn.ConvTranspose2d(width, _CHANNELS, 4, 2, 1, bias=False)]
    return nn.Sequential(*layers, nn.Tanh())


def _discriminator(width: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(_CHANNELS, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for inner in (width, 2 * width, 4 * width):
        layers.append(nn.Conv2d(inner, inner * 2, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(inner * 2)] if norm else []
        layers.append(nn.LeakyReLU(0.2, True))
    return nn.Sequential(*layers, nn.Conv2d(8 * width, 1, 4, 1, 0, bias=False), nn.Flatten(0))


def _setup(
    config: TrainConfig, device: torch.device, norm: bool
) -> tuple[int, nn.Module, nn.Module, torch.optim.Adam, torch.optim.Adam]:
    g, d = _generator(config.width).to(device), _discriminator(config.width, norm).to(device)
    betas = (config.beta1, config.beta2)
    adam_g = torch.optim.Adam(g.parameters(), config.lr_g, betas)
    return config.batch, g, d, adam_g, torch.optim.Adam(d.parameters(), config.lr_d, betas)


def dcgan(config: TrainConfig, reals: Iterator[Tensor], device: torch.device) -> Iterator[None]:
    batch, g, d, adam_g, adam_d = _setup(config, device, norm=True)
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(batch, device=device), torch.zeros(batch, device=device)
    for images in reals:
        real = images.to(device)
        fake = g(torch.randn(batch, _LATENT, 1, 1, device=device))
        d.zero_grad()
        (bce(d(real), ones) + bce(d(fake.detach()), zeros)).backward()
        adam_d.step()
        g.zero_grad()
        bce(d(fake), ones).backward()
        adam_g.step()
        yield


def wgan_gp(config: TrainConfig, reals: Iterator[Tensor], device: torch.device) -> Iterator[None]:
    batch, g, d, adam_g, adam_d = _setup(config, device, norm=False)

    def fakes() -> Tensor:
        return g(torch.randn(batch, _LATENT, 1, 1, device=device))

    while True:
        for _ in range(config.d_steps):
            real, fake = next(reals).to(device), fakes().detach()
            mixed = torch.lerp(real, fake, torch.rand(batch, 1, 1, 1, device=device)).requires_grad_()
            gradient = torch.autograd.grad(d(mixed).sum(), mixed, create_graph=True)[0]
            penalty = ((gradient.flatten(1).norm(2, dim=1) - 1) ** 2).mean()
            d.zero_grad()
            (d(fake).mean() - d(real).mean() + config.gp_weight * penalty).backward()
            adam_d.step()
        g.zero_grad()
        (-d(fakes()).mean()).backward()
        adam_g.step()
        yield


def relativistic(config: TrainConfig, reals: Iterator[Tensor], device: torch.device) -> Iterator[None]:
    batch, g, d, adam_g, adam_d = _setup(config, device, norm=False)
    weight = config.r1_gamma / 2 * config.penalty_every
    for step, images in enumerate(reals):
        real = images.to(device)
        fake = g(torch.randn(batch, _LATENT, 1, 1, device=device))
        d.zero_grad()
        loss = softplus(d(fake.detach()) - d(real)).mean()
        if step % config.penalty_every == 0:
            for pixels in (real, fake):
                points = pixels.detach().requires_grad_()
                gradient = torch.autograd.grad(d(points).sum(), points, create_graph=True)[0]
                loss = loss + weight * gradient.square().sum((1, 2, 3)).mean()
        loss.backward()
        adam_d.step()
        g.zero_grad()
        softplus(d(real).detach() - d(fake)).mean().backward()
        adam_g.step()
        yield
