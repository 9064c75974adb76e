"""How a pair of nets is built: facegan's own pairs, and those that a user writes.

N batch, C channels, H height, W width, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from facegan.errors import SettingsError
from facegan.nets.sides import SIZES
from facegan.nets.spec import Discriminator, Generator, NetSpec
from facegan.own import own_object


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


def own_pair(name: str) -> Pair:
    """The pair that a user calls ``MODULE:NAME``: a `Pair`, or a generator and a discriminator in a tuple.

    Raises:
        SettingsError: it can't be imported, or is no pair.
    """
    found: Any = own_object("train.nets =", name)
    if isinstance(found, tuple) and len(found) == 2:
        found = Pair(*found)
    if not isinstance(found, Pair) or not callable(found.generator) or not callable(found.discriminator):
        raise SettingsError(
            f"train.nets = {name} is no pair of nets: it has to be a facegan.nets.Pair(GENERATOR, DISCRIMINATOR),\n"
            "or these two in a tuple, each a class or function that makes a torch.nn.Module of a NetSpec."
        )
    return found


def build_own(build: Callable[[NetSpec], nn.Module], spec: NetSpec, rng: torch.Generator, kind: str) -> nn.Module:
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
