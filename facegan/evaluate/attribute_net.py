"""A small classifier of faces by attributes, trained on a dataset in minutes on two cores.

Each image gets the probability of every attribute. Samples of a generator have no labels; how often the classifier errs
on held-out real faces is measured, so that `facegan.evaluate.groups` can correct for it.

N images, C channels, S side, A attributes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, pad

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.evaluate.groups import Audit, Classified, audit, check_heads, heads_of, left_out_classes
from facegan.evaluate.manifold import nearest
from facegan.evaluate.memorization import sheet
from facegan.evaluate.reference import FeatureCache
from facegan.nets.layers import glorot
from facegan.nets.random import named_generator
from facegan.stream import FaceShards

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


# The faces that it learns from, and those that it is judged by.

_MEASURES = ("yaw", "brightness", "sharpness", "side")  # of detections.parquet
_MOST_TRAINED, _MOST_HELD_OUT = 20_000, 10_000  # faces
_HELD_OUT = 5  # without another split every fifth face
_SHOWN_GROUPS, _SHOWN_FACES = 8, 6  # in the picture


class LabelledFaces:
    """The faces of the split train with their attributes, and those of the other splits, which are held out; if there
    is one split, a fifth of it is held out.

    Attributes:
        heads: what the classifier learns.
        left_out_classes: as `facegan.evaluate.groups.left_out_classes`.
    """

    def __init__(self, shards: str, faces: FaceShards, seed: int) -> None:
        """``faces``: any split of the dataset ``shards``. Raises SettingsError if there is nothing to compare."""
        self._seed = seed
        if not (names := faces.attributes().column_names):  # before other splits are opened
            raise SettingsError(f"--groups needs attributes. Add some with: facegan annotate {shards} FILE")
        split = "train" if "train" in faces.splits else faces.split
        others = [name for name in faces.splits if name != split]
        self._parts = [FaceShards(shards, name, cache="off") for name in (split, *others)]
        counts = [len(part) for part in self._parts]
        numbers = np.random.default_rng(seed).permutation(sum(counts))
        is_held_out = numbers >= counts[0] if others else np.arange(len(numbers)) % _HELD_OUT == 0
        self._trained = np.sort(numbers[~is_held_out][:_MOST_TRAINED])
        self._held_out = numbers[is_held_out][:_MOST_HELD_OUT]
        table = pa.concat_tables(_joined(part.attributes(), part.measures(_MEASURES)) for part in self._parts)
        train, self._count = table.slice(0, counts[0]), counts[0]
        self.heads = heads_of(train)
        self.left_out_classes = left_out_classes(train, self.heads)
        self._labels = np.array([head.labels(table) for head in self.heads], bool).reshape(-1, len(table)).T
        check_heads(names, self._labels[self._held_out])

    @property
    def counts(self) -> dict[str, int]:
        """Faces that the classifier learns from, and held-out ones."""
        return {"trained": len(self._trained), "held_out": len(self._held_out)}

    def read(self, numbers: NDArray[np.int64]) -> Tensor:
        """uint8 (n, C, S, S), by number through all splits."""
        first = self._parts[0]
        out = np.empty((len(numbers), first.size, first.size, first.channels), np.uint8)
        start = 0
        for part in self._parts:
            rows = np.flatnonzero((numbers >= start) & (numbers < start + len(part)))
            part.read(numbers[rows] - start, out, rows)
            start += len(part)
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def audit(
        self, samples: Tensor, asked: Mapping[str, Sequence[int]], cache: FeatureCache, console: Console
    ) -> tuple[Audit, NDArray[np.uint8] | None]:
        """Compare samples, uint8 (M, C, S, S), with the faces.

        ``asked``: of a conditional generator the values of each attribute, as `facegan.nets.Condition.values_of`.

        Returns:
            The audit, and a picture with a row per missed group: faces of it, and their nearest samples; None if none.
        """
        state, faces, labels = self.classifier(cache, console), self.read(self._held_out), self._labels[self._held_out]
        held_out, ours = (Classified(*attribute_scores(state, images)) for images in (faces, samples))
        kinds = {"binary": np.greater, "class": np.equal}
        ours = ours._replace(
            drawn={
                head.name: kinds[head.kind](asked[head.column], head.value or 0)
                for head in self.heads
                if head.column in asked and head.kind in kinds
            }
        )
        found = audit(self.heads, self._labels[: self._count], labels, held_out, ours, self._seed)
        rows = list[list[Tensor]]()
        for group in found.missed[:_SHOWN_GROUPS]:
            members = np.flatnonzero(group.members(self.heads, labels))[:_SHOWN_FACES]
            _, near = nearest(held_out.features[members], ours.features)
            rows.append([faces[torch.from_numpy(members)], samples[torch.from_numpy(near[:, 0])]])
        return found, sheet(rows, len(rows), ("real faces", "their nearest samples")) if rows else None

    def classifier(self, cache: FeatureCache, console: Console) -> dict[str, Tensor]:
        """Trained once for these faces and attributes; see `facegan.evaluate.attribute_net`."""
        labels = self._labels[self._trained]
        digest = hashlib.sha256(labels.tobytes() + repr(self.heads).encode()).hexdigest()
        key = {**ABOUT, "faces": [part.content_key for part in self._parts], "labels": digest, "seed": self._seed}

        def train() -> dict[str, NDArray[Any]]:
            console.note(f"Attributes: a classifier learns {len(self.heads)} from {len(labels):,} faces, once.")
            state = train_attributes(
                lambda rows: self.read(self._trained[rows]),
                labels,
                self._parts[0].size,
                self._parts[0].channels,
                self._seed,
            )
            return {name: tensor.numpy() for name, tensor in state.items()}

        return {name: torch.from_numpy(array) for name, array in cache.get("attribute-net", key, train).items()}


def _joined(attributes: pa.Table, measures: pa.Table) -> pa.Table:
    for name in measures.column_names:
        attributes = attributes.append_column(name, measures[name])
    return attributes
