"""Pairs of generator and discriminator by name, built-in or user-defined.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from facegan.console import shown
from facegan.errors import SettingsError, one_of, suggest
from facegan.nets import began, dcgan, mlp, r3gan, resnet
from facegan.nets.layers import drawn
from facegan.nets.random import latents, named_generator
from facegan.nets.spec import SIZES, Discriminator, Generator, NetSpec
from facegan.plugins import is_import_path, load_object

_SMOKE_TEST_BATCH = 4


@dataclass(frozen=True)
class Pair:
    """How to build a pair of nets, and for which specs.

    Attributes:
        generator, discriminator: a class or function that makes a module from a `NetSpec` (size, channels, latent,
            width, norm). The modules map what `facegan.nets.Generator` and `facegan.nets.Discriminator` map, but need
            not be these: then their layers initialise themselves.
        sizes, norms, channels: of the supported specs.
        autoencoder: the discriminator gives −|x − D(x)|, which only BEGAN's loss can use.
    """

    generator: Callable[[NetSpec], nn.Module]
    discriminator: Callable[[NetSpec], nn.Module]
    sizes: tuple[int, ...] = SIZES
    norms: tuple[str, ...] = ("none",)
    channels: tuple[int, ...] = (1, 3)
    autoencoder: bool = False


# The default width, norm and latents of each pair are in facegan.config.NETS.
PAIRS: dict[str, Pair] = {
    "dcgan": Pair(dcgan.DCGANGenerator, dcgan.DCGANDiscriminator, dcgan.DCGAN_SIZES, dcgan.DCGAN_NORMS),
    "dcgan-fc": Pair(dcgan.DCGANFCGenerator, dcgan.DCGANFCDiscriminator, norms=dcgan.DCGAN_FC_NORMS),
    "dcgan-pool": Pair(dcgan.DCGANPoolGenerator, dcgan.DCGANPoolDiscriminator, norms=dcgan.DCGAN_POOL_NORMS),
    "mnist-conv": Pair(mlp.MNISTConvGenerator, mlp.MNISTConvDiscriminator, mlp.MNIST_CONV_SIZES),
    "mlp": Pair(mlp.MLPGenerator, mlp.MLPDiscriminator),
    "resnet": Pair(resnet.ResNetGenerator, resnet.ResNetDiscriminator, norms=resnet.NORMS),
    "began": Pair(began.BEGANGenerator, began.BEGANDiscriminator, autoencoder=True),
    "r3gan": Pair(r3gan.R3GANGenerator, r3gan.R3GANDiscriminator),
}


def find_pair(spec: NetSpec) -> Pair:
    """The pair that a spec names: one of `PAIRS`, or ``MODULE:NAME``, a `Pair` or a tuple of two.

    Raises:
        SettingsError: there is no such pair, or it does not support the size, the channels or the norm.
    """
    if spec.name not in PAIRS and not is_import_path(spec.name):
        raise SettingsError(
            f"There are no nets '{shown(spec.name)}': choose {one_of(PAIRS)}.{suggest(spec.name, PAIRS)}"
        )
    pair = PAIRS[spec.name] if spec.name in PAIRS else _load_pair(spec.name)
    if spec.size not in pair.sizes:
        raise SettingsError(
            f"The nets '{spec.name}' support {one_of(pair.sizes)} pixels, not {spec.size}.\n"
            f"Prepare the faces again with --size {one_of(pair.sizes)}."
        )
    if spec.channels not in pair.channels:
        raise SettingsError(f"The nets '{spec.name}' support {one_of(pair.channels)} channels, not {spec.channels}.")
    if spec.norm not in pair.norms:
        raise SettingsError(
            f"The nets '{spec.name}' support the norm {one_of(pair.norms)}, not '{spec.norm}'."
            f"{suggest(spec.norm, pair.norms)}"
        )
    return pair


def _load_pair(name: str) -> Pair:
    pair: Any = load_object("train.nets =", name)
    if isinstance(pair, tuple) and len(pair) == 2:
        pair = Pair(*pair)
    if not isinstance(pair, Pair) or not callable(pair.generator) or not callable(pair.discriminator):
        raise SettingsError(
            f"train.nets = {name} is not a pair of nets. It must be a facegan.nets.Pair(GENERATOR, DISCRIMINATOR) or\n"
            "a tuple of these two; each is a class or function that makes a torch.nn.Module from a NetSpec."
        )
    return pair


def make_generator(spec: NetSpec, seed: int = 0) -> Generator:
    """A generator on the CPU whose weights depend on ``spec`` and ``seed`` alone.

    Raises:
        SettingsError: as `find_pair`; or a user's net cannot be built.
    """
    return cast(Generator, _make(spec, find_pair(spec).generator, seed, "generator"))


def make_discriminator(spec: NetSpec, seed: int = 0) -> Discriminator:
    """As `make_generator`."""
    return cast(Discriminator, _make(spec, find_pair(spec).discriminator, seed, "discriminator"))


def meta_generator(spec: NetSpec) -> Generator:
    """A built-in generator on torch's device ``meta``: names and shapes of its tensors, without memory.

    Raises:
        SettingsError: as `find_pair`; or no machine could hold such a net.
    """
    pair = find_pair(spec)
    try:
        with torch.device("meta"):
            return cast(Generator, pair.generator(spec))
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # sizes that torch cannot represent
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"The nets '{spec.name}' cannot have width {spec.width} and latents of length {spec.latent}: {why:.200}"
        ) from None


def _make(spec: NetSpec, build: Callable[[NetSpec], nn.Module], seed: int, kind: str) -> nn.Module:
    rng = named_generator(seed, f"initial {kind}")
    if is_import_path(spec.name):
        net: Any = _build_plugin(spec, build, rng, kind)
    else:
        with torch.device("meta"):  # draw nothing twice, and nothing from the global random state
            net = build(spec)
        net.to_empty(device="cpu")
        net.initialise(rng)
    net.spec = spec
    return net


def _build_plugin(spec: NetSpec, build: Callable[[NetSpec], nn.Module], rng: torch.Generator, kind: str) -> nn.Module:
    """A user's net. While its layers initialise themselves, the global random state has the seed of ``rng``."""
    what = f"The {kind} of train.nets = {spec.name}"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.initial_seed())
        try:
            net = build(spec)
            defaults = (Generator.initialise, Discriminator.initialise)
            if isinstance(net, Generator | Discriminator) and type(net).initialise not in defaults:
                net.initialise(rng)
        except Exception as error:  # user code may raise anything
            raise SettingsError(
                f"{what} cannot be built: {type(error).__name__}: {error}\nIt is called with a spec alone, here {spec}."
            ) from error
    if not isinstance(net, nn.Module):
        raise SettingsError(f"{what} is a {type(net).__name__}; it must be a torch.nn.Module.")
    if {parameter.dtype for parameter in net.parameters()} != {torch.float32}:
        raise SettingsError(
            f"{what} must have float32 weights and no others. --precision sets the precision of passes, not of weights."
        )
    return net


def smoke_test(spec: NetSpec, spec_d: NetSpec) -> bool:
    """Build a user's pair and pass four images through it in training mode, to find errors before the training starts.

    Returns:
        whether the discriminator mixes the images of a batch, as batch normalisation does (the logit of one image has
        a gradient at another): a penalty per sample is impossible then.

    Raises:
        SettingsError: a net cannot be built, raises, or returns something invalid.
    """
    with torch.random.fork_rng(devices=[]):
        made = _generate(make_generator(spec).train(), spec)
        images = torch.zeros_like(made).uniform_(-1, 1, generator=named_generator(0, "first pass")).requires_grad_(True)
        logits = _discriminate(make_discriminator(spec_d).train(), images, spec)
        (gradient,) = torch.autograd.grad(logits[0], images)
        return bool(gradient[1:].count_nonzero())


@torch.no_grad()
def _generate(net: nn.Module, spec: NetSpec) -> Tensor:
    z = latents(_SMOKE_TEST_BATCH, spec.latent, 0, "first pass", 0, "cpu", spec.law)
    images = _checked_pass(net, z, spec, "generator", (_SMOKE_TEST_BATCH, spec.channels, spec.size, spec.size))
    if images.abs().max() > 1:
        raise SettingsError(
            f"The generator of train.nets = {spec.name} gives values up to {images.abs().max():.2f}; images must be\n"
            "in [−1, 1]. End it with nn.Tanh()."
        )
    return images


def _discriminate(net: nn.Module, images: Tensor, spec: NetSpec) -> Tensor:
    with drawn(net, lambda layer, columns: torch.rand(_SMOKE_TEST_BATCH, columns)):
        logits = _checked_pass(net, images, spec, "discriminator", (_SMOKE_TEST_BATCH,))
    if not logits.requires_grad:
        raise SettingsError(f"The logits of train.nets = {spec.name} have no gradient: the nets could not learn.")
    return logits


def _checked_pass(
    net: Callable[[Tensor], Tensor], inputs: Tensor, spec: NetSpec, kind: str, shape: tuple[int, ...]
) -> Tensor:
    what = f"The {kind} of train.nets = {spec.name}"
    try:
        outputs = net(inputs)
    except Exception as error:  # user code may raise anything
        why = str(error).strip().partition("\n")[0]
        raise SettingsError(f"{what} fails on {tuple(inputs.shape)}: {type(error).__name__}: {why}") from error
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        returned = str(outputs.dtype) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise SettingsError(f"{what} returns {returned}; it must return a float tensor.")
    if tuple(outputs.shape) != shape:
        hint = "one logit per image: end it with nn.Flatten(0)" if kind == "discriminator" else "(N, C, H, W)"
        raise SettingsError(
            f"{what} maps {tuple(inputs.shape)} to {tuple(outputs.shape)}; it must return {shape}\n({hint})."
        )
    if not outputs.isfinite().all():
        raise SettingsError(f"{what} returns values that are not finite with its initial weights.")
    return outputs
