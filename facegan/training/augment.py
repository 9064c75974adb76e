"""Differentiable augmentation of the images that the discriminator sees, by given random numbers.

Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training" (arXiv:2006.10738): real and fake images
change in the same ways, in D's updates and in G's, so that D cannot tell them apart by the augmentation and gradients
reach G. Strengths are those of the authors' code.

N batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

COLUMNS = 7  # random numbers per image, whatever the kinds
_SHIFT, _HOLE = 1 / 8, 1 / 2  # of the side


def augment(images: Tensor, kinds: Sequence[str], random: Tensor) -> Tensor:
    """DiffAugment of float images in [−1, 1]; colours may leave it, as in the authors' code.

    ``kinds`` (``color``, ``translation``, ``cutout``) are applied in this order. ``random``: float (N, 7) in [0, 1):
    brightness, saturation, contrast, shift down, shift right, the hole's row and column.
    """
    images = images.float()
    if "color" in kinds:
        images = _color(images, random[:, 0:3])
    if "translation" in kinds:
        images = _translation(images, random[:, 3:5])
    if "cutout" in kinds:
        images = _cutout(images, random[:, 5:7])
    return images


def flip(images: Tensor, random: Tensor) -> Tensor:
    """Mirrors the images, (N, C, H, W), whose entry of ``random``, (N, 1) in [0, 1), is below ½."""
    return torch.where((random < 0.5)[:, :, None, None], images.flip(3), images)


def _color(images: Tensor, random: Tensor) -> Tensor:
    """Brightness ± ½, saturation 0 … 2 about each pixel's grey, contrast ½ … 1½ about each image's mean."""
    brightness, saturation, contrast = (random[:, i, None, None, None] for i in range(3))
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * (contrast + 0.5) + mean


def _translation(images: Tensor, random: Tensor) -> Tensor:
    """By up to an eighth of the side in whole pixels; pixels from outside are 0."""
    shifted = []
    for axis, side in enumerate(images.shape[2:]):
        most = int(side * _SHIFT + 0.5)
        shift = _whole(random[:, axis], 2 * most + 1) - most
        # Zeros around the image: indices outside it are clamped to them.
        shifted.append((torch.arange(side, device=images.device) - shift[:, None]).clamp(-1, side) + 1)
    padded = functional.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    number = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[number, shifted[0][:, :, None], shifted[1][:, None, :]].permute(0, 3, 1, 2)


def _cutout(images: Tensor, random: Tensor) -> Tensor:
    """A square of half the side becomes 0, its centre anywhere in the image."""
    inside = []
    for axis, side in enumerate(images.shape[2:]):
        hole = int(side * _HOLE + 0.5)
        start = _whole(random[:, axis], side + 1 - hole % 2) - hole // 2
        at = torch.arange(side, device=images.device) - start[:, None]
        inside.append((at >= 0) & (at < hole))
    return images.masked_fill(inside[0][:, None, :, None] & inside[1][:, None, None, :], 0)


def _whole(random: Tensor, count: int) -> Tensor:
    """[0, 1) → int64 0 … count − 1."""
    return (random * count).long()
