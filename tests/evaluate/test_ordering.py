"""Every metric orders real faces, a model of them, an untrained net and noise; blur, noise and repetition are worse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from facegan.evaluate.extractors import light_extractors, one_face
from tests.evaluate.drawn import blurred, drawn_faces, learnt, noisy, uniform_noise, untrained

pytestmark = pytest.mark.slow
COUNT = 60
LADDER = ("real", "learnt", "untrained", "noise")
Measured = dict[str, dict[str, float]]  # by set, by metric: smaller is better


@pytest.fixture(scope="module")
def measured(models: Path) -> Measured:
    """Each set against ``reference``."""
    faces = drawn_faces(2 * COUNT)
    reference, real = faces[:COUNT], faces[COUNT:]
    sets = {
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
    measured: Measured = {name: {} for name in sets}
    with_faces = (*LADDER, "reference", "one", "few")
    for extractor, names in (*((each, sets) for each in light_extractors(0)), (one_face(), with_faces)):
        arrays = {name: extractor.extract(sets[name]) for name in names}
        for name in names:
            measured[name] |= extractor.compare(arrays[name], arrays["reference"], extractor.metrics)
    for found in measured.values():
        found |= {f"no {name}": 1 - found[name] for name in ("density", "coverage", "one_face") if name in found}
        found.setdefault("keypoints", float("inf"))  # too few faces
    return measured


def of(measured: Measured, metric: str, names: tuple[str, ...]) -> list[float]:
    return [measured[name][metric] for name in names]


@pytest.mark.parametrize("metric", ["no density", "no coverage", "no one_face", "keypoints", "frechet_random"])
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
