"""The main directions in which a generator's images vary, found without looking at an image.

Härkönen, Hertzmann, Lehtinen & Paris 2020, "GANSpace: discovering interpretable GAN controls" (arXiv:2004.02546),
section 2.2: principal components of the first layer's activations, brought back to latents by regression.

N latents, Z length of a latent, A activations of the first layer, K directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from facegan.errors import ExportError
from facegan.nets import Generator
from facegan.train.grid import sample_latents

SAMPLES = 1_024
_BATCH = 256
_SEED = 0
# None with which a generator ends.
_BENDS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.PReLU, nn.Softplus)


@dataclass(frozen=True)
class Directions:
    """What a step along each direction adds to a latent.

    Attributes:
        steps: float32 (K, Z); one standard deviation of the activations along each direction.
        shares: of the activations' variance, (K,), falling.
    """

    steps: Tensor
    shares: list[float]


@torch.inference_mode()
def main_directions(generator: Generator, count: int = 8) -> Directions:
    """Deterministic: the latents are those that ``facegan sample`` draws with seed 0.

    With Y the activations (N, A) of latents X (N, Z), centred, and Y = U S Vᵀ, the coordinates of the samples along
    direction k have the standard deviation S_k / √N; in units of it they are √N U_k. Since these are not correlated,
    the least-squares fit of X by them is, for each k by itself, Uᵀ_k X / √N: what one unit adds to a latent.

    Raises:
        ExportError: the generator has no layer whose activations could be looked at.
    """
    spec = generator.spec
    latents = sample_latents(SAMPLES, spec.latent, _SEED, law=spec.law)
    activations = _first_activations(generator, latents)
    activations -= activations.mean(dim=0)
    # U and S² of Y are vectors and values of Y Yᵀ, which is (N, N) however wide the layer is.
    values, vectors = torch.linalg.eigh((activations @ activations.T).double())
    count = min(count, spec.latent)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)[:, :count]
    steps = vectors.T @ latents.double() / SAMPLES**0.5
    # An eigenvector's sign is any: the largest part of a step is to be positive, wherever this runs.
    largest = steps.gather(1, steps.abs().argmax(dim=1, keepdim=True))
    steps *= torch.where(largest < 0, -1.0, 1.0)
    total = values.sum().clamp_min(1e-30)
    return Directions(steps.float(), (values[:count] / total).tolist())


class _Enough(Exception):
    """The first layer was seen: what comes behind it need not be computed."""


def _first_activations(generator: Generator, latents: Tensor) -> Tensor:
    """(N, A): what the first non-linearity gives; or the first layer with weights, where none is a module."""
    leaves = [layer for layer in generator.modules() if not any(True for _ in layer.children())]
    bends: list[nn.Module] = [layer for layer in leaves if isinstance(layer, _BENDS)]
    weighted = [layer for layer in leaves if any(True for _ in layer.parameters())]
    for layers in (bends, weighted):
        found = [_seen(generator, layers, part) for part in latents.split(_BATCH)]
        if all(part is not None for part in found):
            return torch.cat([part for part in found if part is not None])
    raise ExportError(
        f"The generator of train.nets = {generator.spec.name} has no layer that could be looked at:\n"
        "its main directions of variation can't be found. Leave --explore out."
    )


def _seen(generator: Generator, layers: list[nn.Module], latents: Tensor) -> Tensor | None:
    """What the first of the layers to be reached gives; None where none is reached."""
    kept: list[Tensor] = []

    def keep(layer: nn.Module, given: Any, made: Any) -> None:
        kept.append(made.detach().float().flatten(1).clone())
        raise _Enough

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        generator(latents)
    except _Enough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return kept[0] if kept else None
