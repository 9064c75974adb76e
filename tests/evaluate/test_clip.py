"""CLIP's metrics from tensors equal torch-fidelity's from the TorchScript program that contains them."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from facegan.console import Console
from facegan.errors import ModelError
from facegan.evaluate.pretrained import PretrainedNet, find_weights, load_clip
from tests.evaluate.program import evaluated, refused

ASKED = ("--metrics", "fid_clip,kid_clip", "--set", "eval.neighbours=0")
SIDE, FEATURES = 32, 24


class Published(nn.Module):
    """CLIP as in its TorchScript file: the image network, and the text network's tensors that give its sizes."""

    def __init__(self) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_clip import CLIPVisual

        self.visual = CLIPVisual(FEATURES, SIDE, vision_layers=2, vision_width=64, vision_patch_size=8).visual
        self.text_projection = nn.Parameter(torch.zeros(16, FEATURES))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.visual(images)


@pytest.fixture(scope="module")
def clip() -> Published:
    """A small one with random weights, rounded to 16 bits as the published one is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries that torch-fidelity imports
        import torch_fidelity.feature_extractor_clip  # noqa: F401  # its warnings are of the import
    torch.manual_seed(0)
    net = Published().eval().requires_grad_(False)
    for tensor in net.parameters():
        tensor.copy_(tensor.half().float())
    return net


@pytest.fixture(scope="module")
def tensors(clip: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As OpenCLIP publishes it."""
    path = tmp_path_factory.mktemp("clip") / "clip.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in clip.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def program(clip: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As OpenAI publishes it."""
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript as a whole
        torch.jit.save(torch.jit.trace(clip, torch.zeros(1, 3, SIDE, SIDE), check_trace=False), str(path))
    return path


def load(path: Path) -> PretrainedNet:
    return load_clip(find_weights("clip", path), torch.device("cpu"), Console(quiet=True))


@pytest.mark.parametrize(("channels", "side"), [(3, 64), (1, 28)])
def test_features_equal_torch_fidelitys(tensors: Path, program: Path, channels: int, side: int) -> None:
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TorchScript as a whole
        theirs = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], feature_extractor_weights_path=str(program))
    images = torch.randint(0, 256, (37, channels, side, side), dtype=torch.uint8)
    expected = theirs(images.expand(-1, 3, -1, -1))[0].numpy()
    found = load(tensors).outputs(images)["clip"]
    assert (found.shape, found.dtype) == ((37, FEATURES), np.float32)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_protocol_names_the_weights(faces: Path, run: Path, tensors: Path, tmp_path: Path) -> None:
    found = evaluated(run, "--shards", faces, "--n", 12, "--clip-weights", tensors, *ASKED, "--out", tmp_path / "out")
    assert {*found["metrics"]} == {"fid_clip", "kid_clip", "kid_clip_std"}
    assert {*found["floors"]} == {"fid_clip", "kid_clip"}
    assert found["metrics"]["fid_clip"] > found["floors"]["fid_clip"] > 0
    assert found["protocol"]["clip"] == {
        "name": "CLIP vision transformer of 32×32",
        "resize": "bilinear to 32×32, as TensorFlow 1 does it",
        "weights": "clip.safetensors",
        "sha256": hashlib.sha256(tensors.read_bytes()).hexdigest(),
        "published": False,
    }
    assert found["protocol"]["kid"]["subset_size"] == 12
    warned = " ".join(found["warnings"])
    assert "clip.safetensors is not the published CLIP ViT-B/32" in warned
    assert "The FID of 12 samples and 12 real faces is biased upwards" in warned


def test_weights_are_downloaded_only_by_name(faces: Path, run: Path, tmp_path: Path, no_network: None) -> None:
    asked = (run, "--shards", faces, "--n", 12, "--set", "eval.neighbours=0", "--out", tmp_path / "out")
    found = evaluated(*asked)
    assert "swd" in found["metrics"]
    assert found["absent"]["fid_clip"] == (
        "OpenAI's CLIP ViT-B/32, as OpenCLIP publishes its tensors: the weights are not on this machine (605 MB)"
    )
    assert "download" not in found["absent"]["kid_clip"]
    code, said = refused(*asked, "--metrics", "fid_clip")
    assert code == 1
    assert "the download failed" in said
    assert "Name them with --clip-weights FILE, or put clip-vit-b-32.safetensors into $FACEGAN_MODELS." in said


def residual_network() -> dict[str, Tensor]:
    """A CLIP, but not the vision transformer."""
    from torch_fidelity.feature_extractor_clip import ModifiedResNet

    net = ModifiedResNet((1, 1, 1, 1), output_dim=FEATURES, heads=32, input_resolution=32, width=64)
    tensors = {f"visual.{name}": tensor.contiguous() for name, tensor in net.state_dict().items()}
    return tensors | {"text_projection": torch.zeros(16, FEATURES)}


@pytest.mark.parametrize(
    "changes",
    [
        {"text_projection": None},
        {"visual.conv1.weight": None},
        {"visual.proj": torch.zeros(64)},
        {"visual.proj": torch.zeros(64, FEATURES + 1)},
        {"visual.class_embedding": torch.zeros(65)},
        {"visual.positional_embedding": torch.zeros(())},
        {"visual.positional_embedding": torch.zeros(1, 64)},  # for images of no pixels
        # Tensors of no size that ask for more than all memory.
        {"text_projection": torch.zeros(0, 2**40)},
        {"visual.conv1.weight": torch.zeros(2**24, 1, 1, 1)},
        {},
    ],
)
def test_weights_of_another_network_are_refused(
    clip: Published, program: Path, tmp_path: Path, changes: dict[str, Tensor | None]
) -> None:
    held = {**clip.state_dict(), **changes} if changes else residual_network()
    path = tmp_path / "other.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in held.items() if tensor is not None}, path)
    with pytest.raises(ModelError, match=r"another network than CLIP's"):
        load(path)
    with pytest.raises(ModelError, match=r"No other pickled file is loaded\."):
        load(program)
