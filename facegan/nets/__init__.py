"""Pairs of generator and discriminator by name, and generators in files."""

from facegan.nets.condition import Condition
from facegan.nets.layers import Discriminator, Dropout, Generator, NetSpec, count_parameters, draw_inputs, drawn
from facegan.nets.registry import PAIRS, Pair, find_pair, make_discriminator, make_generator
from facegan.nets.weights import load_generator, save_generator

__all__ = [
    "PAIRS",
    "Condition",
    "Discriminator",
    "Dropout",
    "Generator",
    "NetSpec",
    "Pair",
    "count_parameters",
    "draw_inputs",
    "drawn",
    "find_pair",
    "load_generator",
    "make_discriminator",
    "make_generator",
    "save_generator",
]
