"""One tiny pass through a user's pair of nets: what would else fail, or learn nothing, rounds later.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from facegan.errors import SettingsError
from facegan.nets.dropout import drawn
from facegan.nets.noise import latents, random
from facegan.nets.registry import make_discriminator, make_generator
from facegan.nets.spec import NetSpec

_BATCH = 4


def first_pass(spec: NetSpec, spec_d: NetSpec) -> bool:
    """Builds the pair, and passes four images through it in training mode.

    Returns:
        Whether the discriminator mixes the images of a batch, as batch normalisation does: then no penalty per sample
        goes with it. It does where the logit of one image has a gradient at another.

    Raises:
        SettingsError: a net can't be built, raises, or gives what it should not.
    """
    with torch.random.fork_rng(devices=[]):
        images = _made(make_generator(spec).train(), spec)
        seen = torch.zeros_like(images).uniform_(-1, 1, generator=random(0, "first pass")).requires_grad_(True)
        logits = _judged(make_discriminator(spec_d).train(), seen, spec)
        (gradient,) = torch.autograd.grad(logits[0], seen)
        return bool(gradient[1:].count_nonzero())


@torch.no_grad()
def _made(net: nn.Module, spec: NetSpec) -> Tensor:
    z = latents(_BATCH, spec.latent, 0, "first pass", 0, "cpu", spec.law)
    images = _passed(net, z, spec, "generator", (_BATCH, spec.channels, spec.size, spec.size))
    if images.abs().max() > 1:
        raise SettingsError(
            f"The generator of train.nets = {spec.name} gives values up to {images.abs().max():.2f}: images are in\n"
            "−1 … 1. End it with a tanh."
        )
    return images


def _judged(net: nn.Module, images: Tensor, spec: NetSpec) -> Tensor:
    with drawn(net, lambda layer, columns: torch.rand(_BATCH, columns)):
        logits = _passed(net, images, spec, "discriminator", (_BATCH,))
    if not logits.requires_grad:
        raise SettingsError(
            f"What the discriminator of train.nets = {spec.name} gives has no gradient: nothing could learn from it."
        )
    return logits


def _passed(
    net: Callable[[Tensor], Tensor], given: Tensor, spec: NetSpec, kind: str, wanted: tuple[int, ...]
) -> Tensor:
    what = f"The {kind} of train.nets = {spec.name}"
    try:
        found = net(given)
    except Exception as error:  # anything may go wrong in a user's code: it is told as a sentence
        text = str(error).strip().partition("\n")[0]
        raise SettingsError(f"{what} fails on {tuple(given.shape)}: {type(error).__name__}: {text}") from error
    if not isinstance(found, Tensor) or not found.is_floating_point():
        shown = str(found.dtype) if isinstance(found, Tensor) else type(found).__name__
        raise SettingsError(f"{what} gives {shown}: it has to give a float tensor.")
    if tuple(found.shape) != wanted:
        hint = "one logit an image: end it with nn.Flatten(0)" if kind == "discriminator" else "(N, C, H, W)"
        raise SettingsError(
            f"{what} makes {tuple(found.shape)} of {tuple(given.shape)}, and it has to make {wanted}\n({hint})."
        )
    if not found.isfinite().all():
        raise SettingsError(f"{what} gives numbers that are not finite, with its first weights.")
    return found
