"""The benchmarks run, and tell their figures; how large those are is no test's business."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from facegan.bench.pairs import Bench
from tests.cli.run import facegan


def test_the_ratio_is_the_median_of_the_pairs() -> None:
    assert Bench("a", "b", "c", [10, 20, 90], [10, 10, 10]).ratio == 2


@pytest.mark.slow
def test_bench_prep(portraits: Path, models: Path) -> None:
    found = json.loads(facegan("bench", "prep", portraits, "--pairs", 1, "--workers", 1, "--json").stdout)
    assert found["ratio"] > 0
    assert 0 < found["worker_peak_mb"] < 1000
    assert found["machine"]["cpus"] >= 1


@pytest.mark.slow
def test_bench_prep_of_fixed_crops_in_one_process_and_in_two(portraits: Path, models: Path) -> None:
    arguments = ["bench", "prep", portraits, "--crop", "dcgan108", "--detector", "none", "--pairs", 1, "--workers", 2]
    found = json.loads(facegan(*arguments, "--scaling", "--json").stdout)
    assert "--crop dcgan108 --detector none, 60 photographs, 2 processes" in found["what"]
    assert found["scaling"] == round(found["in_2_processes"][0] / found["in_1_process"][0], 3)


def test_scaling_needs_two_processes() -> None:
    done = facegan("bench", "prep", "--scaling", "--workers", 1)
    assert done.returncode == 2
    assert "--workers 2" in done.stderr


@pytest.mark.slow
def test_bench_stream(dataset: Path) -> None:
    arguments = ["bench", "stream", "--shards", dataset, "--images", 600, "--batch", 10, "--pairs", 1, "--json"]
    found = json.loads(facegan(*arguments).stdout)
    assert found["ratio"] > 0
    assert found["start_samples"] >= 200_000
    assert found["start_to_first_batch_seconds"] >= found["start_open_seconds"] > 0
    assert found["pixel_bytes_a_face"] == 64 * 64 * 3
    assert found["memory_steps"] == 5000


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dcgan", "wgan-gp"])
def test_bench_train(method: str) -> None:
    arguments = ["bench", "train", "--method", method, "--steps", 1, "--pairs", 1, "--json"]
    assert json.loads(facegan(*arguments).stdout)["ratio"] > 0
