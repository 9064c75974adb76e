"""Pairs of nets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from facegan.errors import SettingsError, one_of, suggest
from facegan.nets import dcgan
from facegan.nets.noise import random
from facegan.nets.spec import Discriminator, Generator, NetSpec


@dataclass(frozen=True)
class Pair:
    """How a pair is built from a spec, and what it can make."""

    generator: Callable[[NetSpec], Generator]
    discriminator: Callable[[NetSpec], Discriminator]
    sizes: tuple[int, ...]
    norms: tuple[str, ...]


PAIRS: dict[str, Pair] = {
    "dcgan": Pair(
        generator=lambda spec: dcgan.DCGANGenerator(spec.size, spec.channels, spec.latent, spec.width),
        discriminator=lambda spec: dcgan.DCGANDiscriminator(spec.size, spec.channels, spec.width, spec.norm),
        sizes=dcgan.SIZES,
        norms=("batch", "none"),
    ),
}


def make_generator(spec: NetSpec, seed: int = 0) -> Generator:
    """A generator on the CPU whose weights follow from ``spec`` and ``seed`` alone.

    Raises:
        SettingsError: no such pair, or not at this size.
    """
    with torch.device("meta"):  # nothing is drawn twice, and nothing from the global random state
        net = find_pair(spec).generator(spec)
    net.to_empty(device="cpu")
    net.initialise(random(seed, "initial generator"))
    net.spec = spec
    return net


def make_discriminator(spec: NetSpec, seed: int = 0) -> Discriminator:
    """A discriminator on the CPU whose weights follow from ``spec`` and ``seed`` alone.

    Raises:
        SettingsError: no such pair, or not at this size, or without this normalisation.
    """
    with torch.device("meta"):
        net = find_pair(spec).discriminator(spec)
    net.to_empty(device="cpu")
    net.initialise(random(seed, "initial discriminator"))
    net.spec = spec
    return net


def find_pair(spec: NetSpec) -> Pair:
    """The pair that a spec names.

    Raises:
        SettingsError: no such pair, or not at this size, or without this normalisation.
    """
    if spec.name not in PAIRS:
        raise SettingsError(f"There are no nets '{spec.name}': choose {one_of(PAIRS)}.{suggest(spec.name, PAIRS)}")
    pair = PAIRS[spec.name]
    if spec.size not in pair.sizes:
        raise SettingsError(
            f"The nets '{spec.name}' make {one_of(pair.sizes)} pixels, not {spec.size}.\n"
            f"Prepare the faces again with --size {one_of(pair.sizes)}."
        )
    if spec.norm not in pair.norms:
        raise SettingsError(
            f"The nets '{spec.name}' have the normalisations {one_of(pair.norms)}, not '{spec.norm}'."
            f"{suggest(spec.norm, pair.norms)}"
        )
    return pair
