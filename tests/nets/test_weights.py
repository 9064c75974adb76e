import json
import os

import pytest
import torch
from safetensors import safe_open
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


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"width": 10**6}, "another architecture"),  # 2 petabytes
        ({"latent": 10**12}, "another architecture"),
        ({"width": 10**15}, r"can't be built by this version of facegan: The nets 'dcgan' can't be 10+ wide"),
        ({"width": 10**40}, "can't be built"),
        ({"name": "r3gan", "norm": "none", "width": 10**9}, "another architecture|can't be built"),
        *(
            (spec, "has a spec that this facegan can't read")
            for spec in (
                *(
                    {name: value}
                    for name in ("size", "channels", "latent", "width")
                    for value in (0, -4, "8", 8.0, None)
                ),
                {"latent": True},
                *({name: value} for name in ("name", "norm", "law") for value in (3, None, ["normal"], {"a": 1})),
                {"law": "banana"},
                {"name": [["deep"] * 100_000]},
            )
        ),
    ],
)
def test_a_spec_that_can_not_be(tmp_path, other, sentence):
    spec = {"name": "dcgan", "size": 32, "channels": 3, "latent": 8, "width": 4, "norm": "batch", **other}
    write(tmp_path / "x.safetensors", {"format": 1, "spec": spec}, make_generator(SPEC).state_dict())
    with pytest.raises(CheckpointError, match=sentence) as error:
        load_generator(tmp_path / "x.safetensors")
    assert len(str(error.value)) < 700
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("about", ["[" * 100_000, "{", "9" * 5_000])
def test_metadata_that_can_not_be(tmp_path, about):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"facegan": about})
    with pytest.raises(CheckpointError, match="is no whole safetensors file"):
        load_generator(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_tensors_of_other_kinds_of_numbers(run, dtype):
    tensors = {name: tensor.to(dtype) for name, tensor in make_generator(SPEC).state_dict().items()}
    write(run / "generator.safetensors", about_of(run), tensors)
    with pytest.raises(CheckpointError, match=f"is {str(dtype)[6:]}, but here it is float32"):
        load_generator(run)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(run, number):
    tensors = make_generator(SPEC).state_dict()
    tensors["layers.0.weight"][0, 0, 0, 0] = number
    write(run / "generator.safetensors", about_of(run), tensors)
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight has numbers that are not finite"):
        load_generator(run)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_in_other_floats_are_taken(run, dtype):
    tensors = make_generator(SPEC).state_dict()
    for name, tensor in tensors.items():
        tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    write(run / "generator.safetensors", about_of(run), tensors)
    assert {parameter.dtype for parameter in load_generator(run).parameters()} == {torch.float32}


def about_of(run):
    with safe_open(run / "generator.safetensors", "pt") as file:
        return json.loads(file.metadata()["facegan"])


def test_files_that_can_not_be_opened(run, tmp_path):
    """What is said is what is wrong: nothing of these is damaged."""
    odd = run / os.fsdecode(b"\xff.safetensors")
    (run / "generator.safetensors").rename(odd)
    with pytest.raises(CheckpointError, match="its path has to be UTF-8"):
        load_generator(odd)
    os.mkfifo(run / "pipe.safetensors")
    (run / "folder" / "generator.safetensors").mkdir(parents=True)
    for path in (run / "pipe.safetensors", run / "folder"):
        with pytest.raises(CheckpointError, match="There is no"):
            load_generator(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(run):
    (run / "generator.safetensors").chmod(0)
    with pytest.raises(CheckpointError, match="can't be read: Permission denied"):
        load_generator(run)
