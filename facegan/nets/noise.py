"""Random numbers without a state: each draw follows from (seed, purpose, counter) and nothing else.

So a run that is taken up again needs no random state, and an extra draw somewhere moves no other. Draws are made on
the device that uses them; a CPU and a GPU draw different numbers from the same key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch

from facegan.config import Law


def random(seed: int, purpose: str, counter: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
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
    law: Law = "normal",
) -> torch.Tensor:
    """Latents by a law, (count, length) float32 on ``device``."""
    rng = random(seed, purpose, counter, device)
    return to_law(
        law,
        lambda: torch.randn(count, length, generator=rng, device=device),
        lambda: torch.rand(count, length, generator=rng, device=device),
    )


def to_law(law: Law, normal: Callable[[], torch.Tensor], uniform: Callable[[], torch.Tensor]) -> torch.Tensor:
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
