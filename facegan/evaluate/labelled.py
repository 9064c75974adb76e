"""Faces whose attributes are known: those that a classifier learns from, and those that it is judged by."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.console import Console
from facegan.evaluate.attribute_net import ABOUT, attribute_scores, train_attributes
from facegan.evaluate.groups import Audit, Classified, Head, audit, heads_of
from facegan.evaluate.manifold import nearest
from facegan.evaluate.memorization import sheet
from facegan.evaluate.reference import FeatureCache
from facegan.stream import FaceShards

_MEASURES = ("yaw", "brightness", "sharpness", "side")  # of detections.parquet
_MOST_TRAINED, _MOST_HELD_OUT = 20_000, 10_000  # faces
_HELD_OUT = 5  # without another split every fifth face
_SHOWN_GROUPS, _SHOWN_FACES = 8, 6  # in the picture


class LabelledFaces:
    """The faces of the split train with their attributes, and those of the other splits, which are held out; if there
    is one split, a fifth of it is held out.

    Attributes:
        heads: what a classifier can learn; empty if the dataset has no attributes.
    """

    def __init__(self, shards: str, faces: FaceShards, seed: int) -> None:
        """
        Args:
            faces: any split of the dataset ``shards``.
        """
        self._seed = seed
        split = "train" if "train" in faces.splits else faces.split
        others = [name for name in faces.splits if name != split]
        self._parts = [FaceShards(shards, name, cache="off") for name in (split, *others)]
        counts = [len(part) for part in self._parts]
        numbers = np.random.default_rng(seed).permutation(sum(counts))
        is_held_out = numbers >= counts[0] if others else np.arange(len(numbers)) % _HELD_OUT == 0
        self._trained = np.sort(numbers[~is_held_out][:_MOST_TRAINED])
        self._held_out = numbers[is_held_out][:_MOST_HELD_OUT]
        attributes = [part.attributes() for part in self._parts]
        self.heads: list[Head] = []
        if not attributes[0].column_names:
            return
        tables = [_joined(table, part.measures(_MEASURES)) for table, part in zip(attributes, self._parts, strict=True)]
        table = pa.concat_tables(tables)
        self.heads = heads_of(table.slice(0, counts[0]))
        self._labels = np.array([head.labels(table) for head in self.heads], bool).T
        self._count = counts[0]

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

    def audit(self, samples: Tensor, cache: FeatureCache, console: Console) -> tuple[Audit, NDArray[np.uint8] | None]:
        """Compare samples, uint8 (M, C, S, S), with the faces.

        Returns:
            The audit, and a picture with a row per missed group: faces of it, and their nearest samples; None if none.
        """
        state, faces, labels = self.classifier(cache, console), self.read(self._held_out), self._labels[self._held_out]
        held_out, ours = (Classified(*attribute_scores(state, images)) for images in (faces, samples))
        found, rows = audit(self.heads, self._labels[: self._count], labels, held_out, ours), list[list[Tensor]]()
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
