"""Files of generators: the same bytes for the same weights, and an error for anything that does not fit."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from facegan.errors import CheckpointError
from facegan.nets import NetSpec, load_generator, make_generator, save_generator

SPEC = NetSpec(size=32, width=4, latent=8)
FILE = "generator.safetensors"


@pytest.fixture
def run(tmp_path):
    save_generator(tmp_path / FILE, make_generator(SPEC))
    return tmp_path


def write(path, about, tensors=None):
    save_file(tensors or {"a": torch.zeros(1)}, path, {"facegan": json.dumps(about)})


def rewrite(run, change):
    """Change the tensors of the run's generator."""
    tensors = {name: change(name, tensor) for name, tensor in make_generator(SPEC).state_dict().items()}
    with safe_open(run / FILE, "pt") as file:
        about = json.loads(file.metadata()["facegan"])
    write(run / FILE, about, tensors)


def test_generator_loads_in_eval_mode(run):
    original, z = make_generator(SPEC).eval(), torch.randn(3, 8)
    for path in (run, str(run / FILE)):
        loaded = load_generator(path)
        assert (loaded.spec, loaded.training) == (SPEC, False)
        assert torch.equal(loaded(z), original(z))


def test_same_weights_give_same_bytes(run, tmp_path):
    save_generator(tmp_path / "again.safetensors", make_generator(SPEC))
    data = (run / FILE).read_bytes()
    assert data == (tmp_path / "again.safetensors").read_bytes()
    assert str(tmp_path).encode() not in data


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no generator\.safetensors: a run writes it with its first"):
        load_generator(tmp_path)
    with pytest.raises(CheckpointError, match=r"There is no .*x\.safetensors"):
        load_generator(tmp_path / "x.safetensors")


def test_truncated_file_is_refused(run):
    (run / FILE).write_bytes((run / FILE).read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        load_generator(run)


def test_file_without_metadata_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="is not a generator of facegan"):
        load_generator(tmp_path / "x.safetensors")


def test_tensors_of_another_architecture(tmp_path):
    wide = make_generator(NetSpec(size=32, width=8, latent=8)).state_dict()
    spec = {"name": "dcgan", "size": 32, "channels": 3, "latent": 8, "width": 4, "norm": "batch"}
    write(tmp_path / "x.safetensors", {"format": 1, "spec": spec}, wide)
    with pytest.raises(CheckpointError, match=r"another architecture: its tensor layers\.0\.weight is \[8, 32, 4, 4\]"):
        load_generator(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"format": 9}, "has format 9; this facegan reads format 1"),
        ({"format": 1, "spec": {"name": "dcgan"}}, "has a spec that this facegan cannot read"),
    ],
)
def test_newer_formats_are_refused(tmp_path, about, message):
    write(tmp_path / "x.safetensors", about)
    with pytest.raises(CheckpointError, match=message):
        load_generator(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 10**6}, "another architecture"),  # 2 petabytes
        ({"latent": 10**12}, "another architecture"),
        ({"width": 10**15}, r"cannot build .*: The nets 'dcgan' cannot have width 10+"),
        ({"width": 10**40}, "cannot build"),
        ({"name": "r3gan", "norm": "none", "width": 10**9}, "another architecture|cannot build"),
        *(
            (spec, "has a spec that this facegan cannot read")
            for spec in (
                *({name: value} for name in ("size", "width") for value in (0, -4, "8", 8.0, None)),
                {"latent": True},
                *({name: value} for name in ("name", "law") for value in (3, None, ["normal"], {"a": 1})),
                {"law": "banana"},
                {"name": [["deep"] * 100_000]},
            )
        ),
    ],
)
def test_invalid_specs_are_refused(tmp_path, changes, message):
    spec = {"name": "dcgan", "size": 32, "channels": 3, "latent": 8, "width": 4, "norm": "batch", **changes}
    write(tmp_path / "x.safetensors", {"format": 1, "spec": spec}, make_generator(SPEC).state_dict())
    with pytest.raises(CheckpointError, match=message) as error:
        load_generator(tmp_path / "x.safetensors")
    assert len(str(error.value)) < 700
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("about", ["[" * 100_000, "{", "9" * 5_000])
def test_damaged_metadata_is_refused(tmp_path, about):
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors", {"facegan": about})
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        load_generator(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64])
def test_non_float_tensors_are_refused(run, dtype):
    rewrite(run, lambda name, tensor: tensor.to(dtype))
    with pytest.raises(CheckpointError, match=f"is {str(dtype)[6:]}, expected float32"):
        load_generator(run)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_non_finite_weights_are_refused(run, number):
    rewrite(run, lambda name, tensor: tensor * number if name == "layers.0.weight" else tensor)
    with pytest.raises(CheckpointError, match=r"layers\.0\.weight has values that are not finite"):
        load_generator(run)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_float_types_are_accepted(run, dtype):
    rewrite(run, lambda name, tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
    assert {parameter.dtype for parameter in load_generator(run).parameters()} == {torch.float32}


def test_paths_that_cannot_be_opened(run):
    odd = run / os.fsdecode(b"\xff.safetensors")
    (run / FILE).rename(odd)
    with pytest.raises(CheckpointError, match="its path must be valid UTF-8"):
        load_generator(odd)
    os.mkfifo(run / "pipe.safetensors")
    (run / "folder" / FILE).mkdir(parents=True)
    for path in (run / "pipe.safetensors", run / "folder"):
        with pytest.raises(CheckpointError, match="There is no"):
            load_generator(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_read_permission(run):
    (run / FILE).chmod(0)
    with pytest.raises(CheckpointError, match="cannot be read: Permission denied"):
        load_generator(run)
