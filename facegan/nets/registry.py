"""Pairs of nets by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from facegan.console import shown
from facegan.errors import SettingsError, one_of, suggest
from facegan.nets import began, dcgan, dcgan_fc, dcgan_pool, mlp, mnist_conv, r3gan, resnet
from facegan.nets.noise import random
from facegan.nets.pair import Pair, build_own, own_pair
from facegan.nets.spec import Discriminator, Generator, NetSpec
from facegan.own import is_own

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
    return cast(Generator, _make(spec, find_pair(spec).generator, seed, "generator"))


def planned_generator(spec: NetSpec) -> Generator:
    """One of facegan's own generators as names and shapes of its tensors alone, on torch's device ``meta``: no memory.

    Raises:
        SettingsError: as `make_generator`; or no such net can be, whatever memory there is.
    """
    pair = find_pair(spec)
    try:
        with torch.device("meta"):
            return cast(Generator, pair.generator(spec))
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # sizes past what torch can count
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"The nets '{spec.name}' can't be {spec.width} wide, of {spec.latent} latents: {why:.200}"
        ) from None


def make_discriminator(spec: NetSpec, seed: int = 0) -> Discriminator:
    """A discriminator on the CPU whose weights follow from ``spec`` and ``seed`` alone.

    Raises:
        SettingsError: no such pair, or not at this size, with so many channels or this normalisation.
    """
    return cast(Discriminator, _make(spec, find_pair(spec).discriminator, seed, "discriminator"))


def _make(spec: NetSpec, build: Callable[[NetSpec], nn.Module], seed: int, kind: str) -> nn.Module:
    rng = random(seed, f"initial {kind}")
    if is_own(spec.name):
        net: Any = build_own(build, spec, rng, kind)
    else:
        with torch.device("meta"):  # nothing is drawn twice, and nothing from the global random state
            net = build(spec)
        net.to_empty(device="cpu")
        net.initialise(rng)
    net.spec = spec
    return net


def find_pair(spec: NetSpec) -> Pair:
    """The pair that a spec names.

    Raises:
        SettingsError: no such pair, or not at this size, with so many channels or this normalisation.
    """
    if spec.name not in PAIRS and not is_own(spec.name):
        raise SettingsError(
            f"There are no nets '{shown(spec.name)}': choose {one_of(PAIRS)}.{suggest(spec.name, PAIRS)}"
        )
    pair = PAIRS[spec.name] if spec.name in PAIRS else own_pair(spec.name)
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
