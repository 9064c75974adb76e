"""Draws by counter, beside a second implementation in whole numbers of Python and statistics of what is drawn."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
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


@given(seed=st.integers(0, 2**63 - 1), image=st.integers(0, 2**40), purpose=st.text(max_size=8))
def test_words_are_those_of_a_second_implementation(seed, image, purpose):
    found = draws.counter_words(seed, purpose, torch.tensor([image, image + 1]), 3)
    expected = [[word(seed, purpose, image + i, column) for column in range(3)] for i in range(2)]
    assert (found.numpy().astype(np.uint64) == np.array(expected, np.uint64)).all()


@given(image=st.integers(0, 2**40))
def test_floats_are_those_of_a_second_implementation(image):
    bits = word(7, "x", image, 0)
    u, v = (bits >> 40) / 2**24, ((bits >> 8) & 0xFFFFFF) / 2**24
    at = torch.tensor([image])
    assert draws.counter_uniform(7, "x", at, 1).item() == u
    expected = math.sqrt(-2 * math.log1p(-u)) * math.cos(2 * math.pi * v)
    assert draws.counter_normal(7, "x", at, 1).item() == pytest.approx(expected, abs=2e-5)


def test_an_image_is_drawn_alike_in_any_batch():
    whole = draws.counter_normal(1, "latents", torch.arange(16), 8)
    parts = [draws.counter_normal(1, "latents", torch.arange(start, start + 4), 8) for start in range(0, 16, 4)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, draws.counter_normal(2, "latents", torch.arange(16), 8))
    assert not torch.equal(whole, draws.counter_normal(1, "latents of G", torch.arange(16), 8))


def test_draws_are_uniform_normal_and_independent():
    images = torch.arange(400)
    uniform, normal = (
        draws.counter_uniform(0, "u", images, 50).numpy(),
        draws.counter_normal(0, "n", images, 50).numpy(),
    )
    assert stats.kstest(uniform.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(normal.ravel(), "norm").pvalue > 1e-3
    for table in (uniform, normal):
        off_diagonal = np.corrcoef(table.T)[np.triu_indices(50, 1)]
        assert np.abs(off_diagonal).max() < 5 / math.sqrt(400)
        assert abs(np.corrcoef(table[:-1].ravel(), table[1:].ravel())[0, 1]) < 5 / math.sqrt(table.size)


def test_laws_of_latents():
    at = torch.arange(500)
    normal, uniform, uniform01, sphere = (
        draws.counter_latents(0, "z", at, 40, law) for law in ("normal", "uniform", "uniform01", "sphere")
    )
    assert stats.kstest(normal.ravel().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.ravel().numpy(), "uniform", args=(-1, 2)).pvalue > 1e-3
    assert (uniform01.min() >= 0, uniform01.max() < 1) == (True, True)
    assert stats.kstest(uniform01.ravel().numpy(), "uniform").pvalue > 1e-3
    torch.testing.assert_close(sphere.norm(dim=1), torch.full((500,), 40**0.5))
    torch.testing.assert_close(sphere / sphere[:, :1], normal / normal[:, :1], rtol=1e-3, atol=1e-3)
