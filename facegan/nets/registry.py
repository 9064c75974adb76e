"""Pairs of nets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from facegan.errors import SettingsError, one_of, suggest
from facegan.nets import began, dcgan, dcgan_fc, dcgan_pool, mlp, mnist_conv, r3gan, resnet
from facegan.nets.noise import random
from facegan.nets.sides import SIZES
from facegan.nets.spec import Discriminator, Generator, NetSpec


@dataclass(frozen=True)
class Pair:
    """How a pair is built from a spec, and what it can make."""

    generator: Callable[[NetSpec], Generator]
    discriminator: Callable[[NetSpec], Discriminator]
    sizes: tuple[int, ...] = SIZES
    norms: tuple[str, ...] = ("none",)
    channels: tuple[int, ...] = (1, 3)
    autoencoder: bool = False  # its discriminator gives −|x − D(x)|, which BEGAN's loss takes, and no other


# Width, norm, latents: what each pair has by default stands in facegan.config.NETS.
PAIRS: dict[str, Pair] = {
    "dcgan": Pair(dcgan.DCGANGenerator, dcgan.DCGANDiscriminator, dcgan.SIZES, dcgan.NORMS),
    "dcgan-fc": Pair(dcgan_fc.DCGANFCGenerator, dcgan_fc.DCGANFCDiscriminator, norms=dcgan_fc.NORMS),
    "dcgan-pool": Pair(dcgan_pool.DCGANPoolGenerator, dcgan_pool.DCGANPoolDiscriminator, norms=dcgan_pool.NORMS),
    "mnist-conv": Pair(mnist_conv.MNISTConvGenerator, mnist_conv.MNISTConvDiscriminator, mnist_conv.SIZES),
    "mlp": Pair(mlp.MLPGenerator, mlp.MLPDiscriminator),
    "resnet": Pair(resnet.ResNetGenerator, resnet.ResNetDiscriminator, norms=resnet.NORMS),
    "began": Pair(began.BEGANGenerator, began.BEGANDiscriminator, autoencoder=True),
    "r3gan": Pair(r3gan.R3GANGenerator, r3gan.R3GANDiscriminator),
}


def make_generator(spec: NetSpec, seed: int = 0) -> Generator:
    """A generator on the CPU whose weights follow from ``spec`` and ``seed`` alone.

    Raises:
        SettingsError: no such pair, or not at this size, with so many channels or this normalisation.
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
        SettingsError: no such pair, or not at this size, with so many channels or this normalisation.
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
        SettingsError: no such pair, or not at this size, with so many channels or this normalisation.
    """
    if spec.name not in PAIRS:
        raise SettingsError(f"There are no nets '{spec.name}': choose {one_of(PAIRS)}.{suggest(spec.name, PAIRS)}")
    pair = PAIRS[spec.name]
    if spec.size not in pair.sizes:
        raise SettingsError(
            f"The nets '{spec.name}' make {one_of(pair.sizes)} pixels, not {spec.size}.\n"
            f"Prepare the faces again with --size {one_of(pair.sizes)}."
        )
    if spec.channels not in pair.channels:
        raise SettingsError(f"The nets '{spec.name}' make {one_of(pair.channels)} channels, not {spec.channels}.")
    if spec.norm not in pair.norms:
        named = "normalisations" if len(pair.norms) > 1 else "normalisation"
        raise SettingsError(
            f"The nets '{spec.name}' have the {named} {one_of(pair.norms)}, not '{spec.norm}'."
            f"{suggest(spec.norm, pair.norms)}"
        )
    return pair
