"""Conditions for pairs of nets: the generator gets one beside its latent, the discriminator projects on one.

N batch, Z length of a latent, K numbers of a condition, P pooled features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from facegan.nets.layers import Discriminator, Generator, NetSpec, SpectralLinear

_EPSILON = 1e-6  # float16 has it, too


class ConditionalGenerator(Generator):
    """Another generator, whose latent is z and the embedded condition side by side, as in Karras et al. 2020, "Training
    generative adversarial networks with limited data" (arXiv:2006.06676):
        G(z, c) = inner([z, e / √mean(e²)]),   e = W c + b, as long as z
    W and b are N(0, 1): b keeps e from vanishing halfway between −1 and 1.
    """

    def __init__(self, spec: NetSpec, inner: Generator) -> None:
        super().__init__()
        self.latent = spec.latent
        self.embed = nn.Linear(spec.inputs - spec.latent, spec.latent)
        self.inner = inner

    def initialise(self, rng: torch.Generator) -> None:
        self.inner.initialise(rng)
        for parameter in (self.embed.weight, self.embed.bias):
            nn.init.normal_(parameter, generator=rng)

    def forward(self, latents: Tensor, condition: Tensor | None = None) -> Tensor:
        """``latents`` (N, Z) and ``condition`` (N, K); or both as one tensor, (N, Z + K)."""
        if condition is None:
            latents, condition = latents[:, : self.latent], latents[:, self.latent :]
        e = self.embed(condition).float()
        return self.inner(torch.cat([latents, e * (e.square().mean(1, keepdim=True) + _EPSILON).rsqrt()], 1))


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
            with torch.no_grad():
                self.embed.u.normal_(generator=rng).div_(self.embed.u.norm())

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """``condition``: (N, K)."""
        features = self.inner.features(images)
        pooled = features.flatten(2).sum(2) if features.ndim > 2 else features
        return self.inner.head(features) + (self.embed(condition).float() * pooled.float()).sum(1)
