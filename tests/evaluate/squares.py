"""Nets whose generator draws a square before grey: the larger the first number of a latent, the whiter."""

import torch
from torch import Tensor, nn

from facegan.nets import NetSpec, Pair


class Squares(nn.Module):
    def __init__(self, spec: NetSpec) -> None:
        super().__init__()
        self.size, self.steepness = spec.size, nn.Parameter(torch.tensor(4.0))

    def forward(self, z: Tensor) -> Tensor:
        images = (0.2 * torch.tanh(z[:, 1:4])[..., None, None]).repeat(1, 1, self.size, self.size)
        white, inside = torch.sigmoid(self.steepness * z[:, 0])[:, None, None, None], slice(8, 20)
        images[..., inside, inside] = white + (1 - white) * images[..., inside, inside]
        return images


PAIR = Pair(Squares, Squares)
