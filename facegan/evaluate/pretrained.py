"""Published networks, Inception and CLIP: their weights are found, fetched, checked and read; their features computed.

A pickled file is loaded only if it is Inception's published one, by its SHA-256, and then with ``weights_only``, which
accepts tensors and plain values. Any other weights must be a ``.safetensors``.

N images, C channels, S side, D numbers of an output.
"""

from __future__ import annotations

import io
import os
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from facegan.console import Console
from facegan.errors import DamagedFile, ModelError
from facegan.files import atomic_write, make_folder, read_tensors, sha256_file, user_cache
from facegan.manifests import NetworkWeights, network_weights
from facegan.remote import timeout_seconds

CLIP, INCEPTION = "clip-vit-b-32", "inception-v3-compat"
POOL, LOGITS = "2048", "logits_unbiased"  # Inception's outputs, as torch-fidelity names them
_BATCH = 32
_CHUNK = 1 << 20
Network = Literal["inception", "clip"]
_NAMES: dict[Network, str] = {"inception": "Inception", "clip": "CLIP"}


@dataclass(frozen=True)
class PretrainedWeights:
    """A checked file. ``published``: it is the file by which the literature's values were measured."""

    path: Path
    sha256: str
    published: bool


def find_weights(network: Network, file: str | Path | None, *, fetch: bool = True) -> PretrainedWeights:
    """``file``; else the published one from ``$FACEGAN_MODELS``, the user cache or torch's; else downloaded once.

    Raises:
        ModelError: there is none, it cannot be downloaded, or a file of the published name has another checksum.
    """
    known = network_weights(network)
    if file:
        path = Path(file)
        if not path.is_file():
            raise ModelError(f"There is no {path}. --{network}-weights takes a file of {_NAMES[network]}'s weights.")
        return _check(path, known)
    for path in (folder / known.file for folder in _folders()):
        if not path.is_file():
            continue
        if path.parent != user_cache("models") or sha256_file(path) == known.sha256:
            return _check(path, known)
        Console().warn(f"{path} does not match its checksum and is ignored.")
    if not fetch:
        raise ModelError(f"{known.title}: the weights are not on this machine ({known.bytes / 1e6:,.0f} MB)")
    return _check(_download(network, known), known)


def _read_weights(weights: PretrainedWeights) -> dict[str, Tensor]:
    """Tensors by name, on the CPU."""
    if weights.path.suffix != ".safetensors":  # the published file
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how it was pickled
            return torch.load(weights.path, map_location="cpu", weights_only=True)
    try:
        return read_tensors(weights.path)[0]
    except DamagedFile as error:
        raise ModelError(f"{weights.path} contains no readable weights: {error.why}") from None


def _check(path: Path, known: NetworkWeights) -> PretrainedWeights:
    sha256 = sha256_file(path)
    if sha256 != known.sha256 and (path.name == known.file or path.suffix != ".safetensors"):
        raise ModelError(
            f"{path} is not {known.title}: its SHA-256 is {sha256}, and it must be {known.sha256}.\n"
            "No other pickled file is loaded. Name the published file, or a .safetensors of its tensors."
        )
    return PretrainedWeights(path, sha256, sha256 == known.sha256)


def _folders() -> Iterator[Path]:
    if os.environ.get("FACEGAN_MODELS"):
        yield Path(os.environ["FACEGAN_MODELS"])
    yield user_cache("models")
    yield Path(torch.hub.get_dir()) / "checkpoints"  # where torch-fidelity's own command stores it


def _download(network: Network, known: NetworkWeights) -> Path:
    target = make_folder(user_cache("models")) / known.file
    try:
        with urllib.request.urlopen(known.url, timeout=timeout_seconds()) as response, atomic_write(target) as file:
            received = 0
            while received <= known.bytes and (data := response.read(_CHUNK)):
                received += len(data)
                file.write(data)
            if received != known.bytes:
                raise ModelError(f"{known.url} sent {received:,} bytes instead of {known.bytes:,}.")
    except OSError as error:  # URLError is one
        raise ModelError(
            f"{known.title}: the weights are not on this machine, and the download failed "
            f"({getattr(error, 'reason', error)}).\n"
            f"Name them with --{network}-weights FILE, or put {known.file} into $FACEGAN_MODELS."
        ) from None
    return target


@dataclass(frozen=True)
class PretrainedNet:
    """A network of torch-fidelity's on a device.

    Attributes:
        net: from uint8 (N, 3, S, S) to a tuple of outputs, which ``names`` are of.
        side: images are enlarged to this many pixels, as TensorFlow 1 does it.
    """

    weights: PretrainedWeights
    net: nn.Module
    names: tuple[str, ...]
    side: int
    device: torch.device
    console: Console

    @torch.inference_mode()
    def outputs(self, images: Tensor) -> dict[str, NDArray[np.float32]]:
        """uint8 (N, C, S, S) → each output for all images, (N, D); grey is repeated to three channels."""
        blocks: list[list[NDArray[np.float32]]] = []
        with self.console.progress(len(images), "images") as progress:
            for block in images.split(_BATCH):
                outputs = self.net(block.expand(-1, 3, -1, -1).to(self.device))
                blocks.append([output.cpu().numpy() for output in outputs])
                progress.advance(len(block))
        return dict(zip(self.names, map(np.concatenate, zip(*blocks, strict=True)), strict=True))


def load_inception(weights: PretrainedWeights, device: torch.device, console: Console) -> PretrainedNet:
    """TensorFlow's Inception of 2015, by which published FIDs are measured: ``2048`` and ``logits_unbiased`` (N, 1008).

    Features equal those of the ``fidelity`` command.
    """
    saved = io.BytesIO()
    torch.save(_read_weights(weights), saved)  # torch-fidelity unpickles without a check: it gets a file that we wrote
    saved.seek(0)
    with _no_import_warnings():
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        try:
            net = FeatureExtractorInceptionV3(INCEPTION, [POOL, LOGITS], feature_extractor_weights_path=saved)
        except RuntimeError:
            raise ModelError(
                f"{weights.path} contains the weights of another network than {INCEPTION}, which torch-fidelity "
                "converted.\nName the published file with --inception-weights."
            ) from None
    return PretrainedNet(weights, net.to(device), (POOL, LOGITS), 299, device, console)


def load_clip(weights: PretrainedWeights, device: torch.device, console: Console) -> PretrainedNet:
    """CLIP's image network (Radford et al. 2021, arXiv:2103.00020), with weights rounded to 16 bits as published:
    ``clip`` (N, D), D = 512 for the published network.

    Its features do not depend on ImageNet's classes, by which Inception judges faces (Kynkäänniemi et al. 2023,
    arXiv:2203.06026). torch-fidelity runs OpenAI's TorchScript file; we run no code of a file, and read OpenCLIP's
    ``.safetensors``, which has tensors of the same names and gives the same features.
    """
    with _no_import_warnings():
        from torch_fidelity.feature_extractor_base import FeatureExtractorBase
        from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, VisionTransformer, build_model

    tensors = _read_weights(weights)

    class FromTensors(FeatureExtractorCLIP):
        def __init__(self) -> None:
            FeatureExtractorBase.__init__(self, CLIP, ["clip"])  # FeatureExtractorCLIP's runs a file
            self.feature_extractor_internal_dtype = torch.float32
            self.model = build_model(dict(tensors), torch.float32)
            self.resolution: int = self.model.visual.input_resolution

    try:
        if not all(tensor.numel() for tensor in tensors.values()):
            raise ValueError("an empty tensor")
        with torch.device("meta"):  # find a mismatch before memory is allocated
            plan = build_model({name: tensor.to("meta") for name, tensor in tensors.items()}, torch.float32)
        if not isinstance(plan.visual, VisionTransformer) or plan.visual.input_resolution < 1:
            raise ValueError("a residual network, or one without pixels")
    except (RuntimeError, LookupError, ArithmeticError, TypeError, ValueError, AssertionError):
        raise ModelError(
            f"{weights.path} contains the weights of another network than CLIP's vision transformer, with the names "
            "that OpenAI and\nOpenCLIP use. Name the published file with --clip-weights."
        ) from None
    net = FromTensors()
    return PretrainedNet(weights, net.to(device), ("clip",), net.resolution, device, console)


@contextmanager
def _no_import_warnings() -> Iterator[None]:
    """Import torch-fidelity without the warnings of its own imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
