"""Pairs of nets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from facegan.console import shown
from facegan.errors import SettingsError, one_of, suggest
from facegan.nets import began, dcgan, mlp, r3gan, resnet
from facegan.nets import dcgan as dcgan_fc
from facegan.nets import dcgan as dcgan_pool
from facegan.nets import mlp as mnist_conv
from facegan.nets.layers import drawn
from facegan.nets.random import latents, named_generator
from facegan.nets.spec import SIZES, Discriminator, Generator, NetSpec
from facegan.plugins import is_import_path, load_object

# How a pair of nets is built: facegan's own pairs, and those that a user writes.
#
# N batch, C channels, H height, W width, Z length of a latent.


@dataclass(frozen=True)
class Pair:
    """How a pair is built from a spec, and what it can make.

    Attributes:
        generator, discriminator: a class or function that gives a module from a `NetSpec` (size, channels, latent,
            width, norm). What they map stands at `facegan.nets.Generator` and `facegan.nets.Discriminator`, which a
            user's modules need not be: then their weights begin as their layers draw them.
        sizes, norms, channels: for which specs.
        autoencoder: the discriminator gives −|x − D(x)|, which BEGAN's loss takes, and no other.
    """

    generator: Callable[[NetSpec], nn.Module]
    discriminator: Callable[[NetSpec], nn.Module]
    sizes: tuple[int, ...] = SIZES
    norms: tuple[str, ...] = ("none",)
    channels: tuple[int, ...] = (1, 3)
    autoencoder: bool = False


def load_pair(name: str) -> Pair:
    """The pair that a user calls ``MODULE:NAME``: a `Pair`, or a generator and a discriminator in a tuple.

    Raises:
        SettingsError: it can't be imported, or is no pair.
    """
    found: Any = load_object("train.nets =", name)
    if isinstance(found, tuple) and len(found) == 2:
        found = Pair(*found)
    if not isinstance(found, Pair) or not callable(found.generator) or not callable(found.discriminator):
        raise SettingsError(
            f"train.nets = {name} is no pair of nets: it has to be a facegan.nets.Pair(GENERATOR, DISCRIMINATOR),\n"
            "or these two in a tuple, each a class or function that makes a torch.nn.Module of a NetSpec."
        )
    return found


def build_plugin(build: Callable[[NetSpec], nn.Module], spec: NetSpec, rng: torch.Generator, kind: str) -> nn.Module:
    """A user's net on the CPU. Weights follow from ``rng``, whose seed the global state has while layers draw theirs.

    Args:
        kind: generator or discriminator, for errors.

    Raises:
        SettingsError: it can't be built, or is no module that can learn.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.initial_seed())
        try:
            net = build(spec)
            if isinstance(net, Generator | Discriminator) and _draws(net):
                net.initialise(rng)
        except Exception as error:  # anything may go wrong in a user's code: it is told as a sentence
            raise SettingsError(
                f"The {kind} of train.nets = {spec.name} can't be built: {type(error).__name__}: {error}\n"
                f"It is called with a spec alone, here {spec}."
            ) from error
    if not isinstance(net, nn.Module):
        raise SettingsError(
            f"The {kind} of train.nets = {spec.name} is a {type(net).__name__}: it has to be a torch.nn.Module."
        )
    if {parameter.dtype for parameter in net.parameters()} != {torch.float32}:
        raise SettingsError(
            f"The {kind} of train.nets = {spec.name} has no weights in float32: there is nothing to be learnt, or not\n"
            "in the format that trainings keep weights in (--precision says how they compute)."
        )
    return net


def _draws(net: Generator | Discriminator) -> bool:
    """Whether its class says how its weights begin."""
    return type(net).initialise not in (Generator.initialise, Discriminator.initialise)


# Width, norm, latents: what each pair has by default stands in facegan.config.NETS.
PAIRS: dict[str, Pair] = {
    "dcgan": Pair(dcgan.DCGANGenerator, dcgan.DCGANDiscriminator, dcgan.DCGAN_SIZES, dcgan.DCGAN_NORMS),
    "dcgan-fc": Pair(dcgan_fc.DCGANFCGenerator, dcgan_fc.DCGANFCDiscriminator, norms=dcgan_fc.DCGAN_FC_NORMS),
    "dcgan-pool": Pair(
        dcgan_pool.DCGANPoolGenerator, dcgan_pool.DCGANPoolDiscriminator, norms=dcgan_pool.DCGAN_POOL_NORMS
    ),
    "mnist-conv": Pair(mnist_conv.MNISTConvGenerator, mnist_conv.MNISTConvDiscriminator, mnist_conv.MNIST_CONV_SIZES),
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
    rng = named_generator(seed, f"initial {kind}")
    if is_import_path(spec.name):
        net: Any = build_plugin(build, spec, rng, kind)
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
    if spec.name not in PAIRS and not is_import_path(spec.name):
        raise SettingsError(
            f"There are no nets '{shown(spec.name)}': choose {one_of(PAIRS)}.{suggest(spec.name, PAIRS)}"
        )
    pair = PAIRS[spec.name] if spec.name in PAIRS else load_pair(spec.name)
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


# One tiny pass through a user's pair of nets: what would else fail, or learn nothing, rounds later.
#
# N batch, C channels, H height, W width, Z length of a latent.

_BATCH = 4


def smoke_test(spec: NetSpec, spec_d: NetSpec) -> bool:
    """Builds the pair, and passes four images through it in training mode.

    Returns:
        Whether the discriminator mixes the images of a batch, as batch normalisation does: then no penalty per sample
        goes with it. It does where the logit of one image has a gradient at another.

    Raises:
        SettingsError: a net can't be built, raises, or gives what it should not.
    """
    with torch.random.fork_rng(devices=[]):
        images = _made(make_generator(spec).train(), spec)
        seen = torch.zeros_like(images).uniform_(-1, 1, generator=named_generator(0, "first pass")).requires_grad_(True)
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
