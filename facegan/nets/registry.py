"""Pairs of generator and discriminator by name, built-in or user-defined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from facegan.config import CONDITIONAL_NETS
from facegan.console import shown
from facegan.errors import SettingsError, one_of, suggest
from facegan.nets import dcgan, r3gan, resnet
from facegan.nets.conditional import ConditionalDiscriminator, ConditionalGenerator
from facegan.nets.layers import SIZES, Discriminator, Generator, Net, NetSpec, drawn
from facegan.nets.random import latents, named_generator
from facegan.plugins import is_import_path, load_object

_SMOKE_TEST_BATCH = 4


@dataclass(frozen=True)
class Pair:
    """How to build a pair of nets, and the sizes, norms and channels of the specs that it supports.

    ``generator`` and ``discriminator`` are classes or functions that make a module from a `NetSpec`. The modules map
    what `facegan.nets.Generator` and `facegan.nets.Discriminator` map, but need not be these: then their layers
    initialise themselves.
    """

    generator: Callable[[NetSpec], nn.Module]
    discriminator: Callable[[NetSpec], nn.Module]
    sizes: tuple[int, ...] = SIZES
    norms: tuple[str, ...] = ("none",)
    channels: tuple[int, ...] = (1, 3)
    autoencoder: bool = False  # the discriminator gives −|x − D(x)|, which only BEGAN's loss can use


# The default width, norm and latents of each pair are in facegan.config.NETS.
PAIRS: dict[str, Pair] = {
    "dcgan": Pair(dcgan.DCGANGenerator, dcgan.DCGANDiscriminator, (32, 64, 128), ("batch", "none", "spectral")),
    "dcgan-fc": Pair(dcgan.DCGANFCGenerator, dcgan.DCGANFCDiscriminator, norms=("none", "layer", "batch")),
    "dcgan-pool": Pair(dcgan.DCGANPoolGenerator, dcgan.DCGANPoolDiscriminator, norms=("batch", "none")),
    "mnist-conv": Pair(dcgan.MNISTConvGenerator, dcgan.MNISTConvDiscriminator, (28, 32)),
    "mlp": Pair(dcgan.MLPGenerator, dcgan.MLPDiscriminator),
    "resnet": Pair(resnet.ResNetGenerator, resnet.ResNetDiscriminator, norms=("spectral", "none", "layer")),
    "began": Pair(dcgan.BEGANGenerator, dcgan.BEGANDiscriminator, autoencoder=True),
    "r3gan": Pair(r3gan.R3GANGenerator, r3gan.R3GANDiscriminator),
}


def find_pair(spec: NetSpec) -> Pair:
    """The pair that a spec names: one of `PAIRS`, or ``MODULE:NAME``, a `Pair` or a tuple of two.

    Raises:
        SettingsError: there is no such pair, or it does not support the size, the channels, the norm or a condition.
    """
    if spec.condition and spec.name not in CONDITIONAL_NETS:
        raise SettingsError(f"The nets '{shown(spec.name)}' support no condition. {one_of(CONDITIONAL_NETS)} do.")
    if spec.name not in PAIRS and not is_import_path(spec.name):
        known = f"choose {one_of(PAIRS)}.{suggest(spec.name, PAIRS)}"
        raise SettingsError(f"There are no nets '{shown(spec.name)}': {known}")
    pair = PAIRS[spec.name] if spec.name in PAIRS else _load_pair(spec.name)
    what = f"The nets '{spec.name}' support"
    if spec.size not in pair.sizes:
        sizes = one_of(pair.sizes)
        raise SettingsError(f"{what} {sizes} pixels, not {spec.size}.\nPrepare the faces again with --size {sizes}.")
    if spec.channels not in pair.channels:
        raise SettingsError(f"{what} {one_of(pair.channels)} channels, not {spec.channels}.")
    if spec.norm not in pair.norms:
        hint = suggest(spec.norm, pair.norms)
        raise SettingsError(f"{what} the norm {one_of(pair.norms)}, not '{spec.norm}'.{hint}")
    return pair


def _load_pair(name: str) -> Pair:
    pair: Any = load_object("train.nets =", name)
    pair = Pair(*pair) if isinstance(pair, tuple) and len(pair) == 2 else pair
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
    return cast(Generator, _make(spec, partial(_build_generator, find_pair(spec)), seed, "generator"))


def make_discriminator(spec: NetSpec, seed: int = 0) -> Discriminator:
    return cast(Discriminator, _make(spec, partial(_build_discriminator, find_pair(spec)), seed, "discriminator"))


def _build_generator(pair: Pair, spec: NetSpec) -> nn.Module:
    if not spec.condition:
        return pair.generator(spec)
    inner = pair.generator(replace(spec, latent=spec.inputs, condition=None))
    return ConditionalGenerator(cast(Generator, inner))


def _build_discriminator(pair: Pair, spec: NetSpec) -> nn.Module:
    net = pair.discriminator(spec)
    return ConditionalDiscriminator(spec, cast(Discriminator, net)) if spec.condition else net


def meta_generator(spec: NetSpec) -> Generator:
    """A built-in generator on torch's device ``meta``: names and shapes of its tensors, without memory."""
    pair = find_pair(spec)
    try:
        with torch.device("meta"):
            return cast(Generator, _build_generator(pair, spec))
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:  # sizes that torch cannot represent
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise SettingsError(
            f"The nets '{spec.name}' cannot have width {spec.width} and latents of length {spec.latent}: {why:.200}"
        ) from None


def _make(spec: NetSpec, build: Callable[[NetSpec], nn.Module], seed: int, kind: str) -> nn.Module:
    rng = named_generator(seed, f"initial {kind}")
    if is_import_path(spec.name):
        net = cast(Net, _build_plugin(spec, build, rng, kind))  # any module can have a spec
    else:
        with torch.device("meta"):  # draw nothing twice, and nothing from the global random state
            net = cast(Net, build(spec))
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
            if isinstance(net, Net) and type(net).initialise is not Net.initialise:
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


# Mo, Cho & Shin 2020, "Freeze the discriminator: a simple baseline for fine-tuning GANs" (arXiv:2002.10964).
def freeze_layers(discriminator: nn.Module, count: int) -> None:
    """The first ``count`` layers with weights (convolutions, linear layers), from the pixels, and the norms between
    them no longer need a gradient. Raises SettingsError unless a layer remains."""
    net = discriminator.inner if isinstance(discriminator, ConditionalDiscriminator) else discriminator
    modules = list(net.modules())
    layers = [module for module in modules if getattr(getattr(module, "weight", None), "ndim", 0) > 1]
    if count >= len(layers):
        raise SettingsError(
            f"train.freeze_d = {count}: the discriminator has {len(layers)} layers, and the last one has to learn.\n"
            f"Choose {len(layers) - 1} or less."
        )
    for module in modules[: modules.index(layers[count])]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def smoke_test(spec: NetSpec, spec_d: NetSpec) -> bool:
    """Build a user's pair and pass four images through it in training mode, to find errors before the training starts.

    Returns whether the discriminator mixes the images of a batch, as batch norm does (the logit of one image has a
    gradient at another): a penalty per sample is impossible then.
    """
    shape = (_SMOKE_TEST_BATCH, spec.channels, spec.size, spec.size)
    z = latents(_SMOKE_TEST_BATCH, spec.latent, 0, "first pass", 0, "cpu", spec.distribution)
    with torch.random.fork_rng(devices=[]):
        with torch.no_grad():
            largest = _checked_pass(make_generator(spec).train(), z, spec, "generator", shape).abs().max()
        if largest > 1:
            raise SettingsError(
                f"The generator of train.nets = {spec.name} gives values up to {largest:.2f};\n"
                "images must be in [−1, 1]. End it with nn.Tanh()."
            )
        images = torch.empty(shape).uniform_(-1, 1, generator=named_generator(0, "first pass")).requires_grad_(True)
        net = make_discriminator(spec_d).train()
        with drawn(net, lambda layer, columns: torch.rand(_SMOKE_TEST_BATCH, columns)):
            logits = _checked_pass(net, images, spec, "discriminator", (_SMOKE_TEST_BATCH,))
        if not logits.requires_grad:
            raise SettingsError(f"The logits of train.nets = {spec.name} have no gradient: the nets could not learn.")
        (gradient,) = torch.autograd.grad(logits[0], images)
        return bool(gradient[1:].count_nonzero())


def _checked_pass(net: nn.Module, inputs: Tensor, spec: NetSpec, kind: str, shape: tuple[int, ...]) -> Tensor:
    what = f"The {kind} of train.nets = {spec.name}"
    try:
        outputs = net(inputs)
    except Exception as error:  # user code may raise anything
        why = str(error).strip().partition("\n")[0]
        raise SettingsError(f"{what} fails on {tuple(inputs.shape)}: {type(error).__name__}: {why}") from error
    is_float = isinstance(outputs, Tensor) and outputs.is_floating_point()
    found = tuple(outputs.shape) if is_float else getattr(outputs, "dtype", type(outputs).__name__)
    if found != shape:
        hint = "one logit per image: end it with nn.Flatten(0)" if kind == "discriminator" else "(N, C, H, W)"
        raise SettingsError(f"{what} maps {tuple(inputs.shape)} to {found}; it must return {shape}, float\n({hint}).")
    if not outputs.isfinite().all():
        raise SettingsError(f"{what} returns values that are not finite with its initial weights.")
    return outputs
