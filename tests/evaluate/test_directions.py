"""`facegan directions`: fitted to what a classifier sees, and measured on other samples."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from facegan.config import DirectionsConfig, SampleConfig
from facegan.evaluate.directions import find_directions, fit_directions
from facegan.files import sha256_file
from facegan.nets import NetSpec, make_generator, save_generator
from facegan.sample import SampleRequest
from facegan.sample.directions import read_directions
from tests.evaluate.program import BesideTraining
from tests.recipes.program import facegan


def test_directions_are_normals_of_boundaries() -> None:
    rng = np.random.default_rng(0)
    latents, normals = rng.normal(size=(4_000, 20)), rng.normal(size=(3, 20))
    logits = np.tanh(latents @ normals.T) * (1, 3, 9) + rng.normal(size=(4_000, 3)) + (0, 5, -5)
    found = fit_directions(latents, logits)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert ((found * normals).sum(1) / np.linalg.norm(normals, axis=1)).min() > 0.9
    np.testing.assert_allclose(fit_directions(latents + 7, 2 * logits - 1), found)  # centred, and of length 1


def test_square_is_moved_by_its_name(labelled: Path, tmp_path: Path) -> None:
    run, spec = tmp_path / "run", NetSpec("tests.evaluate.squares:PAIR", 28, 3, latent=6, norm="none")
    run.mkdir()
    save_generator(run / "generator.safetensors", make_generator(spec))
    asked = ("directions", run, "--shards", labelled, "--device", "cpu", "--trust-code")
    file, before = run / "generator.safetensors", (run / "generator.safetensors").read_bytes()
    request = SampleRequest(run, SampleConfig(), "cpu", True, BesideTraining(file))
    found = find_directions(request, str(labelled), DirectionsConfig(n=300))
    assert found.directions.generator == hashlib.sha256(before).hexdigest() != sha256_file(file)
    file.write_bytes(before)
    planned = facegan(*asked, "--dry-run")
    assert (planned.code, planned.stderr.count("was not tried"), sorted(p.name for p in run.iterdir())) == (
        0, 1, ["generator.safetensors"]
    )  # fmt: skip
    ended = facegan(*asked, "--n", 300, "--json")
    assert ended.code == 0, ended.stderr
    (found,) = json.loads(ended.stdout)["directions"]
    assert (found["name"], found["accuracy"] > 0.95) == ("square", True)
    assert 0.15 < found["effect"] < 0.5
    directions = read_directions(run, 6)
    assert directions.steps[0, 0] > 0.9
    assert directions.steps.norm().item() == pytest.approx(1, abs=1e-5)
    files = {path.name: path.read_bytes() for path in run.iterdir()}
    assert facegan(*asked, "--n", 300).code == 0
    assert files == {path.name: path.read_bytes() for path in run.iterdir()}
    assert files.keys() == {"generator.safetensors", "directions.safetensors", "directions.png"}


def test_directions_need_fitting_faces(faces: Path, tmp_path: Path) -> None:
    for size, message in ((28, "28×28 in 3 channels, but"), (32, "needs attributes. Add some with")):
        save_generator(tmp_path / "g.safetensors", make_generator(NetSpec("dcgan-fc", size, 3, 8, 4, "none")))
        for flags in ((), ("--dry-run",)):
            ended = facegan("directions", tmp_path / "g.safetensors", "--shards", faces, *flags)
            assert (ended.code, message in " ".join(ended.stderr.split())) == (2, True), ended.stderr
    assert "Name their dataset with --shards" in facegan("directions", tmp_path / "g.safetensors").stderr
