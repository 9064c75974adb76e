"""Faces, a tiny generator, and random weights for the Inception network."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from facegan.config import PrepConfig
from facegan.prep.prepare import prepare
from tests.recipes.program import facegan


@pytest.fixture(scope="package")
def faces(tmp_path_factory: pytest.TempPathFactory, portraits: Path) -> Path:
    """60 drawn faces of 32 pixels: 31 in the split train, 9 in val, 20 in test. Read-only."""
    out = tmp_path_factory.mktemp("faces") / "out"
    prepare(portraits, out, PrepConfig(size=32, crop="center178", detector="none", split="0.5,0.1,0.4"), workers=0)
    return out


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory, faces: Path) -> Path:
    """A DCGAN of four channels after 16 images. Read-only."""
    run = tmp_path_factory.mktemp("runs") / "run"
    sets = ("--set", "train.width=4", "--set", "train.precision=fp32", "--log-every", 8, "--device", "cpu")
    ended = facegan("train", "--shards", faces, "--run", run, "--images", 16, "--batch", 4, *sets, "--save-every", 8)
    assert ended.code == 0, ended.stderr
    return run


@pytest.fixture(scope="package")
def labelled(tmp_path_factory: pytest.TempPathFactory, portraits: Path) -> Path:
    """Portraits and squares, which is all that the attribute says: 120 each of 28 pixels."""
    folder = tmp_path_factory.mktemp("labelled")
    (photos := folder / "photos").mkdir()
    rows = ["photo,square"]
    for number in range(240):
        name, square = f"{number:03d}.png", number % 2
        picture = np.array(Image.open(portraits / f"{number % 60 + 1:06d}.jpg").resize((89, 109)))
        if square:
            picture[30:80, 20:70] = 255
        cv2.imwrite(str(photos / name), picture)
        rows.append(f"{name},{square}")
    (folder / "attributes.csv").write_text("\n".join(rows))
    config = PrepConfig(size=28, crop="squash", detector="none", split="0.5,0,0.5")
    prepare(photos, folder / "out", config, workers=0, attributes=folder / "attributes.csv")
    return folder / "out"


@pytest.fixture(scope="package")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random Inception weights that keep the features' scale: .safetensors, and .pth for torch-fidelity."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Bare(FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: object, **__: object) -> None:  # type: ignore[override]  # there is nothing to load
            pass

    folder = tmp_path_factory.mktemp("weights")
    torch.save({}, folder / "empty.pth")
    net = Bare("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(folder / "empty.pth"))
    random = torch.Generator().manual_seed(0)
    for name, tensor in net.named_parameters():
        if name.endswith("conv.weight"):
            tensor.copy_(torch.randn(tensor.shape, generator=random) * (2 / tensor[0].numel()) ** 0.5)
    path = folder / "random.safetensors"
    torch.save(net.state_dict(), path.with_suffix(".pth"))
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a network and without any weights."""
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
