"""Every metric orders real faces, a model of them, an untrained net and noise; blur, noise and repetition are worse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from facegan.evaluate import (
    density_coverage,
    find_faces,
    frechet_distance,
    keypoint_distance,
    ms_ssim_pairs,
    project,
    random_features,
    sliced_wasserstein,
    statistics,
)
from tests.evaluate.drawn import blurred, drawn_faces, learnt, noisy, trained, uniform_noise, untrained

COUNT = 120
LADDER = ("real", "learnt", "untrained", "noise")
Measured = dict[str, dict[str, float]]  # by set, by metric: smaller is better


@pytest.fixture(scope="module")
def sets() -> Mapping[str, Tensor]:
    faces = drawn_faces(2 * COUNT)
    reference, real = faces[:COUNT], faces[COUNT:]
    return {
        "reference": reference,
        "real": real,
        "learnt": learnt(reference, COUNT),
        "untrained": untrained(COUNT),
        "untrained residual": untrained(COUNT, nets="resnet"),
        "noise": uniform_noise(COUNT),
        "soft": blurred(real, 0.8),
        "softer": blurred(real, 2),
        "grainy": noisy(real, 12),
        "grainier": noisy(real, 30),
        "one": real[:1].expand(COUNT, -1, -1, -1),
        "few": real[torch.arange(COUNT) % 12],
    }


@pytest.fixture(scope="module")
def measured(sets: Mapping[str, Tensor], models: Path) -> Measured:
    return measure_all(sets)


def measure_all(sets: Mapping[str, Tensor]) -> Measured:
    """Each against the set ``reference``."""
    reference = sets["reference"]
    features, projections, faces = random_features(reference), project(reference), find_faces(reference)
    found: Measured = {}
    for name, images in sets.items():
        theirs, seen = random_features(images), find_faces(images)
        density, coverage = density_coverage(features, theirs)
        found[name] = {
            "frechet_random": frechet_distance(statistics(features), statistics(theirs)),
            "swd": sliced_wasserstein(project(images), projections)["swd"],
            "no density": -density,
            "no coverage": -coverage,
            "not one face": 1 - seen.share,
            "keypoints": keypoint_distance(seen, faces),
            "ms_ssim": ms_ssim_pairs(images, 200, 0),
        }
    return found


def of(measured: Measured, metric: str, names: tuple[str, ...]) -> list[float]:
    return [measured[name][metric] for name in names]


@pytest.mark.parametrize("metric", ["no density", "no coverage", "not one face", "keypoints", "frechet_random"])
def test_real_faces_are_best_noise_worst(measured: Measured, metric: str) -> None:
    found = of(measured, metric, LADDER)
    assert found == sorted(found), found
    assert max(found[:2]) < found[-1]
    assert metric != "frechet_random" or found == sorted(set(found))


def test_swd_orders_real_to_noise(measured: Measured) -> None:
    """The distance ignores contrast, so an untrained net's faint noise is as far as loud noise.

    A DCGAN's chequered noise is a little further, a residual net's soft noise a little nearer.
    """
    real, fitted, *noises = of(measured, "swd", LADDER)
    assert real < fitted < 0.5 * min(noises)
    assert fitted < measured["untrained residual"]["swd"] < measured["noise"]["swd"]


@pytest.mark.parametrize("names", [("real", "soft", "softer"), ("real", "grainy", "grainier")])
def test_blur_and_noise_are_worse(measured: Measured, names: tuple[str, ...]) -> None:
    for metric in ("frechet_random", "swd"):
        found = of(measured, metric, names)
        assert found == sorted(set(found)), found
    assert measured[names[-1]]["no coverage"] > measured["real"]["no coverage"]


@pytest.mark.parametrize("metric", ["no coverage", "ms_ssim", "keypoints", "frechet_random", "swd"])
def test_one_repeated_image_is_worst(measured: Measured, metric: str) -> None:
    assert measured["one"][metric] > max(of(measured, metric, ("reference", "real", "learnt", "few")))
    if metric in ("no coverage", "ms_ssim"):
        assert measured["few"][metric] > measured["real"][metric]


def test_pair_similarity_is_near_real(measured: Measured) -> None:
    """Less is not better: noise has none."""
    real, other, noise = of(measured, "ms_ssim", ("reference", "real", "noise"))
    assert abs(real - other) < 0.05 < real - noise
    assert np.isfinite(of(measured, "ms_ssim", LADDER)).all()


@pytest.mark.slow
def test_trained_generator_is_between_real_and_untrained(tmp_path: Path, models: Path) -> None:
    """In every metric after 8,000 images. Noise is worst, except in SWD, which ignores contrast."""
    faces = drawn_faces(2 * COUNT + 500)
    sets = {
        "reference": faces[:COUNT],
        "real": faces[COUNT : 2 * COUNT],
        "trained": trained(faces[2 * COUNT :], tmp_path, COUNT, 500),
        "untrained": untrained(COUNT),
        "noise": uniform_noise(COUNT),
    }
    measured = measure_all(sets)
    for name in ("frechet_random", "swd", "no density", "no coverage", "not one face", "keypoints"):
        real, between, nothing, noise = of(measured, name, ("real", "trained", "untrained", "noise"))
        assert real < between < nothing, name
        assert between < noise, name
        assert nothing <= noise or name == "swd", name
    alike = {name: found["ms_ssim"] for name, found in measured.items()}
    assert abs(alike["trained"] - alike["reference"]) < abs(alike["untrained"] - alike["reference"])
