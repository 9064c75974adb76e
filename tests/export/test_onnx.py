"""ONNX files: onnxruntime draws what PyTorch draws, and the file describes itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from facegan.export.onnx import OPSET, write_onnx
from tests.export.tiny_generators import LATENT, all_kinds, some_kinds, tiny_generator

TOLERANCE = 1e-4


def assert_draws_the_same(kind: tuple[str, int, int], path: Path) -> None:
    generator = tiny_generator(*kind)
    write_onnx(generator, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for count in (1, 5):
        latents = torch.randn(count, LATENT, generator=torch.Generator().manual_seed(count))
        expected = generator(latents).numpy()
        (images,) = session.run(["images"], {"latents": latents.numpy()})
        assert isinstance(images, np.ndarray)
        assert (images.dtype, images.shape) == (np.float32, expected.shape)
        assert expected.std() > 0.01, "a blank image would agree with anything"
        assert np.abs(images - expected).max() < TOLERANCE


@pytest.mark.parametrize("kind", some_kinds(), ids=lambda kind: kind[0])
def test_onnxruntime_draws_what_pytorch_draws(kind: tuple[str, int, int], tmp_path: Path) -> None:
    assert_draws_the_same(kind, tmp_path / "generator.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: "-".join(map(str, kind)))
def test_every_size_and_number_of_channels(kind: tuple[str, int, int], tmp_path: Path) -> None:
    assert_draws_the_same(kind, tmp_path / "generator.onnx")


def test_file_describes_itself_but_no_machine(tmp_path: Path) -> None:
    write_onnx(tiny_generator("dcgan", 32, 3), tmp_path / "first.onnx")
    model = onnx.load(tmp_path / "first.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    (latents,), (images,) = model.graph.input, model.graph.output
    assert [dim.dim_param or dim.dim_value for dim in latents.type.tensor_type.shape.dim] == ["N", LATENT]
    assert [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim] == ["N", 3, 32, 32]
    description = json.loads({entry.key: entry.value for entry in model.metadata_props}["facegan"])
    assert description["latents"] == {"shape": ["N", LATENT], "dtype": "float32", "law": "normal"}
    assert description["images"]["range"] == [-1.0, 1.0]
    data = (tmp_path / "first.onnx").read_bytes()
    for word in (b".py", str(Path.home()).encode(), str(Path.cwd()).encode(), b"site-packages"):
        assert word not in data
    write_onnx(tiny_generator("dcgan", 32, 3), tmp_path / "second.onnx")
    assert (tmp_path / "second.onnx").read_bytes() == data
