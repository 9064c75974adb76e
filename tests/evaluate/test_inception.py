"""Inception's metrics equal those of torch-fidelity's own program; its weights are read without trust."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from facegan.config import PrepConfig
from facegan.console import Console
from facegan.errors import ModelError
from facegan.evaluate.pretrained import find_weights, load_inception
from facegan.manifests import network_weights
from facegan.prep.prepare import prepare
from tests.evaluate.program import evaluated, fidelity, refused, write_faces

ALL = "fid,kid,inception_score,precision,recall"
NO_PICTURE = ("--set", "eval.neighbours=0")


@pytest.mark.slow
def test_metrics_equal_torch_fidelitys_program(portraits: Path, random_weights: Path, tmp_path: Path) -> None:
    faces, config = tmp_path / "faces", PrepConfig(size=32, crop="center178", detector="none", split="0.5,0,0.5")
    prepare(portraits, faces, config, limit=20, workers=0)
    samples = write_faces(tmp_path / "samples", faces, "train", count=10)
    real = write_faces(tmp_path / "real", faces, "test")
    options = ("--fid", "--kid", "--isc", "--prc", "--kid-subset-size", "10")
    theirs = fidelity(samples, real, "inception-v3-compat", random_weights.with_suffix(".pth"), *options)
    found = evaluated(samples, "--shards", faces, "--metrics", ALL, "--inception-weights", random_weights, *NO_PICTURE)
    ours = found["metrics"]
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4, abs=1e-9)
    # Each subset is the whole set in another order: only rounding differs.
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-6)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert (ours["precision"], ours["recall"]) == (theirs["precision"], theirs["recall"])
    assert found["protocol"]["kid"]["subset_size"] == 10
    sums = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    assert found["protocol"]["extractor"]["sha256"] == sums
    assert found["floors"]["fid"] > 0
    warned = " ".join(found["warnings"])
    assert "The FID of 10 samples and 10 real faces is biased upwards" in warned
    assert "random.safetensors is not the published Inception v3" in warned


def test_only_tensors_of_the_network_are_loaded(tmp_path: Path) -> None:
    """A pickled file is refused by its checksum before it is read, whatever it contains."""
    path, other = tmp_path / "other.pth", tmp_path / "other.safetensors"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ModelError, match=r"SHA-256 is [0-9a-f]{64}, and it must be .*\nNo other pickled file"):
        find_weights("inception", path)
    save_file({"weight": torch.zeros(3)}, other)
    with pytest.raises(ModelError, match="weights of another network than inception-v3-compat"):
        load_inception(find_weights("inception", other), torch.device("cpu"), Console(quiet=True))
    other.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="contains no readable weights"):
        load_inception(find_weights("inception", other), torch.device("cpu"), Console(quiet=True))


def test_named_weights_must_be_usable(faces: Path, run: Path, tmp_path: Path, no_network: None) -> None:
    """Without --inception-weights the metrics are skipped, and all others measured."""
    known = network_weights("inception")
    wrong = tmp_path / known.file
    wrong.write_bytes(b"something else")
    asked = (run, "--shards", faces, "--n", 12, "--metrics", "fid,swd", "--out", tmp_path / "out", *NO_PICTURE)
    code, said = refused(*asked, "--inception-weights", wrong)
    assert code == 1
    assert f"its SHA-256 is {hashlib.sha256(b'something else').hexdigest()}" in said
    assert f"it must be {known.sha256}" in said
    code, said = refused(*asked, "--inception-weights", tmp_path / "none.pth")
    assert (code, "There is no" in said) == (1, True)
    found = evaluated(*asked)
    assert "fid" not in found["metrics"]
    assert found["metrics"]["swd"] > 0
    assert "are not on this machine, and the download failed" in found["absent"]["fid"]
    code, said = refused(run, "--shards", faces, "--n", 12, "--metrics", "fid", "--out", tmp_path / "out")
    assert (code, "None of the requested metrics is available." in said) == (1, True)
