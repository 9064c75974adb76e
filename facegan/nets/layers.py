"""What pairs of nets share: their settings as a value, interfaces, layers and initialisation.

N batch, C channels, H height, W width, Z length of a latent, K values per image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facegan.config import LatentDistribution
from facegan.nets.condition import Condition
from facegan.nets.random import latents

IMAGE_RANGE = (-1.0, 1.0)  # of generated images and of a discriminator's inputs
SIZES = (28, 32, 64, 128)


@dataclass(frozen=True)
class NetSpec:
    """Everything that determines the shapes of a generator and its discriminator."""

    name: str = "dcgan"
    size: int = 64
    channels: int = 3
    latent: int = 100
    width: int = 64
    norm: str = "batch"  # inside the discriminator
    distribution: LatentDistribution = "normal"  # of latents
    condition: Condition | None = None

    @property
    def inputs(self) -> int:
        """Numbers that the generator maps to an image: its latent and, beside it, its condition."""
        return self.latent + (self.condition.length if self.condition else 0)

    def split(self, inputs: Tensor) -> dict[str, Tensor]:
        """(N, Z + K) as ``latents`` and, if there is one, ``condition``: the inputs of exported generators by name."""
        names = ("latents", "condition") if self.condition else ("latents",)
        return dict(zip(names, inputs.tensor_split([self.latent], 1), strict=False))

    @classmethod
    def of(cls, fields: dict[str, Any]) -> NetSpec:
        """From the fields of a file, where ``distribution`` is called ``law``; ValueError for an invalid condition."""
        values = {"distribution" if name == "law" else name: value for name, value in fields.items()}
        if "condition" in values:
            values["condition"] = Condition.of(values["condition"])
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """The fields of a file, which has a condition only if there is one."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "condition"}
        values["law"] = values.pop("distribution")
        return values | ({"condition": self.condition.to_json()} if self.condition else {})

    def differences(self, other: NetSpec) -> list[str]:
        """Fields of ``self`` that differ in ``other``, such as ``["width 64, not 32"]``."""
        pairs = ((field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return [f"{name} {mine or 'none'}, not {theirs or 'none'}" for name, mine, theirs in pairs if mine != theirs]


def draw_inputs(
    spec: NetSpec, count: int, seed: int, purpose: str, counter: int = 0, device: torch.device | str = "cpu"
) -> Tensor:
    """What a generator maps to ``count`` images, float32 (count, Z + K): latents and, side by side, conditions."""
    z = latents(count, spec.latent, seed, purpose, counter, device, spec.distribution)
    images = torch.arange(counter * count, (counter + 1) * count, device=device)
    return torch.cat([z, spec.condition.draw(seed, purpose, images)], 1) if spec.condition else z


class Net(nn.Module):
    spec: NetSpec  # set by `make_generator` and `make_discriminator`

    def initialise(self, rng: torch.Generator, /) -> None:
        """Draw every weight from ``rng`` without touching the global random state. User-defined nets may omit it."""
        raise NotImplementedError


class Generator(Net):
    """Maps latents, (N, Z) float, to images, (N, C, H, W) float in [−1, 1]."""


class Discriminator(Net):
    """Maps images, (N, C, H, W) float in [−1, 1], to logits, (N,) float: higher is more real.

    Those of pairs that can be conditional do so in two steps, and know P, the number of `features`.
    """

    pooled: int  # P

    def features(self, images: Tensor) -> Tensor:
        """(N, P) or (N, P, height, width): what the last layer sees."""
        raise NotImplementedError

    def head(self, features: Tensor) -> Tensor:
        """The last layer: (N,)."""
        raise NotImplementedError


def count_parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def base_resolution(size: int) -> tuple[int, int]:
    """(side of the innermost layer, doublings from there to the pixels): ``(4, 4)`` for 64; ``(7, 2)`` for 28, which
    has only two factors of 2."""
    side = 7 if size % 8 else 4
    return side, (size // side).bit_length() - 1


@torch.no_grad()
def glorot(net: nn.Module, rng: torch.Generator) -> None:
    """The initialisation of TensorFlow and Keras: Glorot weights, biases 0, norms the identity.

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks" (AISTATS),
    equation 16, with f the fans, kernel sides included:
        W ~ U[−a, a],   a = √(6 / (f_in + f_out))
    """
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.xavier_uniform_(module.weight, generator=rng)
            if module.bias is not None:
                module.bias.zero_()
        if isinstance(module, _Spectral):
            module.initialise_u(rng)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm):
            module.weight.fill_(1.0)
            module.bias.zero_()
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.reset_running_stats()


class _Sequential(Net):
    """Layers in a row."""

    initialise = glorot

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, /) -> Tensor:
        return self.layers(inputs)


class SequentialGenerator(_Sequential, Generator): ...


class SequentialDiscriminator(_Sequential, Discriminator):
    """The last layer gives one logit."""

    head_layers = 1

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs).flatten()

    def features(self, images: Tensor) -> Tensor:
        return self.layers[: -self.head_layers](images)

    def head(self, features: Tensor) -> Tensor:
        return self.layers[-self.head_layers :](features).flatten()


def norm_layers(norm: str, channels: int) -> list[nn.Module]:
    """The layer after a convolution for a `NetSpec.norm`; ``spectral`` normalises weights instead.

    ``layer`` normalises all values of an image, with a scale and a shift per channel (Ba, Kiros & Hinton 2016,
    arXiv:1607.06450, as in WGAN-GP's code): no image depends on another.
    """
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    return [nn.GroupNorm(1, channels)] if norm == "layer" else []


class _Spectral(nn.Module):
    """Weights of spectral norm 1: Miyato et al. 2018, "Spectral normalization for generative adversarial networks"
    (arXiv:1802.05957), algorithm 1.

    With W the weight as a matrix, one row per output channel, and u a buffer that each training pass updates:
        v ← Wᵀu / ‖Wᵀu‖,   u ← Wv / ‖Wv‖,   W̄ = W / σ   with   σ = uᵀWv
    σ's gradient goes through W alone: u and v are constants. PyTorch's own parametrisation draws u when it is
    constructed, which a net on the meta device cannot do, and iterates in the precision of the pass.
    """

    weight: Tensor
    u: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("u", torch.empty(len(self.weight)))

    @torch.no_grad()
    def initialise_u(self, rng: torch.Generator) -> None:
        self.u.normal_(generator=rng).div_(self.u.norm())

    def normalised(self) -> Tensor:
        """W̄, in float32 whatever the precision of the pass."""
        with torch.autocast(self.weight.device.type, enabled=False):
            matrix = self.weight.flatten(1)
            with torch.no_grad():
                v = functional.normalize(matrix.T @ self.u, dim=0)
                left = functional.normalize(matrix @ v, dim=0) if self.training else self.u.clone()
                if self.training:
                    self.u.copy_(left)
            return self.weight / torch.dot(left, matrix @ v)


class SpectralConv2d(_Spectral, nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return functional.conv2d(input, self.normalised(), self.bias, self.stride, self.padding)


class SpectralLinear(_Spectral, nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.normalised(), self.bias)


class Dropout(nn.Module):
    """Dropout with masks drawn by the caller, see `drawn`: the net has no random state, so a training can be repeated,
    resumed and captured in a CUDA graph. In eval mode the identity.

    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting" (JMLR 15), p the rate:
        y = m · x / (1 − p),   m = 0 with probability p, else 1, for each value of each image
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.uniform: Callable[[int], Tensor] | None = None

    def forward(self, values: Tensor) -> Tensor:
        if not self.training:
            return values
        if self.uniform is None:
            raise RuntimeError("This net has dropout: call it within facegan.nets.drawn(net, draw), or in eval mode.")
        kept = self.uniform(values[0].numel()).view(values.shape) >= self.rate
        return values * kept / (1 - self.rate)


@contextmanager
def drawn(net: nn.Module, draw: Callable[[int, int], Tensor]) -> Iterator[None]:
    """Passes of ``net`` within the block draw their dropout masks by ``draw``: (number of the layer, K) → (N, K) in
    [0, 1)."""
    layers = [module for module in net.modules() if isinstance(module, Dropout)]
    for number, layer in enumerate(layers):
        layer.uniform = partial(draw, number)
    try:
        yield
    finally:
        for layer in layers:
            layer.uniform = None
