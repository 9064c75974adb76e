"""ONNX files: onnxruntime draws what PyTorch draws, and the file describes itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from facegan.export.onnx import OPSET, onnx_bytes
from facegan.export.torch_export import trace
from facegan.nets import Generator
from tests.export.tiny_generators import LATENT, all_kinds, some_kinds, tiny_generator

TOLERANCE = 1e-4


def as_onnx(generator: Generator) -> bytes:
    return onnx_bytes(trace(generator), generator)


def assert_draws_the_same(kind: tuple[str, int, int]) -> None:
    generator = tiny_generator(*kind)
    session = onnxruntime.InferenceSession(as_onnx(generator), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        latents = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(count))
        expected = generator(latents).numpy()
        (images,) = session.run(["images"], {"latents": latents.numpy()})
        assert isinstance(images, np.ndarray)
        assert (images.dtype, images.shape) == (np.float32, expected.shape)
        assert expected.std() > 0.01, "a blank image would agree with anything"
        assert np.abs(images - expected).max() < TOLERANCE


@pytest.mark.parametrize("kind", some_kinds(), ids=lambda kind: kind[0])
def test_onnxruntime_draws_what_pytorch_draws(kind: tuple[str, int, int]) -> None:
    assert_draws_the_same(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: "-".join(map(str, kind)))
def test_every_size_and_number_of_channels(kind: tuple[str, int, int]) -> None:
    assert_draws_the_same(kind)


def test_file_describes_itself_but_no_machine() -> None:
    data = as_onnx(tiny_generator("dcgan", 32, 3))
    model = onnx.load_from_string(data)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    (latents,), (images,) = model.graph.input, model.graph.output
    assert [dim.dim_param or dim.dim_value for dim in latents.type.tensor_type.shape.dim] == ["N", LATENT]
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == ["N", 3, 32, 32]
    description = json.loads({entry.key: entry.value for entry in model.metadata_props}["facegan"])
    assert description["latents"] == {"shape": ["N", LATENT], "dtype": "float32", "law": "normal"}
    assert description["images"]["range"] == [-1.0, 1.0]
    for word in (b".py", str(Path.home()).encode(), str(Path.cwd()).encode(), b"site-packages"):
        assert word not in data
    assert as_onnx(tiny_generator("dcgan", 32, 3)) == data
