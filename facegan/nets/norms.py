"""Normalisations inside a discriminator, by the names that ``NetSpec.norm`` has."""

from __future__ import annotations

from torch import nn


def norm_layers(norm: str, channels: int) -> list[nn.Module]:
    """What stands behind a convolution: a list of one layer, or of none.

    ``layer`` is over all values of an image, with a scale and a shift a channel (Ba, Kiros & Hinton 2016,
    arXiv:1607.06450, as WGAN-GP's code has it): no image depends on another. ``spectral`` is in the weights, and so
    nothing here (`facegan.nets.spectral`).
    """
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(1, channels)] if norm == "layer" else []
