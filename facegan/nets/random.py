"""Random numbers without a state: each draw follows from (seed, purpose, counter) and nothing else.

So a run that is taken up again needs no random state, and an extra draw somewhere moves no other. Draws are made on
the device that uses them; a CPU and a GPU draw different numbers from the same key.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from facegan.config import LatentDistribution


def named_generator(seed: int, purpose: str, counter: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one draw."""
    key = hashlib.blake2b(f"{seed}/{purpose}/{counter}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)  # manual_seed takes 63 bits


def latents(
    count: int,
    length: int,
    seed: int,
    purpose: str,
    counter: int,
    device: torch.device | str,
    law: LatentDistribution = "normal",
) -> torch.Tensor:
    """Latents by a law, (count, length) float32 on ``device``."""
    rng = named_generator(seed, purpose, counter, device)
    return apply_distribution(
        law,
        lambda: torch.randn(count, length, generator=rng, device=device),
        lambda: torch.rand(count, length, generator=rng, device=device),
    )


def apply_distribution(
    law: LatentDistribution, normal: Callable[[], torch.Tensor], uniform: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """A draw by the law, from a standard normal one or from a uniform one in [0, 1), (N, Z) each.

    ``normal``; ``uniform`` in [−1, 1); ``uniform01`` in [0, 1); ``sphere``: even on the sphere of radius √Z, where a
    normal draw lies as well, but for a few per cent.
    """
    if law == "uniform01":
        return uniform()
    if law == "uniform":
        return uniform() * 2 - 1
    draw = normal()
    return draw if law == "normal" else torch.nn.functional.normalize(draw, dim=1) * draw.shape[1] ** 0.5


# Random numbers of the training by counter: each follows from (seed, purpose, image, column) and nothing else.
#
# No state is kept, so nothing of it is saved or restored; a batch that ranks or micro-batches share is drawn as if it
# were whole; and the counter may be a tensor on the device, so that a recorded CUDA graph draws anew at each replay.
# The words are the same on every device; what is computed from them in floating point may differ in the last bit.
#
# SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") in wrapping int64 arithmetic:
#     row    = mix(key(seed, purpose) + image · γ)
#     word   = mix(row + (column + 1) · γ)
#
# N images, K columns.

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB as int64 has them.
_GAMMA, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_UNIT = 2.0**-24  # uniform numbers are whole multiples of it: float32 holds each of them


@lru_cache(maxsize=256)
def counter_key(seed: int, purpose: str) -> int:
    """Where the words of a purpose start, as int64."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def counter_words(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """64 random bits an entry, int64 (N, columns); ``images`` is int64 (N,)."""
    rows = _mix(images * _GAMMA + counter_key(seed, purpose))
    return _mix(rows[:, None] + torch.arange(1, columns + 1, device=images.device) * _GAMMA)


def counter_uniform(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """float32 (N, columns) in [0, 1)."""
    return _high(counter_words(seed, purpose, images, columns))


# Box & Muller 1958, "A note on the generation of random normal deviates": √(−2 ln(1 − u)) · cos(2π v)
def counter_normal(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """float32 (N, columns), standard normal; u and v are the two ends of one word."""
    bits = counter_words(seed, purpose, images, columns)
    return (-2 * torch.log1p(-_high(bits))).sqrt() * torch.cos((2 * math.pi) * _high(bits << 32))


def counter_latents(seed: int, purpose: str, images: Tensor, length: int, law: LatentDistribution) -> Tensor:
    """float32 (N, length) by the law."""
    return apply_distribution(
        law,
        lambda: counter_normal(seed, purpose, images, length),
        lambda: counter_uniform(seed, purpose, images, length),
    )


def _high(bits: Tensor) -> Tensor:
    return ((bits >> 40) & 0xFFFFFF).float() * _UNIT


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser. int64 shifts keep the sign: masks make them shifts of plain bits."""
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _FIRST
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)
