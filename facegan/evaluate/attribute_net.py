"""A small classifier of faces by attributes, trained on a dataset in minutes on two cores.

Each image gets the probability of every attribute. Samples of a generator have no labels; how often the classifier errs
on held-out real faces is measured, so that `facegan.evaluate.groups` can correct for it.

N images, C channels, S side, A attributes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from facegan.nets.layers import glorot
from facegan.nets.random import named_generator

FEATURES = 64
_WIDTH, _BATCH, _PASSES = 24, 64, 12  # channels after the first convolution; images of a step; epochs
_MOST_STEPS, _LEAST_STEPS = 2_000, 300
_RATE, _DECAY, _DROPOUT, _SHIFT = 2e-3, 0.01, 0.25, 2  # the shift in pixels at 64×64 and below
ABOUT = {"net": "facegan-attributes-1", "steps": [_LEAST_STEPS, _MOST_STEPS, _PASSES], "width": _WIDTH}
Read = Callable[[NDArray[np.int64]], Tensor]  # numbers of faces → uint8 (n, C, S, S)


class AttributeNet(nn.Module):
    """Convolutions 3×3 with batch norm, of stride 2 (the first one of 1 for small images) down to a side of 4 or less,
    64 features, and a logit per attribute."""

    def __init__(self, size: int, channels: int, attributes: int) -> None:
        super().__init__()
        layers, before, width = list[nn.Module](), channels, _WIDTH
        while size > 4:
            stride = 1 if not layers and size <= 32 else 2
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            before, width, size = width, min(2 * width, 8 * _WIDTH), -(-size // stride)
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * size**2, FEATURES), nn.ReLU())
        self.last = nn.Linear(FEATURES, attributes)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """float (N, C, S, S) in [−1, 1] → logits (N, A); ``keep``: the mask of dropout in training, (N, 64)."""
        features = self.body(images)
        return self.last(features if keep is None else features * keep / (1 - _DROPOUT))


def train_attributes(read: Read, labels: NDArray[np.bool_], size: int, channels: int, seed: int) -> dict[str, Tensor]:
    """The state of an `AttributeNet` after a training on ``labels``, (N, A).

    Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101) and a rate that falls by a half
    cosine; images are shifted by up to two pixels, and not mirrored: a face that looks to the left is an attribute.
    """
    rng, count = np.random.default_rng(seed), len(labels)
    steps = min(max(_PASSES * count // _BATCH, _LEAST_STEPS), _MOST_STEPS)
    net = AttributeNet(size, channels, labels.shape[1])
    glorot(net, named_generator(seed, "attribute net"))
    net = net.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(net.parameters(), _RATE, weight_decay=_DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = np.concatenate([rng.permutation(count) for _ in range(-(-steps * _BATCH // count))])
    targets = torch.from_numpy(labels.astype(np.float32))
    for step in range(steps):
        rows = order[step * _BATCH : (step + 1) * _BATCH]
        top, left = rng.integers(0, 2 * _SHIFT + 1, 2).tolist()
        images = pad(_scaled(read(rows)), [_SHIFT] * 4, "replicate")[..., top : top + size, left : left + size]
        keep = torch.from_numpy(rng.random((len(rows), FEATURES)) >= _DROPOUT)
        loss = binary_cross_entropy_with_logits(net(images, keep), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


@torch.inference_mode()
def attribute_scores(
    state: Mapping[str, Tensor], images: Tensor, batch: int = 256
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (N, A) and features (N, 64) of uint8 (N, C, S, S); each row depends on its image alone."""
    _, channels, size, _ = images.shape
    net = AttributeNet(size, channels, len(state["last.bias"])).eval()
    net.load_state_dict(dict(state))
    net = net.to(memory_format=torch.channels_last)
    scores, features = list[Tensor](), list[Tensor]()
    for block in images.split(batch):
        features.append(net.body(_scaled(block)))
        scores.append(torch.sigmoid(net.last(features[-1])))
    return torch.cat(scores).numpy(), torch.cat(features).numpy()


def _scaled(images: Tensor) -> Tensor:
    return images.to(torch.float32, memory_format=torch.channels_last).div_(127.5).sub_(1)
