import json

import pytest
import torch
from safetensors.torch import save_file

from facegan.errors import CheckpointError
from facegan.nets import NetSpec, load_generator, make_generator, save_generator

SPEC = NetSpec(size=32, width=4, latent=8)


@pytest.fixture
def run(tmp_path):
    save_generator(tmp_path / "generator.safetensors", make_generator(SPEC))
    return tmp_path


def write(path, about, tensors=None):
    save_file(tensors or {"a": torch.zeros(1)}, path, {"facegan": json.dumps(about)})


def test_a_generator_comes_back_in_eval_mode(run):
    original = make_generator(SPEC).eval()
    loaded = load_generator(run)
    z = torch.randn(3, 8)
    assert loaded.spec == SPEC
    assert not loaded.training
    assert torch.equal(loaded(z), original(z))
    assert torch.equal(load_generator(str(run / "generator.safetensors"))(z), original(z))


def test_the_same_weights_give_the_same_bytes(run, tmp_path):
    save_generator(tmp_path / "again.safetensors", make_generator(SPEC))
    data = (run / "generator.safetensors").read_bytes()
    assert data == (tmp_path / "again.safetensors").read_bytes()
    assert str(tmp_path).encode() not in data


def test_nothing_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no generator\.safetensors: a run writes it with its first"):
        load_generator(tmp_path)
    with pytest.raises(CheckpointError, match=r"There is no .*x\.safetensors"):
        load_generator(tmp_path / "x.safetensors")


def test_a_file_cut_short(run):
    file = run / "generator.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is no whole safetensors file"):
        load_generator(run)


def test_foreign_tensors(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="holds tensors, but no generator of facegan"):
        load_generator(tmp_path / "x.safetensors")


def test_another_architecture(tmp_path):
    wide = make_generator(NetSpec(size=32, width=8, latent=8)).state_dict()
    spec = {"name": "dcgan", "size": 32, "channels": 3, "latent": 8, "width": 4, "norm": "batch"}
    write(tmp_path / "x.safetensors", {"format": 1, "spec": spec}, wide)
    with pytest.raises(CheckpointError, match=r"another architecture: its tensor layers\.0\.weight is \[8, 32, 4, 4\]"):
        load_generator(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"format": 9}, "has format 9, and this facegan reads format 1"),
        ({"format": 1, "spec": {"name": "dcgan"}}, "has a spec that this facegan can't read"),
    ],
)
def test_a_format_from_the_future(tmp_path, about, sentence):
    write(tmp_path / "x.safetensors", about)
    with pytest.raises(CheckpointError, match=sentence):
        load_generator(tmp_path / "x.safetensors")
