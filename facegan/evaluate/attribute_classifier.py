"""A classifier of faces by attributes, learnt from a dataset in seconds: a linear model of edges and colours.

Each image gets the probability of every attribute. Samples of a generator have no labels; how often the classifier errs
on held-out real faces is measured, so that `facegan.evaluate.groups` can correct for it.

On CelebA at 32×32 (6,416 faces) it tells glasses better than a small convolutional net did after three minutes
(balanced accuracy 0.875 for 0.797), and few faces are enough: edges of faces that are cropped alike need not be learnt.

N images, C channels, S side, F features, A attributes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.evaluate.groups import Audit, Classified, audit, check_heads, heads_of, left_out_classes, recognised_heads
from facegan.evaluate.manifold import nearest
from facegan.evaluate.memorization import sheet
from facegan.evaluate.reference import FeatureCache
from facegan.stream import FaceShards

_CELLS, _ORIENTATIONS, _COLOURS = 8, 9, 16  # cells a side; directions of edges; side of the image for colours
_PENALTIES = (0.3, 1.0, 3.0, 10.0)  # of the squared weights; features are of length 1.4 or so
_NEWTON_STEPS = 50
ABOUT = {"classifier": "facegan-attributes-2", "cells": _CELLS, "orientations": _ORIENTATIONS, "colours": _COLOURS}


def edges_and_colours(images: Tensor) -> NDArray[np.float32]:
    """uint8 (N, C, S, S) → (N, F): histograms of oriented gradients (Dalal & Triggs 2005) in 8×8 cells, of the image at
    64×64, or at 32×32 if it is smaller; and its colours at 16×16. Both parts have a squared length of about 1."""
    side = 64 if images.shape[-1] >= 64 else 32
    cell = side // _CELLS
    histograms = cv2.HOGDescriptor((side, side), (2 * cell, 2 * cell), (cell, cell), (cell, cell), _ORIENTATIONS)
    rows = list[NDArray[np.float32]]()
    for image in images.permute(0, 2, 3, 1).numpy():
        face = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)
        colours = cv2.resize(face, (_COLOURS, _COLOURS), interpolation=cv2.INTER_AREA).reshape(-1) / np.float32(255)
        edges = np.ravel(histograms.compute(face)) / np.float32(_CELLS - 1)  # (_CELLS − 1)² blocks of length 1
        rows.append(np.concatenate([edges, (colours - np.float32(0.5)) * np.float32(4 / len(colours) ** 0.5)]))
    return np.stack(rows)


def learn_attributes(features: NDArray[np.float32], labels: NDArray[np.bool_]) -> dict[str, NDArray[np.float32]]:
    """``weights`` (F, A) and ``bias`` (A,) of the logits of ``labels``, (N, A).

    Ridge regression of the labels (Hoerl & Kennard 1970), with the penalty whose leave-one-out errors are least: for a
    face of residual e and leverage h that error is e / (1 − h) (Allen 1974, "The relationship between variable
    selection and data augmentation and a method for prediction"). The leave-one-out predictions are then calibrated to
    probabilities (Platt 1999, "Probabilistic outputs for support vector machines").
    """
    shares, centre = labels.mean(axis=0), features.mean(axis=0)
    x, y = features - centre, (labels - shares).astype(np.float32)
    dual = len(x) <= x.shape[1]  # the smaller of two equal systems: (X'X + λ)⁻¹X' = X'(XX' + λ)⁻¹
    products, best, weights, left_out = (x @ x.T if dual else x.T @ x).astype(np.float64), np.inf, x[:0], y
    for penalty in _PENALTIES:
        inverse = np.linalg.inv(products + penalty * np.eye(len(products))).astype(np.float32)
        if dual:
            residuals, kept = penalty * (inverse @ y), penalty * np.diagonal(inverse)
            found = x.T @ residuals / np.float32(penalty)
        else:
            found = inverse @ (x.T @ y)
            residuals, kept = y - x @ found, 1 - ((x @ inverse) * x).sum(axis=1)
        errors = residuals / np.maximum(kept - 1 / len(x), 1e-3)[:, None]
        error = float((errors**2 / np.maximum(shares * (1 - shares), 1e-6)).mean())
        if error < best:
            best, weights, left_out = error, found, y - errors
    slope, offset = _calibrated(left_out, labels)
    weights = weights * slope
    return {"weights": weights.astype(np.float32), "bias": (offset - centre @ weights).astype(np.float32)}


def _calibrated(values: NDArray[Any], labels: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slopes and offsets (A,) of the logits, by Newton's method on the likelihood; values and labels (N, A).

    Targets a little inside of 0 … 1, as Platt's, keep the slope finite where the values separate the labels."""
    counts = labels.sum(axis=0)
    targets = np.where(labels, (counts + 1) / (counts + 2), 1 / (len(labels) - counts + 2))
    scale = values.std(axis=0) + 1e-12
    x = values / scale
    slope, offset = np.ones(x.shape[1]), np.log((counts + 1) / (len(labels) - counts + 1))
    for _ in range(_NEWTON_STEPS):
        p = 1 / (1 + np.exp(-(slope * x + offset)))
        errors, spread = targets - p, p * (1 - p) + 1e-9
        a, b, c = (spread * x * x).sum(axis=0), (spread * x).sum(axis=0), spread.sum(axis=0)
        first, second = (errors * x).sum(axis=0), errors.sum(axis=0)
        determinant = np.maximum(a * c - b * b, 1e-30)  # 0 if the values are all the same
        slope = slope + np.clip((c * first - b * second) / determinant, -1, 1)
        offset = offset + np.clip((a * second - b * first) / determinant, -1, 1)
    return slope / scale, offset


def attribute_scores(
    state: Mapping[str, NDArray[np.float32]], images: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Probabilities (N, A) and features (N, F) of uint8 (N, C, S, S)."""
    features = edges_and_colours(images)
    logits = features @ state["weights"] + state["bias"]
    scores = 1 / (1 + np.exp(-logits.clip(-80)))  # float32 ends at e⁸⁸
    return scores.astype(np.float32), features


# The faces that it learns from, and those that it is judged by.

_MEASURES = ("yaw", "brightness", "sharpness", "side")  # of detections.parquet
_MOST_TRAINED, _MOST_HELD_OUT = 20_000, 10_000  # faces
_HELD_OUT = 5  # without another split every fifth face
_SHOWN_GROUPS, _SHOWN_FACES = 8, 6  # in the picture
_BLOCK = 1_000  # faces read at once


class MeasuredClassifier(NamedTuple):
    """A classifier, the attributes that it recognises in held-out faces and the others
    (`facegan.evaluate.groups.recognised_heads`), and its mean probabilities of faces without and with each attribute:
    m₀ and m₁ of `facegan.evaluate.groups`."""

    state: Mapping[str, NDArray[np.float32]]
    accuracy: dict[str, float]
    left_out: dict[str, float | None]
    means: dict[str, tuple[float, float]]


class LabelledFaces:
    """The faces of the split train with their attributes, and those of the other splits, which are held out; if there
    is one split, a fifth of it is held out.

    Attributes:
        heads: what the classifier learns.
        left_out_classes: as `facegan.evaluate.groups.left_out_classes`.
    """

    def __init__(self, shards: str, faces: FaceShards, seed: int, asked: str = "--groups") -> None:
        """``faces``: any split of the dataset ``shards``; ``asked``: what needs them, for errors.

        Raises SettingsError if there is nothing to compare.
        """
        self._seed = seed
        if not (names := faces.attributes().column_names):  # before other splits are opened
            raise SettingsError(f"{asked} needs attributes. Add some with: facegan annotate {shards} FILE")
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
        check_heads(names, self._labels[self._held_out], asked)

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

    def measured(self, cache: FeatureCache, console: Console) -> MeasuredClassifier:
        """The classifier, measured on the held-out faces."""
        state, labels = self.classifier(cache, console), self._labels[self._held_out]
        scores, _ = attribute_scores(state, self.read(self._held_out))
        accuracy, left_out = recognised_heads(self.heads, self._labels[: self._count], labels, scores)
        means = {
            head.name: (float(scores[~inside, number].mean()), float(scores[inside, number].mean()))
            for number, (head, inside) in enumerate(zip(self.heads, labels.T, strict=True))
            if head.name in accuracy
        }
        return MeasuredClassifier(state, accuracy, left_out, means)

    def classifier(self, cache: FeatureCache, console: Console) -> Mapping[str, NDArray[np.float32]]:
        """Learnt once for these faces and attributes; see `learn_attributes`."""
        labels = self._labels[self._trained]
        digest = hashlib.sha256(labels.tobytes() + repr(self.heads).encode()).hexdigest()
        key = {**ABOUT, "faces": [part.content_key for part in self._parts], "labels": digest, "seed": self._seed}

        def learn() -> dict[str, NDArray[np.float32]]:
            console.note(f"Attributes: a classifier learns {len(self.heads)} from {len(labels):,} faces, once.")
            blocks = np.array_split(self._trained, -(-len(labels) // _BLOCK))
            return learn_attributes(np.concatenate([edges_and_colours(self.read(block)) for block in blocks]), labels)

        return cache.get("attribute-classifier", key, learn)


def _joined(attributes: pa.Table, measures: pa.Table) -> pa.Table:
    for name in measures.column_names:
        attributes = attributes.append_column(name, measures[name])
    return attributes
