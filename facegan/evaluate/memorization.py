"""Whether a generator has learnt faces by heart: the training faces nearest to its samples, and how many are copies.

A copy is told by a ratio, as Lowe 2004 tells a match from chance ("Distinctive Image Features from Scale-Invariant
Keypoints", section 7.1): a sample copies a training face where it, or its mirror image, is less than `RATIO` as far
from its nearest training face as from its tenth nearest (of fewer than 200 training faces: from that which a twentieth
of them are nearer than). Someone new is about as far from many; what was copied is far nearer to one, however near to
each other faces are in general. They are compared as pictures of 8×8 pixels, in which rounding, compression and a
pixel's shift all but vanish.

Of 8,000 CelebA faces at 64 px beside 8,089 others, 0.2 % count as copies (CelebA holds some photographs twice). Of 200
of the faces themselves all do, and still all moved by a pixel, with noise of 16 levels, blurred by 2 px, or as JPEG of
quality 50. A face that stands in the training set ten times or more can't be told by this.

N samples, K training faces, C channels, S side. Training faces are uint8 (K, C, S, S), or an iterable of blocks of them
in their order, of which one is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from facegan.errors import SettingsError
from facegan.evaluate.density_coverage import nearest
from facegan.evaluate.features import random_features

RATIO, AGAINST, A_TWENTIETH = 0.5, 10, 20
_SMALL = 8  # px
_BLOCK = 512  # faces: 50 MB as float64 at 64 px
_SHOWN, _LEAST_SIDE, _GAP, _TITLE = 3, 64, 8, 20  # neighbours of each kind; px


@dataclass(frozen=True, eq=False)
class Neighbours:
    """For each of N samples the nearest training faces, the nearest first: indices int64 and distances float64, all
    (N, count). In pixels: the root of the mean square over all pixels and channels, 0 … 255. In features: Euclidean,
    of `facegan.evaluate.features`."""

    pixel_indices: NDArray[np.int64]
    pixel_distances: NDArray[np.float64]
    feature_indices: NDArray[np.int64]
    feature_distances: NDArray[np.float64]


def neighbours(samples: Tensor, faces: Tensor | Iterable[Tensor], count: int = _SHOWN) -> Neighbours:
    """
    Args:
        samples: uint8 (N, C, S, S).
        faces: training faces of the same shape, ``count`` or more.

    Raises:
        SettingsError: there are no samples, too few faces, or faces of another shape.
    """
    views: tuple[_View, ...] = (_pixels, random_features)
    ((pixel, pixel_at), (feature, feature_at)), total = _nearest_of(samples, faces, count, views)
    if total < count:
        raise SettingsError(f"{total:,} training faces are too few to show the {count} nearest.")
    return Neighbours(pixel_at, pixel / samples[0].numel() ** 0.5, feature_at, feature)


def copy_rate(samples: Tensor, faces: Tensor | Iterable[Tensor]) -> float:
    """0 … 1: the share of samples, uint8 (N, C, S, S), that copy a training face.

    Raises:
        SettingsError: there are no samples, fewer than two training faces, or faces of another shape.
    """
    both = torch.cat([samples, samples.flip(-1)])
    ((distances, _),), total = _nearest_of(both, faces, AGAINST, (_small,))
    if total < 2:
        raise SettingsError(f"Copies are told by the distances to many training faces: {total} is too few.")
    other = min(AGAINST, max(2, total // A_TWENTIETH))
    copies = distances[:, 0] < RATIO * distances[:, other - 1]
    return float((copies[: len(samples)] | copies[len(samples) :]).mean())


def neighbours_picture(samples: Tensor, faces: Tensor | Iterable[Tensor], found: Neighbours) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3): in two columns a row for each sample, then its nearest training faces in pixels, then in
    features.

    Args:
        samples: uint8 (N, C, S, S).
        faces: the training faces that ``found`` numbers.
        found: of these samples by `neighbours`.

    Raises:
        SettingsError: ``faces`` are not those: some are missing.
    """
    wanted = np.unique(np.concatenate([found.pixel_indices, found.feature_indices], axis=None))
    chosen = _choose(faces, wanted)
    rows = [
        [image[None], chosen[np.searchsorted(wanted, pixel)], chosen[np.searchsorted(wanted, feature)]]
        for image, pixel, feature in zip(samples, found.pixel_indices, found.feature_indices, strict=True)
    ]
    half = -(-len(rows) // 2)
    columns = [_column(part, half) for part in (rows[:half], rows[half:]) if part]
    return np.concatenate(columns, axis=1)


_View = Callable[[Tensor], NDArray[np.float32]]
_Found = tuple[NDArray[np.float64], NDArray[np.int64]]


def _nearest_of(
    samples: Tensor, faces: Tensor | Iterable[Tensor], count: int, views: tuple[_View, ...]
) -> tuple[list[_Found], int]:
    """For each way to see an image the distances and indices (N, ``count``) of each sample's nearest faces (of fewer
    where there are no more), and how many there are."""
    if not len(samples):
        raise SettingsError("There are no samples to find the nearest training faces of.")
    seen = [view(samples) for view in views]
    kept = [(np.empty((len(samples), 0)), np.empty((len(samples), 0), np.int64)) for _ in views]
    total = 0
    for block in _blocks(faces):
        if block.shape[1:] != samples.shape[1:]:
            raise SettingsError(
                f"Training faces of {_shape(block)} can't be compared with samples of {_shape(samples)}."
            )
        for number, view in enumerate(views):
            near, at = nearest(seen[number], view(block), min(count, len(block)))
            kept[number] = _merge(kept[number], (near, at + total), count)
        total += len(block)
    return kept, total


def _merge(one: _Found, other: _Found, count: int) -> _Found:
    distances = np.concatenate([one[0], other[0]], axis=1)
    indices = np.concatenate([one[1], other[1]], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1)


def _blocks(faces: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    for part in [faces] if isinstance(faces, Tensor) else faces:
        yield from part.split(_BLOCK) if len(part) else ()


def _pixels(images: Tensor) -> NDArray[np.float32]:
    return images.flatten(1).float().numpy()


def _small(images: Tensor) -> NDArray[np.float32]:
    return adaptive_avg_pool2d(images.float(), _SMALL).flatten(1).numpy()


def _shape(images: Tensor) -> str:
    channels, height, width = images.shape[1:]
    return f"{height}×{width} pixels and {channels} channel{'s' if channels > 1 else ''}"


def _choose(faces: Tensor | Iterable[Tensor], wanted: NDArray[np.int64]) -> Tensor:
    """uint8 (n, C, S, S): the faces of these rising numbers."""
    chosen, first = [], 0
    for block in _blocks(faces):
        here = wanted[(wanted >= first) & (wanted < first + len(block))] - first
        chosen.append(block[torch.from_numpy(here)])
        first += len(block)
    if first <= wanted[-1]:
        raise SettingsError(f"There is no training face {wanted[-1]:,} to show: there are {first:,}.")
    return torch.cat(chosen)


def _column(rows: list[list[Tensor]], height: int) -> NDArray[np.uint8]:
    """A title, and below it ``height`` rows of groups of images; white where there are none."""
    times = -(-_LEAST_SIDE // rows[0][0].shape[-1])
    side = times * rows[0][0].shape[-1]
    widths = [len(group) * side for group in rows[0]]
    starts = np.cumsum([_GAP] + [width + _GAP for width in widths])
    sheet = np.full((_TITLE + height * side + _GAP, starts[-1] + _GAP, 3), 255, np.uint8)
    for title, left in zip(("sample", "nearest in pixels", "nearest in features"), starts, strict=False):
        place = (int(left), _TITLE - 6)
        cv2.putText(sheet, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    for number, groups in enumerate(rows):
        top = _TITLE + number * side
        for group, left, width in zip(groups, starts, widths, strict=False):
            strip = group.expand(-1, 3, -1, -1).permute(2, 0, 3, 1).flatten(1, 2).numpy()
            sheet[top : top + side, left : left + width] = strip.repeat(times, 0).repeat(times, 1)
    return sheet
