"""Any batch size, ranks, cache, threads and resume position: one sequence of exact permutations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facegan.stream import FaceShards

Numbers = Callable[[torch.Tensor], list[int]]

few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
caches = st.sampled_from(["off", "ram"])
seeds = st.integers(0, 2**63 - 1)


@pytest.fixture(scope="module")
def faces(made: Path) -> FaceShards:
    return FaceShards(made)


def shown(faces: FaceShards, numbers: Numbers, count: int, state: dict | None = None, **options) -> list[list[int]]:
    """The faces of ``count`` batches, by number."""
    batches = faces.batches(**options)
    if state:
        batches.load_state_dict(state)
    taken = [numbers(next(batches)) for _ in range(count)]
    batches.close()
    return taken


@few
@given(st.integers(1, 40), seeds, st.integers(0, 12), caches, caches, st.integers(1, 4))
def test_resume_equals_uninterrupted(
    faces: FaceShards, numbers: Numbers, batch: int, seed: int, stop: int, before: str, after: str, workers: int
) -> None:
    expected = shown(faces, numbers, stop + 5, batch_size=batch, seed=seed, cache=before)
    first = faces.batches(batch, seed, cache=before)
    for _ in range(stop):
        next(first)
    state = first.state_dict()
    first.close()
    assert state == {"position": stop * batch, "fingerprint": faces.fingerprint}
    options, other = {"batch_size": batch, "seed": seed, "cache": after}, FaceShards(faces.path, workers=workers)
    assert shown(other, numbers, 5, state, **options) == expected[stop:]


@few
@given(st.sampled_from([1, 2, 4]), st.integers(1, 20), seeds, caches)
def test_ranks_together_are_the_batch(
    faces: FaceShards, numbers: Numbers, world_size: int, share: int, seed: int, cache: str
) -> None:
    """Also where the dataset has fewer faces than ranks × batch; where it has more, ranks are disjoint."""
    batch = share * world_size
    options = {"batch_size": batch, "seed": seed, "cache": cache}
    expected = shown(faces, numbers, 4, **options)
    ranks = [shown(faces, numbers, 4, rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    sequence = [face for together in expected for face in together]
    for epoch in range(len(sequence) // 30):
        assert sorted(sequence[30 * epoch : 30 * (epoch + 1)]) == list(range(30))
    for number, together in enumerate(expected):
        parts = [rank[number] for rank in ranks]
        assert {len(part) for part in parts} == {share}
        assert [face for part in parts for face in part] == together
        if (number * batch) % 30 + batch <= 30:
            assert len(set(together)) == batch
