"""The fixed crops by which papers cut CelebA's aligned photographs (178×218), and which need no detector."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from facegan.faces.crop import Quad, averaged


@dataclass(frozen=True)
class FixedCrop:
    """A square of ``side`` photograph's pixels whose centre lies ``below`` pixels under the photograph's."""

    side: int
    below: int = 0

    @property
    def least_size(self) -> tuple[int, int]:
        """Width and height of the smallest photograph that it fits in."""
        return self.side, self.side + max(0, 2 * self.below - 1)


# Each as (x, y, side) on 178×218. Told from the centre they are the same there, and fit photographs of other sizes too.
FIXED_CROPS = {
    # (35, 55, 108): Radford et al. 2015, "Unsupervised Representation Learning with Deep Convolutional GANs", as
    # DCGAN-tensorflow cut CelebA for it
    "dcgan108": FixedCrop(108),
    # (25, 57, 128): Karras et al. 2017, "Progressive Growing of GANs": about (89, 121), as its dataset_tool cuts
    "pggan128": FixedCrop(128, below=12),
    # (25, 50, 128): Berthelot et al. 2017, "BEGAN: Boundary Equilibrium Generative Adversarial Networks", as
    # BEGAN-tensorflow cut CelebA for it
    "began128": FixedCrop(128, below=5),
    # (19, 39, 140): Song & Ermon 2019, "Generative Modeling by Estimating Gradients of the Data Distribution"
    "ncsn140": FixedCrop(140),
    # (15, 40, 148): Larsen et al. 2015, "Autoencoding beyond pixels using a learned similarity metric"
    "vaegan148": FixedCrop(148, below=5),
    # (9, 29, 160): Kurach et al. 2018, "A Large-Scale Study on Regularization and Normalization in GANs" (compare_gan)
    "comparegan160": FixedCrop(160),
    # (0, 20, 178): Choi et al. 2017, "StarGAN"; the largest centred square
    "center178": FixedCrop(178),
}
SQUASH = "squash"  # the whole photo, aspect not kept: Karras et al. 2020, ADA's dataset_tool without --transform


def fixed_rectangle(name: str, width: int, height: int) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of a fixed crop in a width × height photo, or None where it does not fit in."""
    if name == SQUASH:
        return 0, 0, width, height
    crop = FIXED_CROPS[name]
    left, top = (width - crop.side) // 2, (height - crop.side) // 2 + crop.below
    right, bottom = left + crop.side, top + crop.side
    return (left, top, right, bottom) if left >= 0 and top >= 0 and right <= width and bottom <= height else None


def rectangle_quad(rectangle: tuple[int, int, int, int]) -> Quad:
    left, top, right, bottom = rectangle
    return np.array([(left, top), (left, bottom), (right, bottom), (right, top)], np.float64)


def crop_rectangle(rgb: np.ndarray, rectangle: tuple[int, int, int, int], size: int) -> np.ndarray:
    """The rectangle as RGB uint8 (size, size, 3): averaged by area along sides that shrink, Lanczos along others."""
    left, top, right, bottom = rectangle
    cut = rgb[top:bottom, left:right]
    shrunk = (min(right - left, size), min(bottom - top, size))
    small = averaged(cut, shrunk)
    return small if shrunk == (size, size) else cv2.resize(small, (size, size), interpolation=cv2.INTER_LANCZOS4)
