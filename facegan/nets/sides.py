"""Where a latent enters an image: the side of the innermost layer, and how often it is doubled up to the pixels."""

from __future__ import annotations

SIZES = (28, 32, 64, 128)  # of a pair that begins with a fully connected layer, and so anywhere


def innermost(size: int) -> tuple[int, int]:
    """(side, doublings): ``(4, 4)`` for 64; ``(7, 2)`` for 28, which has only two factors of 2."""
    side = 7 if size % 8 else 4
    return side, (size // side).bit_length() - 1
