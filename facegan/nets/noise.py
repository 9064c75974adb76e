"""Random numbers without a state: each draw follows from (seed, purpose, counter) and nothing else.

So a run that is taken up again needs no random state, and an extra draw somewhere moves no other. Draws are made on
the device that uses them; a CPU and a GPU draw different numbers from the same key.
"""

from __future__ import annotations

import hashlib

import torch


def random(seed: int, purpose: str, counter: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one draw."""
    key = hashlib.blake2b(f"{seed}/{purpose}/{counter}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "little") >> 1)  # manual_seed takes 63 bits


def latents(count: int, length: int, seed: int, purpose: str, counter: int, device: torch.device | str) -> torch.Tensor:
    """Standard normal latents, (count, length) float32 on ``device``."""
    return torch.randn(count, length, generator=random(seed, purpose, counter, device), device=device)
