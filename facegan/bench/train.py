"""Our rounds beside the usual DCGAN tutorial loop in plain float32, both on one random batch of 64×64 images."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from facegan.bench.pairs import Bench, in_pairs
from facegan.bench.roofline import roofline
from facegan.config import TrainConfig
from facegan.console import Console
from facegan.train.precision import choose_device, choose_precision
from facegan.train.step import Trainer, spec_of

_SIZE, _CHANNELS, _LATENT, _WIDTH = 64, 3, 100, 64


def bench_train(
    method: str,
    *,
    steps: int,
    device: str,
    pairs: int,
    batch: int | None = None,
    precision: str = "auto",
    graphs: bool = True,
    with_roofline: bool = False,
    console: Console,
) -> Bench:
    """``steps`` rounds a measurement, after some that are not counted; the data are at hand for both.

    Args:
        batch: None: the method's own.
        with_roofline: measure the device's limits too, and state our shares of them.
    """
    given = {"batch": batch} if batch else {}
    config = TrainConfig.for_method(method, precision=precision, graphs=graphs, **given)
    place = choose_device(device)
    chosen = choose_precision(config.precision, place)
    pixels = torch.randint(0, 256, (config.batch, _CHANNELS, _SIZE, _SIZE), dtype=torch.uint8, device=place)
    trainer = Trainer(config, spec_of(config, _SIZE, _CHANNELS), place, chosen)
    reals = itertools.repeat(pixels.contiguous(memory_format=torch.channels_last))
    rounds_by_hand = {"dcgan": _dcgan_by_hand, "wgan-gp": _wgan_gp_by_hand}[config.method](config, pixels)
    warm_up = 5 if place.type == "cuda" else 1

    def rate(one_round: Callable[[], object]) -> float:
        for _ in range(warm_up):
            one_round()
        _wait(place)
        start = time.perf_counter()
        for _ in range(steps):
            one_round()
        _wait(place)
        return steps * trainer.round_images / (time.perf_counter() - start)

    rates = in_pairs(
        lambda: rate(lambda: trainer.round(reals)), lambda: rate(lambda: next(rounds_by_hand)), pairs, console
    )
    recorded = "" if trainer.not_recorded else ", CUDA graphs"
    what = f"facegan train --method {method}, batch {config.batch}, {chosen} on {place}{recorded}"
    notes = {
        "method": method,
        "batch": config.batch,
        "precision": chosen,
        "device": torch.cuda.get_device_name(place) if place.type == "cuda" else str(place),
        "cuda_graphs": not trainer.not_recorded,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
    }
    if with_roofline:
        console.note("measuring the device's limits, and what a round takes of them")
        notes |= roofline(trainer, pixels, statistics.median(rates[0]))
    return Bench(what, "the tutorial's loop in float32", "images/s", *rates, notes)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _generator() -> nn.Sequential:
    def block(inner: int, outer: int, stride: int, padding: int) -> list[nn.Module]:
        up = nn.ConvTranspose2d(inner, outer, 4, stride, padding, bias=False)
        return [up, nn.BatchNorm2d(outer), nn.ReLU(True)]

    return nn.Sequential(
        *block(_LATENT, _WIDTH * 8, 1, 0),
        *block(_WIDTH * 8, _WIDTH * 4, 2, 1),
        *block(_WIDTH * 4, _WIDTH * 2, 2, 1),
        *block(_WIDTH * 2, _WIDTH, 2, 1),
        nn.ConvTranspose2d(_WIDTH, _CHANNELS, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def _discriminator(norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(_CHANNELS, _WIDTH, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for i in (1, 2, 4):
        layers.append(nn.Conv2d(_WIDTH * i, _WIDTH * i * 2, 4, 2, 1, bias=False))
        layers += [nn.BatchNorm2d(_WIDTH * i * 2)] if norm else []
        layers.append(nn.LeakyReLU(0.2, True))
    return nn.Sequential(*layers, nn.Conv2d(_WIDTH * 8, 1, 4, 1, 0, bias=False), nn.Flatten(0))


def _dcgan_by_hand(config: TrainConfig, pixels: Tensor) -> Iterator[None]:
    device, batch = pixels.device, len(pixels)
    real = pixels.float() / 127.5 - 1
    g, d = _generator().to(device), _discriminator(norm=True).to(device)
    adam_g = torch.optim.Adam(g.parameters(), config.lr_g, (config.beta1, config.beta2))
    adam_d = torch.optim.Adam(d.parameters(), config.lr_d, (config.beta1, config.beta2))
    bce = nn.BCEWithLogitsLoss()
    ones, zeros = torch.ones(batch, device=device), torch.zeros(batch, device=device)
    while True:
        fake = g(torch.randn(batch, _LATENT, 1, 1, device=device))
        d.zero_grad()
        (bce(d(real), ones) + bce(d(fake.detach()), zeros)).backward()
        adam_d.step()
        g.zero_grad()
        bce(d(fake), ones).backward()
        adam_g.step()
        yield


def _wgan_gp_by_hand(config: TrainConfig, pixels: Tensor) -> Iterator[None]:
    device, batch = pixels.device, len(pixels)
    real = pixels.float() / 127.5 - 1
    g, d = _generator().to(device), _discriminator(norm=False).to(device)
    adam_g = torch.optim.Adam(g.parameters(), config.lr_g, (config.beta1, config.beta2))
    adam_d = torch.optim.Adam(d.parameters(), config.lr_d, (config.beta1, config.beta2))

    def fakes() -> Tensor:
        return g(torch.randn(batch, _LATENT, 1, 1, device=device))

    while True:
        for _ in range(config.d_steps):
            fake = fakes().detach()
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
