"""Draws by counter, beside a second implementation in whole numbers of Python and statistics of what is drawn."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats

from facegan.nets import random as draws

WORD = 2**64
GAMMA = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def word(seed: int, purpose: str, image: int, column: int) -> int:
    start = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "little")
    return mix((mix((start + image * GAMMA) % WORD) + (column + 1) * GAMMA) % WORD)


def test_the_finaliser_is_splitmix64s():
    """The first outputs of the published generator for the state 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [mix((1234567 + (i + 1) * GAMMA) % WORD) for i in range(4)] == published


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
@pytest.mark.parametrize("image", [0, 1, 77, 2**31, 2**40])
@pytest.mark.parametrize("purpose", ["", "latents", "žluťoučký"])
def test_draws_match_a_second_implementation(seed, image, purpose):
    key = (seed, purpose, torch.tensor([image]), 3)
    words = [word(seed, purpose, image, column) for column in range(3)]
    assert draws.counter_words(*key).numpy().astype(np.uint64).tolist() == [words]
    u, v = (words[0] >> 40) / 2**24, ((words[0] >> 8) & 0xFFFFFF) / 2**24
    assert draws.counter_uniform(*key)[0, 0].item() == u
    expected = math.sqrt(-2 * math.log1p(-u)) * math.cos(2 * math.pi * v)
    assert draws.counter_normal(*key)[0, 0].item() == pytest.approx(expected, abs=2e-5)


def test_draws_depend_on_key_alone():
    whole = draws.counter_normal(1, "latents", torch.arange(16), 8)
    parts = [draws.counter_normal(1, "latents", torch.arange(start, start + 4), 8) for start in range(0, 16, 4)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, draws.counter_normal(2, "latents", torch.arange(16), 8))
    assert not torch.equal(whole, draws.counter_normal(1, "latents of G", torch.arange(16), 8))
    draw = draws.latents(4, 8, 1, "a", 2, "cpu")
    torch.randn(100)
    assert torch.equal(draw, draws.latents(4, 8, 1, "a", 2, "cpu"))
    for key in [(2, "a", 2), (1, "b", 2), (1, "a", 3)]:
        assert not torch.equal(draw, draws.latents(4, 8, *key, "cpu"))


def test_draws_are_uniform_normal_and_independent():
    images = torch.arange(400)
    uniform = draws.counter_uniform(0, "u", images, 50).numpy()
    normal = draws.counter_normal(0, "n", images, 50).numpy()
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    for table in (uniform, normal):
        off_diagonal = np.corrcoef(table.T)[np.triu_indices(50, 1)]
        assert np.abs(off_diagonal).max() < 5 / math.sqrt(400)
        assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 5 / math.sqrt(table.size)


def test_distributions_of_latents():
    at = torch.arange(500)
    normal, uniform, uniform01, sphere = (
        draws.counter_latents(0, "z", at, 40, name) for name in ("normal", "uniform", "uniform01", "sphere")
    )
    assert stats.kstest(normal.ravel().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.ravel().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    assert (uniform01.min() >= 0, uniform01.max() < 1) == (True, True)
    assert stats.kstest(uniform01.ravel().numpy(), "uniform").pvalue > 1e-3
    torch.testing.assert_close(sphere.norm(dim=1), torch.full((500,), 40**0.5))
    torch.testing.assert_close(sphere / sphere[:, :1], normal / normal[:, :1], rtol=1e-3, atol=1e-3)
