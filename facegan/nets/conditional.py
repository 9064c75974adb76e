"""Conditions for pairs of nets: the generator gets one beside its latent, the discriminator projects on one.

N batch, Z length of a latent, K numbers of a condition, P pooled features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.layers import Discriminator, Generator, NetSpec, SpectralLinear


class ConditionalGenerator(Generator):
    """Another generator, whose latent is z and the condition side by side, as in Mirza & Osindero 2014, "Conditional
    generative adversarial nets" (arXiv:1411.1784): its first layer embeds both.

    An embedding as long as z, as in StyleGAN2-ADA, collapsed a DCGAN on CelebA (BENCHMARKS.md).
    """

    def __init__(self, inner: Generator) -> None:
        super().__init__()
        self.inner = inner

    def initialise(self, rng: torch.Generator) -> None:
        self.inner.initialise(rng)

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """``latents`` (N, Z) and ``condition`` (N, K); or both as one tensor, (N, Z + K)."""
        return self.inner(latents if condition is None else torch.cat([latents, condition], 1))


class ConditionalDiscriminator(Discriminator):
    """Another discriminator with a projection: Miyato & Koyama 2018, "cGANs with projection discriminator"
    (arXiv:1802.05637), equation 4, with φ the inner one's features summed over the image's positions:
        d(x, c) = head(φ(x)) + ⟨V c, φ(x)⟩
    V begins at 0, as an unconditional discriminator; with ``norm="spectral"`` it is normalised like the other weights.
    """

    def __init__(self, spec: NetSpec, inner: Discriminator) -> None:
        super().__init__()
        linear = SpectralLinear if spec.norm == "spectral" else nn.Linear
        self.embed = linear(spec.inputs - spec.latent, inner.pooled, bias=False)
        self.inner = inner

    def initialise(self, rng: torch.Generator) -> None:
        self.inner.initialise(rng)
        nn.init.zeros_(self.embed.weight)
        if isinstance(self.embed, SpectralLinear):  # of norm 1 whatever its weights, which cannot be 0
            nn.init.normal_(self.embed.weight, generator=rng)
            self.embed.initialise_u(rng)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """``condition``: (N, K)."""
        features = self.inner.features(images)
        pooled = features.flatten(2).sum(2) if features.ndim > 2 else features
        return self.inner.head(features) + (self.embed(condition).float() * pooled.float()).sum(1)
