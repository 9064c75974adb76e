"""Differentiable augmentation of the images that the discriminator sees, by given random numbers.

Zhao et al. 2020, "Differentiable augmentation for data-efficient GAN training" (arXiv:2006.10738): real and fake images
change in the same ways, in D's updates and in G's, so that D cannot tell them apart by the augmentation and gradients
reach G. Strengths are those of the authors' code.

N batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

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


def is_cheap_to_read(numbers: Tensor) -> bool:
    """Whether Python may branch on them: on a GPU it would wait for them, and a CUDA graph has no branches."""
    return not numbers.is_cuda


def is_idle(p: Tensor) -> bool:
    """Whether `adapt` would change nothing. On a GPU it is not known."""
    return is_cheap_to_read(p) and not p


def flip(images: Tensor, random: Tensor) -> Tensor:
    """Mirrors the images, (N, C, H, W), whose entry of ``random``, (N, 1) in [0, 1), is below ½."""
    return torch.where((random < 0.5)[:, :, None, None], images.flip(3), images)


# Karras et al. 2020, "Training generative adversarial networks with limited data" (arXiv:2006.06676): each of these
# changes is made to an image with the same probability p, which follows the discriminator (`adapted`). Order, strengths
# and distributions are those of the authors' code ("bgc"):
_PLACES = ("flip", "quarter", "whole", "scale", "before", "stretch", "after", "shift")
_COLOURS = ("brightness", "contrast", "luma", "hue", "saturation")
CHANGES = (*_PLACES, *_COLOURS)
_ROTATIONS = ("before", "after")  # the stretch: one of them with probability p, so each with 1 − √(1 − p)
ADA_UNIFORM, ADA_NORMAL = len(CHANGES) + 8, 7  # random numbers per image
_WHOLE_SHIFT, _SCALE, _FRACTION = 1 / 8, 0.2, 1 / 8  # of the side; in octaves; of the side
_BRIGHTNESS, _CONTRAST, _SATURATION = 0.2, 0.5, 1.0  # the latter two in octaves
ADA_STEPS = 4  # between two changes of p


def adapt(images: Tensor, p: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
    """Augments float images in [−1, 1] of one channel or three; colours may leave it.

    ``p``: a scalar tensor in 0 … 1; at 0 the images are unchanged, to the bit. ``uniform``: (N, `ADA_UNIFORM`) in
    [0, 1); ``normal``: (N, `ADA_NORMAL`).

    All changes of places are one bilinear sampling of the image, mirrored at its edges. The authors filter by wavelets
    before and after it against aliasing, at twice the resolution; this does not.
    """
    images, count = images.float(), len(CHANGES)
    rotation = 1 - (1 - p).sqrt()
    chance = torch.stack([rotation if name in _ROTATIONS else p for name in CHANGES])
    applied = uniform[:, :count] < chance
    made = dict(zip(CHANGES, applied.float().T, strict=True))
    flip, quarter, right, down, before, after, luma, hue = uniform[:, count:].T
    scale, stretch, shift_right, shift_down, brightness, contrast, saturation = normal.T
    side = images.shape[-1]

    def whole(random: Tensor) -> Tensor:
        """A shift in whole pixels, as a share of half the side: affine_grid's unit."""
        return ((2 * random - 1) * _WHOLE_SHIFT * side).round() * (2 / side) * made["whole"]

    # From places in the result to places in the image, (N, 2, 2): the inverse of each change, in their order.
    mirrored = 1 - 2 * (flip < 0.5) * made["flip"]
    matrix = _rotation((quarter * 4).floor() * made["quarter"] * (math.pi / 2))
    matrix = torch.stack([mirrored, torch.ones_like(mirrored)], 1)[:, :, None] * matrix
    shift = -matrix @ torch.stack([whole(right), whole(down)], 1)[:, :, None]
    matrix = matrix * torch.exp2(-_SCALE * scale * made["scale"])[:, None, None]
    matrix = matrix @ _rotation((2 * before - 1) * math.pi * made["before"])
    octaves = _SCALE * stretch * made["stretch"]
    matrix = matrix * torch.exp2(torch.stack([-octaves, octaves], 1))[:, None, :]
    matrix = matrix @ _rotation((2 * after - 1) * math.pi * made["after"])
    fraction = torch.stack([shift_right, shift_down], 1) * (2 * _FRACTION) * made["shift"][:, None]
    shift = shift - matrix @ fraction[:, :, None]
    transform = torch.cat([matrix, shift], 2)
    deterministic = images.is_cuda and torch.are_deterministic_algorithms_enabled()

    def moved(images: Tensor, rows: Tensor | slice) -> Tensor:
        grid = functional.affine_grid(transform[rows], list(images.shape), align_corners=False)
        return sample(images, grid, deterministic=deterministic)

    images = _where(applied[:, : len(_PLACES)].any(1), images, moved)

    # Colours: with v the grey axis, P = v vᵀ and K the cross product with v, x ← c ((1 − 2i) P + s (cos θ (1 − P) +
    # sin θ K)) (x + b), as every change but the brightness is along v or around it.
    octaves = _CONTRAST * contrast * made["contrast"]
    grey = torch.exp2(octaves) * (1 - 2 * (luma < 0.5) * made["luma"])
    colour = torch.exp2(octaves + _SATURATION * saturation * made["saturation"])
    angle = (2 * hue - 1) * math.pi * made["hue"]
    added = _BRIGHTNESS * brightness * made["brightness"]
    one = torch.eye(3, device=images.device)  # a table of numbers could not be part of a CUDA graph
    along = torch.full_like(one, 1 / 3)
    axes = torch.stack([along, one - along, (one.roll(-1, 1) - one.roll(1, 1)) / 3**0.5]).flatten(1)
    weights = torch.stack([grey, colour * angle.cos(), colour * angle.sin()], 1) @ axes

    def coloured(images: Tensor, rows: Tensor | slice) -> Tensor:
        brighter = images + added[rows, None, None, None]
        if images.shape[1] == 1:
            return brighter * grey[rows, None, None, None]
        return (weights[rows].reshape(-1, 3, 3) @ brighter.flatten(2)).reshape(images.shape)

    return _where(applied[:, len(_PLACES) :].any(1), images, coloured)


def _where(changed: Tensor, images: Tensor, change: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
    """The images, those of ``changed``, bool (N,), by ``change``; computed for these alone on a CPU."""
    if not is_cheap_to_read(changed):
        return torch.where(changed[:, None, None, None], change(images, slice(None)), images)
    rows, single = changed.nonzero()[:, 0], list(images.unbind())
    if not len(rows):
        return images
    some = torch.stack([single[row] for row in rows.tolist()])
    for row, image in zip(rows.tolist(), change(some, rows).unbind(), strict=True):
        single[row] = image
    return torch.stack(single)


def adapted(p: Tensor, excess: Tensor, due: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The next p and excess, section 3 of the paper: p moves by ``step`` up if D is surer of real images than the
    target, else down. All are scalars.

    ``excess``: the sum of r − target over the steps since p moved, r the mean sign of D on real images. ``due``: bool.
    """
    moved = (p + step * excess.sign()).clamp(0, 1)
    return torch.where(due, moved, p), torch.where(due, torch.zeros_like(excess), excess)


def sample(images: Tensor, grid: Tensor, *, deterministic: bool) -> Tensor:
    """Bilinear samples of square images, mirrored at their edges, at ``grid``, (N, H, W, 2), as affine_grid has it.

    The gradient of torch's own sampling is not deterministic on GPUs; that of indexing can be.
    """
    if not deterministic:
        return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    side, number = images.shape[-1], torch.arange(len(images), device=images.device)[:, None, None]
    (x, y), pixels = (((grid + 1) * side - 1) / 2).unbind(-1), images.permute(0, 2, 3, 1)
    found = torch.zeros_like(pixels)
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = y.floor() + down, x.floor() + right
        weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
        row, column = (at.long().remainder(2 * side) for at in (row, column))
        row, column = (at.minimum(2 * side - 1 - at) for at in (row, column))
        found = found + pixels[number, row, column] * weight[..., None]
    return found.permute(0, 3, 1, 2)


def _rotation(angle: Tensor) -> Tensor:
    """(N, 2, 2) of radians, (N,)."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)


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
    side, most = images.shape[-1], int(images.shape[-1] * _SHIFT + 0.5)
    start = 2 * most - _whole(random, 2 * most + 1)
    padded = functional.pad(images, (most, most, most, most))
    if is_cheap_to_read(start):  # the gradient of indexing is slow on a CPU
        places = zip(padded.unbind(), start.tolist(), strict=True)
        return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in places])
    rows, columns = (start[:, None] + torch.arange(side, device=images.device)[:, None]).unbind(-1)
    number = torch.arange(len(images), device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[number, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)


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
