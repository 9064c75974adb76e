"""Random numbers of the training by counter: each follows from (seed, purpose, image, column) and nothing else.

No state is kept, so nothing of it is saved or restored; a batch that ranks or micro-batches share is drawn as if it
were whole; and the counter may be a tensor on the device, so that a recorded CUDA graph draws anew at each replay. The
words are the same on every device; what is computed from them in floating point may differ in the last bit.

SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") in wrapping int64 arithmetic:
    row    = mix(key(seed, purpose) + image · γ)
    word   = mix(row + (column + 1) · γ)

N images, K columns.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import torch
from torch import Tensor

from facegan.config import Law
from facegan.nets.noise import to_law

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB as int64 has them.
_GAMMA, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_UNIT = 2.0**-24  # uniform numbers are whole multiples of it: float32 holds each of them


@lru_cache(maxsize=256)
def key(seed: int, purpose: str) -> int:
    """Where the words of a purpose start, as int64."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def words(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """64 random bits an entry, int64 (N, columns); ``images`` is int64 (N,)."""
    rows = _mix(images * _GAMMA + key(seed, purpose))
    return _mix(rows[:, None] + torch.arange(1, columns + 1, device=images.device) * _GAMMA)


def uniform(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """float32 (N, columns) in [0, 1)."""
    return _high(words(seed, purpose, images, columns))


# Box & Muller 1958, "A note on the generation of random normal deviates": √(−2 ln(1 − u)) · cos(2π v)
def normal(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """float32 (N, columns), standard normal; u and v are the two ends of one word."""
    bits = words(seed, purpose, images, columns)
    return (-2 * torch.log1p(-_high(bits))).sqrt() * torch.cos((2 * math.pi) * _high(bits << 32))


def latents(seed: int, purpose: str, images: Tensor, length: int, law: Law) -> Tensor:
    """float32 (N, length) by the law."""
    return to_law(law, lambda: normal(seed, purpose, images, length), lambda: uniform(seed, purpose, images, length))


def _high(bits: Tensor) -> Tensor:
    return ((bits >> 40) & 0xFFFFFF).float() * _UNIT


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser. int64 shifts keep the sign: masks make them shifts of plain bits."""
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _FIRST
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)
