"""Whether a generator copies training faces: the nearest training faces of its samples, and the share of copies.

A copy is recognized by a ratio, as Lowe 2004 separates matches from chance ("Distinctive Image Features from
Scale-Invariant Keypoints", section 7.1): a sample is a copy if it, or its mirror image, is less than `RATIO` times as
far from its nearest training face as from its tenth nearest (with fewer than 200 training faces, from the nearest
twentieth). A new face is about as far from many; a copy is far nearer to one, however similar the faces are overall.
Faces are compared as pictures of 8×8 pixels, in which rounding, compression and a shift by a pixel almost vanish.

Of 8,000 CelebA faces at 64 px against 8,089 others, 0.2 % count as copies (CelebA contains some photographs twice). Of
200 of the faces themselves all do, also when shifted by a pixel, with noise of 16 levels, blurred by 2 px, or as JPEG
of quality 50. A face that occurs ten times or more in the training set is not recognized.

N samples, C channels, S side. Training faces come in blocks, uint8 (n, C, S, S).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from facegan.evaluate.manifold import nearest
from facegan.evaluate.random_net import random_features

RATIO, COMPARED_WITH = 0.5, 10
_SHARE_COMPARED_WITH = 20  # with few faces, the nearest twentieth
_SMALL_SIDE = 8  # px
_SHOWN = 3  # neighbours of each kind in the picture
_MIN_SIDE, _GAP, _TITLE_HEIGHT = 64, 8, 20  # px

_Found = tuple[NDArray[np.float64], NDArray[np.int64]]  # distances and indices, both (N, count)


def copy_rate(samples: Tensor, faces: Iterable[Tensor]) -> float:
    """The share of samples, uint8 (N, C, S, S), that copy a training face, of at least `COMPARED_WITH`: 0 … 1."""
    ((distances, _),), total = _nearest(torch.cat([samples, samples.flip(-1)]), faces, COMPARED_WITH, _small)
    other = min(COMPARED_WITH, max(2, total // _SHARE_COMPARED_WITH))
    copies = distances[:, 0] < RATIO * distances[:, other - 1]
    return float((copies[: len(samples)] | copies[len(samples) :]).mean())


class Gallery:
    """Training faces, in blocks uint8 (n, C, S, S), kept as small pictures to compare samples with again and again."""

    def __init__(self, faces: Iterable[Tensor]) -> None:
        self._faces = np.concatenate([_small(block) for block in faces])

    def __len__(self) -> int:
        return len(self._faces)

    def compare(self, samples: Tensor, *, own: bool = False) -> dict[str, float]:
        """``copied`` as `copy_rate`; and ``nearest``: by how much of the distance to the tenth nearest face the nearest
        one is nearer, 0 … 1, the mean over samples, uint8 (N, C, S, S), or their mirror images.

        ``own``: the samples are the first faces themselves, each compared with all others.
        """
        count, total = len(samples), len(self) - own
        other = min(COMPARED_WITH, max(2, total // _SHARE_COMPARED_WITH))
        distances, indices = nearest(_small(torch.cat([samples, samples.flip(-1)])), self._faces, other + own)
        if own:
            is_own = indices == np.arange(2 * count)[:, None] % count
            others = np.argsort(is_own, axis=1, kind="stable")[:, :other]
            distances = np.take_along_axis(distances, others, axis=1)
        far = distances[:, -1]
        ratios = np.divide(distances[:, 0], far, out=np.ones_like(far), where=far > 0).reshape(2, count).min(axis=0)
        return {"copied": float((ratios < RATIO).mean()), "nearest": float(1 - ratios.mean())}


def _small(images: Tensor) -> NDArray[np.float32]:
    return adaptive_avg_pool2d(images.float(), _SMALL_SIDE).flatten(1).numpy()


def neighbours_picture(samples: Tensor, faces: Iterable[Tensor]) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3): in two columns, a row per sample with its nearest training faces in pixels (by the root mean
    square), then in features of `facegan.evaluate.random_net`. Reads ``faces`` twice.
    """
    found, _ = _nearest(samples, faces, _SHOWN, lambda images: images.flatten(1).float().numpy(), random_features)
    (_, pixel), (_, feature) = found
    indices, first, blocks = np.unique(np.concatenate([pixel, feature])), 0, list[Tensor]()
    for block in faces:
        here = indices[(indices >= first) & (indices < first + len(block))] - first
        blocks.append(block[torch.from_numpy(here)])
        first += len(block)
    chosen = torch.cat(blocks)
    rows = [
        [image[None], chosen[np.searchsorted(indices, by_pixel)], chosen[np.searchsorted(indices, by_feature)]]
        for image, by_pixel, by_feature in zip(samples, pixel, feature, strict=True)
    ]
    half, titles = -(-len(rows) // 2), ("sample", "nearest in pixels", "nearest in features")
    return np.concatenate([sheet(part, half, titles) for part in (rows[:half], rows[half:]) if part], axis=1)


def _nearest(
    samples: Tensor, faces: Iterable[Tensor], count: int, *embeddings: Callable[[Tensor], NDArray[np.float32]]
) -> tuple[list[_Found], int]:
    """By each embedding each sample's ``count`` nearest faces, nearest first, and the number of faces."""
    embedded = [embed(samples) for embed in embeddings]
    best: list[_Found] = [(np.empty((len(samples), 0)), np.empty((len(samples), 0), np.int64)) for _ in embeddings]
    total = 0
    for block in faces:
        for number, embed in enumerate(embeddings):
            distances, indices = nearest(embedded[number], embed(block), min(count, len(block)))
            distances = np.concatenate([best[number][0], distances], axis=1)
            indices = np.concatenate([best[number][1], indices + total], axis=1)
            order = np.argsort(distances, axis=1, kind="stable")[:, :count]
            best[number] = np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1)
        total += len(block)
    return best, total


def sheet(rows: list[list[Tensor]], height: int, titles: Sequence[str]) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3): titles, and ``height`` rows of groups of images, white after the last row."""
    scale = -(-_MIN_SIDE // rows[0][0].shape[-1])
    side = scale * rows[0][0].shape[-1]
    widths = [len(group) * side for group in rows[0]]
    starts = np.cumsum([_GAP] + [width + _GAP for width in widths])
    sheet = np.full((_TITLE_HEIGHT + height * side + _GAP, starts[-1] + _GAP, 3), 255, np.uint8)
    for title, left in zip(titles, starts, strict=False):
        origin = (int(left), _TITLE_HEIGHT - 6)
        cv2.putText(sheet, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    for number, groups in enumerate(rows):
        top = _TITLE_HEIGHT + number * side
        for group, left, width in zip(groups, starts, widths, strict=False):
            strip = group.expand(-1, 3, -1, -1).permute(2, 0, 3, 1).flatten(1, 2).numpy()
            sheet[top : top + side, left : left + width] = strip.repeat(scale, 0).repeat(scale, 1)
    return sheet
