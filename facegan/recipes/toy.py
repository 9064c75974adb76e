"""Four unmistakable kinds of small pictures, and how near to them others are: what a recipe has to learn in a minute.

All is drawn by a seed. The kinds are the same mirrored, so that a recipe's flips change nothing of them.

N pictures, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from facegan.stream.sampler import Sampler

MODES: tuple[str, ...] = ("middle", "top", "bottom", "sides")
# The lit quarter of each, RGB, on a dark ground; the one channel of grey pictures is green, in which all are as light.
_LIT = ((250, 230, 110), (110, 230, 250), (250, 230, 230), (140, 230, 140))
_GROUND = (40, 30, 60)
_SHIFT = 1  # px, up or down and left or right
_SOFTNESS = 0.08  # of half a side
_LEAST_CONTRAST, _NOISE = 0.7, 1.0  # of 1, about middle grey; standard deviation in grey levels
COVERED = 0.05  # the share of samples from which on a mode counts as covered: a fifth of its share of the pictures


def draw_pictures(count: int, size: int, channels: int, seed: int) -> tuple[Tensor, Tensor]:
    """uint8 (N, C, H, W), and the number of each one's mode, int64 (N,); modes take turns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size].astype(np.float64)
    centre, scale = (size - 1) / 2, size / 2
    pictures = np.empty((count, channels, size, size), np.uint8)
    for number in range(count):
        down, right = rng.integers(-_SHIFT, _SHIFT + 1, 2)
        v, u = (y - centre - down) / scale, (x - centre - right) / scale
        mode = number % len(MODES)
        lit, ground = (np.array(colour)[:, None, None] for colour in (_LIT[mode], _GROUND))
        if channels == 1:
            lit, ground = lit[1:2], ground[1:2]
        picture = ground + _light(mode, u, v) * (lit - ground)
        picture = 127.5 + (picture - 127.5) * rng.uniform(_LEAST_CONTRAST, 1) + rng.normal(0, _NOISE, picture.shape)
        pictures[number] = picture.round().clip(0, 255)
    return torch.from_numpy(pictures), torch.arange(count) % len(MODES)


def _light(mode: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """0 … 1: which quarter of the picture is lit; u goes right and v down from the middle, ±1 at the borders.

    The quarters do not meet, so two modes have a correlation of about −1/3: four pictures can't differ by more.
    """
    top, bottom = _step(-0.5 - v), _step(v - 0.5)
    between, sides = 1 - top - bottom, _step(np.abs(u) - 0.5)
    return (between * (1 - sides), top, bottom, between * sides)[mode]


def _step(distance: np.ndarray) -> np.ndarray:
    """From 0 to 1 about 0, softly: a discriminator is to learn the shapes before it can tell how sharp an edge is."""
    return 1 / (1 + np.exp(-distance / _SOFTNESS))


class Pictures:
    """The four kinds as `facegan.train.Faces`."""

    def __init__(self, count: int, size: int, channels: int, seed: int) -> None:
        self.size, self.channels = size, channels
        self.fingerprint = f"four modes, {count} of {size}×{size}×{channels}, seed {seed}"
        self.images, self.modes = draw_pictures(count, size, channels, seed)

    def __len__(self) -> int:
        return len(self.images)

    def batches(
        self, batch_size: int, *, seed: int = 0, device: str = "cpu", rank: int = 0, world_size: int = 1
    ) -> PictureBatches:
        share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        return PictureBatches(self.images.to(device), Sampler(len(self), seed), batch_size, share)


class PictureBatches:
    """Batches in the order in which `facegan.FaceShards` gives its own."""

    def __init__(self, images: Tensor, order: Sampler, batch: int, share: slice) -> None:
        self._images, self._order, self._batch, self._share, self._position = images, order, batch, share, 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        numbers = self._order.at(self._position, self._batch)[self._share]
        self._position += self._batch
        return self._images[torch.from_numpy(numbers).to(self._images.device)]

    def state_dict(self) -> Mapping[str, Any]:
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._position = state["position"]

    def describe(self) -> Mapping[str, Any]:
        return {"cache": "ram"}

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Nearness:
    """How samples lie to real pictures: root mean squares over all values of two pictures' difference.

    Attributes:
        distance: mean of the samples to the nearest real picture, of values in [−1, 1].
        shuffled: the same of the control: each value of each pixel comes from a real picture chosen anew, so that every
            pixel is spread as the real ones are, and no picture is of any mode.
        real: the same of other real pictures: what a perfect generator would have.
        shape_distance, shape_shuffled, shape_real: the same where each picture is brought to mean 0 and variance 1. A
            discriminator with batch norm sees real and fake batches normalised apart, and so hardly any contrast: a
            generator has the shapes long before their contrast.
        radius: half the least ``shape`` distance between two real pictures of different modes; so no picture can be
            within it of two modes.
        modes: share of the samples within the radius of each mode, by name.
        covered: modes with at least 5 % of the samples.
    """

    distance: float
    shuffled: float
    real: float
    shape_distance: float
    shape_shuffled: float
    shape_real: float
    radius: float
    modes: dict[str, float]
    covered: int


def nearness(samples: Tensor, pictures: Pictures, seed: int) -> Nearness:
    """``samples``: uint8 (N, C, H, W)."""
    others, _ = draw_pictures(len(samples), pictures.size, pictures.channels, seed + 1)
    kinds = (samples, shuffled(pictures.images, len(samples), seed), others)
    plain = [_nearest(_flat(kind), _flat(pictures.images))[0].mean().item() for kind in kinds]
    real = _shape(pictures.images)
    shape = [_nearest(_shape(kind), real)[0].mean().item() for kind in kinds]
    names = ("distance", "shuffled", "real")
    means = dict(zip((*names, *(f"shape_{name}" for name in names)), plain + shape, strict=True))
    radius = (_distances(real, real)[pictures.modes[:, None] != pictures.modes].min() / 2).item()
    distances, at = _nearest(_shape(samples), real)
    inside = pictures.modes[at][distances < radius]
    shares = torch.bincount(inside, minlength=len(MODES)) / len(samples)
    modes = dict(zip(MODES, shares.tolist(), strict=True))
    return Nearness(**means, radius=radius, modes=modes, covered=int((shares >= COVERED).sum()))


def shuffled(images: Tensor, count: int, seed: int) -> Tensor:
    """(count, C, H, W): each value that of the same place in one of ``images``, chosen at random for each."""
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(images), (count, *images.shape[1:]), generator=rng)
    return images.gather(0, chosen)


def _flat(images: Tensor) -> Tensor:
    """float32 (N, values) in [−1, 1]."""
    return images.flatten(1).float().div(127.5).sub(1)


def _shape(images: Tensor) -> Tensor:
    """float32 (N, values), each row of mean 0 and variance 1; zeros where all values are the same."""
    values = _flat(images)
    centred = values - values.mean(1, keepdim=True)
    return centred / centred.std(1, correction=0, keepdim=True).clamp(min=1e-6)


def _nearest(some: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of each row of ``some`` the distance to the nearest of ``others``, and which that is."""
    return _distances(some, others).min(1)


def _distances(some: Tensor, others: Tensor) -> Tensor:
    return torch.cdist(some, others) / some.shape[1] ** 0.5
