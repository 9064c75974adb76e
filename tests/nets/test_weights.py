"""Files of generators: the same bytes for the same weights, and an error for anything that does not fit."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from facegan.errors import CheckpointError
from facegan.nets import NetSpec, load_generator, make_generator, save_generator

SPEC = NetSpec(size=32, width=4, latent=8)
FIELDS = {"name": "dcgan", "size": 32, "channels": 3, "latent": 8, "width": 4, "norm": "batch"}
FILE = "generator.safetensors"


@pytest.fixture
def run(tmp_path):
    save_generator(tmp_path / FILE, make_generator(SPEC))
    return tmp_path


def write(path, about, tensors=None):
    save_file(tensors or {"a": torch.zeros(1)}, path, {"facegan": json.dumps(about)})


def test_same_weights_give_same_bytes(run, tmp_path):
    save_generator(tmp_path / "again.safetensors", make_generator(SPEC))
    data = (run / FILE).read_bytes()
    assert data == (tmp_path / "again.safetensors").read_bytes()
    assert str(tmp_path).encode() not in data


def test_files_that_cannot_be_opened(run):
    odd = run / os.fsdecode(b"\xff.safetensors")
    (run / FILE).rename(odd)
    os.mkfifo(run / "pipe.safetensors")
    (run / "folder" / FILE).mkdir(parents=True)
    for path, message in [
        (run, r"There is no .*generator\.safetensors"),
        (run / "x.safetensors", r"There is no .*x\.safetensors"),
        (run / "pipe.safetensors", "There is no"),
        (run / "folder", "There is no"),
        (odd, "its path must be valid UTF-8"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            load_generator(path)


def test_damaged_and_foreign_files_are_refused(run):
    whole = (run / FILE).read_bytes()
    (run / FILE).write_bytes(whole[:-10])
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        load_generator(run)
    for about in ("[" * 100_000, "{", "9" * 5_000):
        save_file({"a": torch.zeros(1)}, run / FILE, {"facegan": about})
        with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
            load_generator(run)
    save_file({"a": torch.zeros(1)}, run / FILE)
    with pytest.raises(CheckpointError, match="is not a generator of facegan"):
        load_generator(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "has format 9; this facegan reads format 1"),
        ({"width": 10**6}, "another architecture"),  # 2 petabytes
        ({"width": 10**15}, r"cannot build .*: The nets 'dcgan' cannot have width 10+"),
        ({"name": "r3gan", "norm": "none", "width": 10**9}, "another architecture|cannot build"),
        *(
            (spec, "has a spec that this facegan cannot read")
            for spec in (
                *({"width": value} for value in (0, -4, "8", 8.0, None, True)),
                *({name: value} for name in ("name", "law") for value in (3, None, ["normal"], {"a": 1})),
                {"law": "banana"},
                {"distribution": "normal"},
                {"name": [["deep"] * 10_000]},
            )
        ),
    ],
)
def test_invalid_specs_are_refused(tmp_path, changes, message):
    about = {"format": 1, "spec": {**FIELDS, **changes}} if changes else {"format": 9}
    write(tmp_path / "x.safetensors", about, make_generator(SPEC).state_dict())
    with pytest.raises(CheckpointError, match=message) as error:
        load_generator(tmp_path / "x.safetensors")
    assert len(str(error.value)) < 700
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (lambda tensor, dtype=dtype: tensor.to(dtype), f"is {str(dtype)[6:]}, expected float32")
            for dtype in (torch.int8, torch.bool, torch.complex64)
        ),
        *(
            (lambda tensor, value=value: torch.full_like(tensor, value), "has values that are not finite")
            for value in (float("nan"), float("inf"))
        ),
        (lambda tensor: tensor[1:].clone(), "another architecture"),
        *((lambda tensor, dtype=dtype: tensor.to(dtype), "") for dtype in (torch.float64, torch.bfloat16)),
    ],
)
def test_changed_tensors_are_refused(run, change, message):
    tensors = make_generator(SPEC).state_dict()
    tensors["layers.0.weight"] = change(tensors["layers.0.weight"])
    write(run / FILE, {"format": 1, "spec": FIELDS}, tensors)
    if not message:  # other floats
        assert load_generator(run).get_parameter("layers.0.weight").dtype == torch.float32
        return
    with pytest.raises(CheckpointError, match=message):
        load_generator(run)
