"""Stateless random numbers: each depends on its key alone, (seed, purpose, counter) or (seed, purpose, image, column).

So a resumed run restores no random state, and one more draw somewhere changes no other.

N images, K columns, Z length of a latent.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from facegan.config import LatentDistribution

# 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9 and 0x94D049BB133111EB as int64.
_GAMMA, _FIRST, _SECOND = -7046029254386353131, -4658895280553007687, -7723592293110705685
_UNIT = 2.0**-24  # uniform numbers are multiples of it, which float32 represents exactly


def named_generator(seed: int, purpose: str, counter: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator for one draw. A CPU and a GPU draw different numbers from the same key."""
    key = hashlib.blake2b(f"{seed}/{purpose}/{counter}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)  # manual_seed takes 63 bits


def latents(
    count: int,
    length: int,
    seed: int,
    purpose: str,
    counter: int,
    device: torch.device | str,
    distribution: LatentDistribution = "normal",
) -> Tensor:
    """float32 (count, length) on ``device``, by `named_generator`."""
    rng = named_generator(seed, purpose, counter, device)
    draw = torch.rand if distribution.startswith("uniform") else torch.randn
    return _distributed(draw(count, length, generator=rng, device=device), distribution)


def _distributed(draw: Tensor, distribution: LatentDistribution) -> Tensor:
    """Of a normal draw or one in [0, 1), (N, Z): ``uniform`` is in [−1, 1), ``uniform01`` in [0, 1), ``sphere`` uniform
    on the sphere of radius √Z, which is within a few per cent of a normal draw's norm."""
    return draw * 2 - 1 if distribution == "uniform" else inside(draw, distribution)


def deviation(distribution: LatentDistribution) -> float:
    """Standard deviation of each number of a latent."""
    return {"uniform": 3**-0.5, "uniform01": 12**-0.5}.get(distribution, 1.0)


def inside(z: Tensor, distribution: LatentDistribution) -> Tensor:
    """The nearest latents that can be drawn, (N, Z): in the cube, or on the sphere of radius √Z."""
    if distribution == "sphere":
        return normalize(z, dim=1) * z.shape[1] ** 0.5
    return z if distribution == "normal" else z.clamp(-1 if distribution == "uniform" else 0, 1)


# Counter-based numbers for training. A batch shared by ranks or micro-batches is drawn as if it were whole, and the
# counter may be a tensor on the device, so that a replayed CUDA graph draws new numbers. Bits are the same on every
# device; floats computed from them may differ in the last bit.


@lru_cache(maxsize=256)
def _counter_key(seed: int, purpose: str) -> int:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def counter_words(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """64 random bits per entry, int64 (N, K), for ``images``, int64 (N,).

    SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") in wrapping arithmetic:
        row = mix(key(seed, purpose) + image · γ),   word = mix(row + (column + 1) · γ)
    """
    rows = _mix(images * _GAMMA + _counter_key(seed, purpose))
    return _mix(rows[:, None] + torch.arange(1, columns + 1, device=images.device) * _GAMMA)


def counter_uniform(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """float32 (N, K) in [0, 1)."""
    return _high(counter_words(seed, purpose, images, columns))


def counter_normal(seed: int, purpose: str, images: Tensor, columns: int) -> Tensor:
    """float32 (N, K), standard normal: √(−2 ln(1 − u)) · cos(2π v) with u and v the two halves of one word (Box &
    Muller 1958, "A note on the generation of random normal deviates")."""
    bits = counter_words(seed, purpose, images, columns)
    return (-2 * torch.log1p(-_high(bits))).sqrt() * torch.cos((2 * math.pi) * _high(bits << 32))


def counter_latents(seed: int, purpose: str, images: Tensor, length: int, distribution: LatentDistribution) -> Tensor:
    """float32 (N, length)."""
    draw = counter_uniform if distribution.startswith("uniform") else counter_normal
    return _distributed(draw(seed, purpose, images, length), distribution)


def _high(bits: Tensor) -> Tensor:
    return ((bits >> 40) & 0xFFFFFF).float() * _UNIT


def _mix(bits: Tensor) -> Tensor:
    """SplitMix64's finaliser. int64 shifts keep the sign; the masks make them logical shifts."""
    bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * _FIRST
    bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * _SECOND
    return bits ^ ((bits >> 31) & 0x1FFFFFFFF)
