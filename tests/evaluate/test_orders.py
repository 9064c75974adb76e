"""Every measure on drawn portraits: real faces, what a model learnt of them, an untrained net, noise, in this order.

Blur and noise make it worse, and one image again and again is the worst of all in what measures variety.
"""

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
Measured = dict[str, dict[str, float]]  # by set, by measure: the smaller the better


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
    """Each beside the set ``reference``."""
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


def of(measured: Measured, measure: str, names: tuple[str, ...]) -> list[float]:
    return [measured[name][measure] for name in names]


def test_the_random_nets_distance_rises_from_real_faces_to_noise(measured: Measured) -> None:
    found = of(measured, "frechet_random", LADDER)
    assert found == sorted(set(found)), found


def test_the_sliced_distance_rises_to_what_is_noise(measured: Measured) -> None:
    """An untrained net's faint noise is as far as the loud, since the distance takes contrasts away.

    A DCGAN's is chequered, and even a little further; a residual net's is soft, and a little nearer.
    """
    real, trained, *noises = of(measured, "swd", LADDER)
    assert real < trained < 0.5 * min(noises)
    residual = measured["untrained residual"]["swd"]
    assert trained < residual < measured["noise"]["swd"]


@pytest.mark.parametrize("measure", ["no density", "no coverage", "not one face", "keypoints"])
def test_shares_are_best_for_real_faces_and_nothing_is_left_of_them_in_noise(measured: Measured, measure: str) -> None:
    found = of(measured, measure, LADDER)
    assert found == sorted(found), found
    assert found[0] < found[-1]
    assert found[1] < found[-1]


@pytest.mark.parametrize("measure", ["frechet_random", "swd"])
@pytest.mark.parametrize("names", [("real", "soft", "softer"), ("real", "grainy", "grainier")])
def test_blur_and_noise_make_each_distance_longer(measured: Measured, measure: str, names: tuple[str, ...]) -> None:
    found = of(measured, measure, names)
    assert found == sorted(set(found)), found


@pytest.mark.parametrize("worse", ["softer", "grainier"])
def test_blur_and_noise_leave_the_real_images_uncovered(measured: Measured, worse: str) -> None:
    assert measured[worse]["no coverage"] > measured["real"]["no coverage"]


@pytest.mark.parametrize("measure", ["no coverage", "ms_ssim", "keypoints", "frechet_random", "swd"])
def test_one_image_again_and_again_is_the_worst_of_faces(measured: Measured, measure: str) -> None:
    names = ("reference", "real", "learnt", "few")
    assert measured["one"][measure] > max(of(measured, measure, names))


def test_few_images_are_told_from_many(measured: Measured) -> None:
    for measure in ("no coverage", "ms_ssim"):
        assert measured["few"][measure] > measured["real"][measure]


def test_the_likeness_of_pairs_is_read_against_that_of_real_ones(measured: Measured) -> None:
    """Noise has none, so less is not better: a trained model's is near to that of real faces."""
    real, other, noise = of(measured, "ms_ssim", ("reference", "real", "noise"))
    assert abs(real - other) < 0.05 < real - noise
    assert np.isfinite(of(measured, "ms_ssim", LADDER)).all()


@pytest.mark.slow
def test_a_trained_generator_is_between_real_faces_and_an_untrained_one(tmp_path: Path, models: Path) -> None:
    """After 8,000 images, in every measure. Noise is the worst of all, but for SWD, which takes contrasts away."""
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
