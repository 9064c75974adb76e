"""Inception's metrics: the same as torch-fidelity's own program has, and weights that nothing is trusted of."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from facegan.errors import ModelError
from facegan.evaluate.features import Inception
from facegan.evaluate.fid import fid, read_statistics
from facegan.evaluate.pretrained import find_weights, read_weights
from facegan.manifests import network_weights
from tests.evaluate.program import evaluated, fidelity, refused, write_faces

ALL = "fid,kid,inception_score,precision,recall"
NO_PICTURE = ("--set", "eval.neighbours=0")


@pytest.mark.slow
def test_all_are_those_of_torch_fidelitys_own_program(faces: Path, random_weights: Path, tmp_path: Path) -> None:
    samples = write_faces(tmp_path / "samples", faces, "train", count=20)
    real = write_faces(tmp_path / "real", faces, "test")
    options = ("--fid", "--kid", "--isc", "--prc", "--kid-subset-size", "20")
    theirs = fidelity(samples, real, "inception-v3-compat", random_weights, *options)
    told = evaluated(samples, "--shards", faces, "--metrics", ALL, "--inception-weights", random_weights, *NO_PICTURE)
    ours = told["metrics"]
    assert ours["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    assert ours["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4, abs=1e-9)
    # All subsets are the whole, in other orders: what is left is rounding.
    assert ours["kid_std"] == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-6)
    assert ours["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert (ours["precision"], ours["recall"]) == (theirs["precision"], theirs["recall"])
    assert told["protocol"]["kid"]["subset_size"] == 20
    sums = hashlib.sha256(random_weights.read_bytes()).hexdigest()
    assert told["protocol"]["extractor"]["sha256"] == sums
    assert told["floors"]["fid"] > 0
    warned = " ".join(told["warnings"])
    assert "A FID of 20 samples and 20 real faces is too large by its bias" in warned
    assert "random.pth is not the published Inception v3" in warned


@pytest.mark.slow
def test_what_needs_no_covariance(faces: Path, random_weights: Path, tmp_path: Path) -> None:
    """And the same tensors as safetensors; the features of real faces are kept."""
    samples = write_faces(tmp_path / "samples", faces, "train", count=10)
    safe = tmp_path / "random.safetensors"
    tensors = read_weights(find_weights("inception", random_weights))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, safe)
    asked = (samples, "--shards", faces, "--split", "val", "--metrics", "kid,precision,recall", *NO_PICTURE)
    first = evaluated(*asked, "--inception-weights", random_weights)
    again = evaluated(*asked, "--inception-weights", safe)
    assert first["metrics"] == pytest.approx(again["metrics"])
    assert {*first["metrics"]} == {"kid", "kid_std", "precision", "recall"}
    assert first["protocol"]["kid"]["subset_size"] == 9
    assert {*first["floors"]} == {"kid", "precision", "recall"}


@pytest.mark.slow
def test_statistics_of_others(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(2100, 2048)).astype(np.float32)
    path = tmp_path / "stats.npz"
    np.savez(path, mu=features.mean(0), sigma=np.cov(features, rowvar=False))
    assert fid(features + np.float32(0.5), read_statistics(str(path))) == pytest.approx(512, rel=1e-3)


def test_statistics_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    cases = {
        "holds no statistics": {"mu": np.zeros(2048)},
        "has mu of shape (3,)": {"mu": np.zeros(3), "sigma": np.zeros((3, 3))},
        "in finite numbers": {"mu": np.full(2048, np.nan), "sigma": np.zeros((2048, 2048))},
    }
    for said, arrays in cases.items():
        np.savez(path, **arrays)
        with pytest.raises(ModelError, match=said.replace("(", r"\(").replace(")", r"\)")):
            read_statistics(str(path))
    np.savez(path, mu=np.array([Bomb(tmp_path / "went off")], object), sigma=np.zeros(1))
    with pytest.raises(ModelError, match="holds no statistics"):
        read_statistics(str(path))
    assert not (tmp_path / "went off").exists()
    path.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ModelError):
        read_statistics(str(path))


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_statistics_that_unpack_to_all_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, mu=np.zeros(2048), sigma=np.zeros(20_000_000))
    with pytest.raises(ModelError, match="they unpack to more than 100 MB"):
        read_statistics(str(path))


def test_no_advice_to_unpickle(tmp_path: Path) -> None:
    """NumPy's and torch's own texts tell how to load a pickle without care."""
    np.savez(tmp_path / "a.npz", mu=np.array([{}], dtype=object), sigma=np.zeros(2))
    (tmp_path / "b.npz").write_text("hi")
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"x": Path}))
    for ask in (
        lambda: read_statistics(str(tmp_path / "a.npz")),
        lambda: read_statistics(str(tmp_path / "b.npz")),
        lambda: read_weights(find_weights("inception", tmp_path / "w.pth")),
    ):
        with pytest.raises(ModelError, match="nothing pickled is loaded") as error:
            ask()
        assert "weights_only" not in str(error.value)
        assert "allow_pickle" not in str(error.value)


def test_weights_without_names(tmp_path: Path) -> None:
    torch.save({1: torch.zeros(2)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="something else than tensors by name"):
        read_weights(find_weights("inception", tmp_path / "w.pth"))


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    bomb = Bomb(tmp_path / "went off")
    saved = io.BytesIO()
    torch.save({"weight": bomb}, saved)
    for data in (saved.getvalue(), pickle.dumps({"weight": bomb}), b"", b"nonsense", saved.getvalue()[:-100]):
        path = tmp_path / "weights.pth"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=r"weights\.pth holds"):
            read_weights(find_weights("inception", path))
    assert not (tmp_path / "went off").exists()
    torch.save([torch.zeros(3)], path)
    with pytest.raises(ModelError, match="something else than tensors by name"):
        read_weights(find_weights("inception", path))


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match="weights of another network than inception-v3-compat"):
        Inception(find_weights("inception", path))


def test_weights_that_can_not_be_used(faces: Path, run: Path, tmp_path: Path, no_network: None) -> None:
    """Named, they are an error; looked for, the metrics are absent, and all else is measured."""
    known = network_weights("inception")
    wrong = tmp_path / known.file
    wrong.write_bytes(b"something else")
    asked = (run, "--shards", faces, "--n", 12, "--metrics", "fid,swd", "--out", tmp_path / "out", *NO_PICTURE)
    code, said = refused(*asked, "--inception-weights", wrong)
    assert code == 1
    assert f"its SHA-256 is {hashlib.sha256(b'something else').hexdigest()}" in said
    assert f"it has to be {known.sha256}" in said
    code, said = refused(*asked, "--inception-weights", tmp_path / "none.pth")
    assert (code, "There is no" in said) == (1, True)
    told = evaluated(*asked)
    assert "fid" not in told["metrics"]
    assert told["metrics"]["swd"] > 0
    assert "are not on this machine, and fetching them failed" in told["absent"]["fid"]
    code, said = refused(run, "--shards", faces, "--n", 12, "--metrics", "fid", "--out", tmp_path / "out")
    assert (code, "Nothing of what was asked for can be had." in said) == (1, True)
