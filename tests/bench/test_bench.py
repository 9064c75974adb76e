"""Benchmarks run and print their figures; the tests do not check how large they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from facegan.bench.baseline import Bench
from facegan.bench.train import work_of_an_image
from facegan.config import TrainConfig
from facegan.prep.prepare import prepare
from facegan.training.trainer import Trainer, spec_of
from tests.recipes.program import facegan


def bench(*arguments: object) -> dict[str, Any]:
    done = facegan("bench", *arguments, "--json")
    assert done.code == 0, done.stderr
    return json.loads(done.stdout)


def test_ratio_is_the_median_of_pairs() -> None:
    assert Bench("a", "b", "c", [10, 20, 90], [10, 10, 10]).ratio == 2


@pytest.mark.slow
def test_bench_prep(portraits: Path, models: Path) -> None:
    found = bench("prep", portraits, "--limit", 20, "--pairs", 1, "--workers", 1)
    assert found["ratio"] > 0
    assert 0 < found["worker_peak_mb"] < 1000
    assert found["machine"]["cpus"] >= 1


@pytest.mark.slow
def test_bench_prep_scaling(portraits: Path) -> None:
    arguments = ["prep", portraits, "--crop", "dcgan108", "--detector", "none", "--pairs", 1, "--workers", 2]
    found = bench(*arguments, "--scaling")
    assert "--crop dcgan108 --detector none, 60 photographs, 2 processes" in found["what"]
    assert found["scaling"] == round(found["in_2_processes"][0] / found["in_1_process"][0], 3)


def test_scaling_needs_two_processes() -> None:
    done = facegan("bench", "prep", "--scaling", "--workers", 1)
    assert done.code == 2
    assert "--workers 2" in done.stderr


@pytest.mark.slow
def test_bench_stream(portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    prepare(portraits, tmp_path / "out", detector="none", crop="squash", workers=0)
    found = bench("stream", "--shards", tmp_path / "out", "--images", 120, "--batch", 4, "--pairs", 1)
    assert found["ratio"] > 0
    assert found["start_samples"] >= 200_000
    assert found["start_to_first_batch_seconds"] >= found["start_open_seconds"] > 0
    assert found["pixel_bytes_a_face"] == 64 * 64 * 3
    assert found["memory_steps"] == 5000
    assert not (tmp_path / "mine").exists()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dcgan", "wgan-gp", "fast"])
def test_bench_train(method: str) -> None:
    arguments = ["train", "--method", method, "--batch", 8, "--precision", "fp32", "--steps", 1, "--pairs", 1]
    found = bench(*arguments, *["--roofline"] * (method == "dcgan"))
    assert found["ratio"] > 0
    assert (found["batch"], found["precision"], found["device"], found["cuda_graphs"]) == (8, "fp32", "cpu", False)
    if method == "dcgan":
        assert found["matmul_precision"] == found["precision"]
        assert 0 < found["share_of_matmul"] < 1
        assert found["memory_gbytes_per_second"] > 0


@pytest.mark.slow
def test_bench_train_from_shards(dataset: Path) -> None:
    found = bench("train", "--shards", dataset, "--batch", 8, "--steps", 1, "--pairs", 2)
    assert "from shards, batch 8" in found["what"]
    assert len(found["compute_alone"]) == 2
    assert found["share_of_the_stream"] < 1


@pytest.mark.slow
def test_bench_train_needs_a_batch_of_faces(dataset: Path) -> None:
    done = facegan("bench", "train", "--shards", dataset, "--batch", 5000)
    assert done.code == 2
    assert "at least --batch 5000 faces" in done.stderr


def test_work_per_image_equals_formula() -> None:
    """A step of DCGAN: backward takes twice the work f of a forward pass. D sees reals and fakes in its own step, and
    fakes in G's, without gradients of its weights. First layers need no input gradients, except D's in G's step."""
    config = TrainConfig.for_method("dcgan", width=8, latent=16, batch=8, precision="fp32")
    trainer = Trainer(config, spec_of(config, 32, 3), torch.device("cpu"), "fp32")
    flops, moved = work_of_an_image(trainer, torch.zeros(8, 3, 32, 32, dtype=torch.uint8))

    def pass_of(layers: list[tuple[int, int, int]]) -> list[int]:
        return [2 * inner * outer * 16 * side**2 for inner, outer, side in layers]

    # (channels in, channels out, side on the smaller side of the 4×4 kernel's layer)
    g = pass_of([(16, 32, 1), (32, 16, 4), (16, 8, 8), (8, 3, 16)])
    d = pass_of([(3, 8, 16), (8, 16, 8), (16, 32, 4), (32, 1, 1)])
    expected = 3 * sum(g) - g[0] + 2 * (3 * sum(d) - d[0]) + 2 * sum(d)
    assert flops == pytest.approx(expected, rel=0.01)
    assert moved > 3 * 32 * 32
