"""Inception's metrics equal those of torch-fidelity's own program; its weights are read without trust."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from facegan.errors import ModelError
from facegan.evaluate.pretrained import Inception, PretrainedWeights, find_weights, read_weights
from facegan.manifests import network_weights
from tests.evaluate.bomb import Bomb
from tests.evaluate.program import evaluated, fidelity, refused, write_faces

ALL = "fid,kid,inception_score,precision,recall"
NO_PICTURE = ("--set", "eval.neighbours=0")


@pytest.mark.slow
def test_metrics_equal_torch_fidelitys_program(faces: Path, random_weights: Path, tmp_path: Path) -> None:
    samples = write_faces(tmp_path / "samples", faces, "train", count=20)
    real = write_faces(tmp_path / "real", faces, "test")
    options = ("--fid", "--kid", "--isc", "--prc", "--kid-subset-size", "20")
    theirs = fidelity(samples, real, "inception-v3-compat", random_weights.with_suffix(".pth"), *options)
    found = evaluated(samples, "--shards", faces, "--metrics", ALL, "--inception-weights", random_weights, *NO_PICTURE)
    ours = found["metrics"]
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4, abs=1e-9)
    # Each subset is the whole set in another order: only rounding differs.
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-6)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert (ours["precision"], ours["recall"]) == (theirs["precision"], theirs["recall"])
    assert found["protocol"]["kid"]["subset_size"] == 20
    sums = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    assert found["protocol"]["extractor"]["sha256"] == sums
    assert found["floors"]["fid"] > 0
    warned = " ".join(found["warnings"])
    assert "The FID of 20 samples and 20 real faces is biased upwards" in warned
    assert "random.safetensors is not the published Inception v3" in warned


@pytest.mark.slow
def test_small_split_limits_kid_subsets(faces: Path, random_weights: Path, tmp_path: Path) -> None:
    """Without the slow covariance."""
    samples = write_faces(tmp_path / "samples", faces, "train", count=10)
    asked = (samples, "--shards", faces, "--split", "val", "--metrics", "kid,precision,recall", *NO_PICTURE)
    found = evaluated(*asked, "--inception-weights", random_weights)
    assert {*found["metrics"]} == {"kid", "kid_std", "precision", "recall"}
    assert found["protocol"]["kid"]["subset_size"] == 9
    assert {*found["floors"]} == {"kid", "precision", "recall"}


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    """Unless they are the published file; even then no code in one runs, and no error tells how to run it."""
    bomb, path = Bomb(tmp_path / "went off"), tmp_path / "weights.pth"
    torch.save({"weight": bomb}, path)
    saved = path.read_bytes()
    for data in (saved, pickle.dumps({"weight": bomb}), pickle.dumps({"x": Path}), b"", b"nonsense", saved[:-100]):
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"No other pickled file is loaded"):
            find_weights("inception", path)
        with pytest.raises(ModelError, match=r"weights\.pth contains") as error:
            read_weights(PretrainedWeights(path, "", published=True))
        assert "weights_only" not in str(error.value)
    assert not (tmp_path / "went off").exists()
    for values in ([torch.zeros(3)], {1: torch.zeros(2)}):
        torch.save(values, path)
        with pytest.raises(ModelError, match="does not contain tensors by name"):
            read_weights(PretrainedWeights(path, "", published=True))


def test_harmless_pickles_are_refused_without_the_published_checksum(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.ones(3)}, path)
    with pytest.raises(ModelError, match=r"SHA-256 is [0-9a-f]{64}\.\nNo other pickled file"):
        find_weights("inception", path)
    assert torch.equal(read_weights(PretrainedWeights(path, "", published=True))["weight"], torch.ones(3))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="weights of another network than inception-v3-compat"):
        Inception(find_weights("inception", path))


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
