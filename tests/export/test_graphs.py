"""``generator.pt2`` and ONNX files: they draw what PyTorch draws, describe themselves, and contain no pickle."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from facegan.errors import ExportError
from facegan.export.card import program_snippet
from facegan.export.onnx import OPSET, onnx_bytes
from facegan.export.torch_export import pickled_members, program_bytes, trace
from facegan.nets import PAIRS, Condition, Generator, NetSpec, draw_inputs
from tests.export.tiny_generators import BINARY, CLASSES, LATENT, tiny_generator

# Every pair at every size, each number of channels in turn; the fast tests have each kind of layer once.
KINDS = [(name, size, (1, 3)[i % 2]) for name, pair in PAIRS.items() for i, size in enumerate(pair.sizes)]
FAST = {("dcgan", 64, 3), ("dcgan-fc", 28, 1), ("mlp", 28, 1), ("r3gan", 28, 1)}


@cache
def traced(*kind: Any) -> tuple[Generator, ExportedProgram, bytes]:
    """A generator, its trace, and its ONNX file."""
    generator = tiny_generator(*kind)
    program = trace(generator)
    return generator, program, onnx_bytes(program, generator)


@pytest.mark.parametrize(
    "kind", [pytest.param(it, marks=[] if it in FAST else pytest.mark.slow) for it in KINDS], ids=str
)
def test_onnxruntime_draws_what_pytorch_draws(kind: tuple[str, int, int]) -> None:
    generator, _, data = traced(*kind)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        latents = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(count))
        expected = generator(latents).numpy()
        (images,) = session.run(["images"], {"latents": latents.numpy()})
        assert isinstance(images, np.ndarray)
        assert (images.dtype, images.shape) == (np.float32, expected.shape)
        assert expected.std() > 0.01, "a blank image would agree with anything"
        assert np.abs(images - expected).max() < 1e-4


@pytest.mark.parametrize(
    "name", ["dcgan-fc", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dcgan", "resnet", "r3gan"))]
)
@pytest.mark.parametrize("condition", [BINARY, pytest.param(CLASSES, marks=pytest.mark.slow)])
def test_conditional_graphs_have_two_inputs(name: str, condition: Condition) -> None:
    generator = tiny_generator(name, 32, 1, condition)
    program = trace(generator)
    data = onnx_bytes(program, generator)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["latents", "condition"]
    for count in (1, 5):
        inputs = draw_inputs(generator.spec, count, count, "test")
        z, c = inputs.tensor_split([LATENT], 1)
        expected = generator(z, c)
        (images,) = session.run(["images"], {"latents": z.contiguous().numpy(), "condition": c.contiguous().numpy()})
        assert np.abs(np.asarray(images) - expected.numpy()).max() < 1e-4
        assert torch.allclose(program.module()(z, c), expected, atol=1e-5)
    other = -c if condition is BINARY else c.roll(1, 1)
    assert (program.module()(z, other) - expected).abs().mean() > 1e-3
    description = json.loads(
        {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}["facegan"]
    )
    kind = {"classes": 4} if condition is CLASSES else {"values": [-1, 1]}
    shape = {"shape": ["N", condition.length], "dtype": "float32"}
    assert description["condition"] == {**shape, "names": list(condition.names), **kind}


def test_file_describes_itself_but_no_machine() -> None:
    generator, _, data = traced("mlp", 28, 3)
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    (latents,), (images,) = model.graph.input, model.graph.output
    assert [dim.dim_param or dim.dim_value for dim in latents.type.tensor_type.shape.dim] == ["N", LATENT]
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == ["N", 3, 28, 28]
    description = json.loads({entry.key: entry.value for entry in model.metadata_props}["facegan"])
    assert description["latents"] == {"shape": ["N", LATENT], "dtype": "float32", "law": "normal"}
    assert description["images"]["range"] == [-1.0, 1.0]
    for word in (b".py", str(Path.home()).encode(), str(Path.cwd()).encode(), b"site-packages"):
        assert word not in data
    assert onnx_bytes(trace(generator), generator) == data


class Own(Generator):
    """What no pair of facegan's does: shapes from the batch, parts of a tensor, a dtype, a constant, a branch."""

    def __init__(self, branches: bool) -> None:
        super().__init__()
        self.spec, self.branches = NetSpec("mine:NETS", 28, 1, LATENT), branches
        self.linear = nn.Linear(LATENT, 2 * 28 * 28)
        self.register_buffer("ramp", torch.arange(28.0), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        if self.branches and latents.sum() > 0:
            latents = -latents
        first, second = self.linear(latents).chunk(2, dim=1)
        mixed = (first.sigmoid() * second).to(torch.float64).float().view(latents.shape[0] * 28, 28)
        return torch.tanh(mixed + self.get_buffer("ramp") / 28).view(-1, 1, 28, 28)


@pytest.mark.parametrize("kind", [("dcgan", 64, 3), ("r3gan", 28, 1), None], ids=str)
def test_program_draws_the_same_without_pickle(kind: tuple[str, int, int] | None) -> None:
    if kind:
        generator, program, _ = traced(*kind)
    else:
        generator = Own(False).eval().requires_grad_(False)
        program = trace(generator)
    data = program_bytes(program)
    assert pickled_members(data) == []
    assert b".py" not in data
    assert kind or program_bytes(trace(generator)) == data
    latents = torch.randn(5, LATENT)
    loaded = torch.export.load(io.BytesIO(data)).module()
    torch.testing.assert_close(loaded(latents), generator(latents), rtol=0, atol=1e-6)


def test_branches_on_values_are_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"train.nets = mine:NETS(.|\n)*Its forward must consist of tensor"):
        trace(Own(True).eval())
    assert capsys.readouterr().err == ""


def test_pickled_example_inputs_are_found() -> None:
    buffer = io.BytesIO()
    torch.export.save(trace(tiny_generator("mlp", 28, 1)), buffer)
    assert pickled_members(buffer.getvalue())


@pytest.mark.parametrize("distribution", ["uniform", "uniform01", "sphere"])
def test_snippet_draws_latents_of_the_distribution(distribution: str) -> None:
    spec = NetSpec("mlp", 28, 1, LATENT, 4, "none", distribution)  # type: ignore[arg-type]  # parametrized text
    line = program_snippet(spec, 500).splitlines()[-1]
    latents = eval(line.partition("generator(")[2].partition(")  #")[0], {"torch": torch})  # noqa: S307 - our own text
    assert latents.shape == (500, LATENT)
    if distribution == "sphere":
        assert torch.allclose(latents.norm(dim=1), torch.tensor(LATENT**0.5))
    else:
        assert latents.abs().max() <= 1
        assert (latents.min() < 0) == (distribution == "uniform")
