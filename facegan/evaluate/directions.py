"""Directions in a generator's latents along which its faces gain an attribute.

Shen et al. 2020, "Interpreting the Latent Space of GANs for Semantic Face Editing" (InterFaceGAN, arXiv:2005.10635): an
attribute's boundary in the latents is about a hyperplane, and its normal is the direction. They fit a support vector
machine to the most and least sure samples. Here it is least squares of the logits that
`facegan.evaluate.attribute_classifier` gives, which needs no setting and no threshold: with Z the centred latents
(N, Z) and Y the centred logits (N, A)

    W = (ZᵀZ)⁻¹ ZᵀY,   direction a = column a of W, of length 1

which for normal latents is the mean gradient of the logit (Stein 1981), however crooked the boundary is.

The effect is measured on other samples: the change of the corrected share (`facegan.evaluate.groups`) of attribute b
from one standard deviation before each sample to one behind it along direction a, halved: −0.5 … 0.5.

N samples, A attributes, Z length of a latent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.config import DirectionsConfig, EvalConfig
from facegan.console import shown
from facegan.errors import SettingsError
from facegan.evaluate.attribute_classifier import LabelledFaces, attribute_scores
from facegan.evaluate.groups import Audit, Head
from facegan.evaluate.reference import ReferenceFaces, open_split
from facegan.files import sha256_file
from facegan.nets import Generator, NetSpec
from facegan.nets.random import deviation, inside
from facegan.nets.weights import read_generator
from facegan.sample.directions import Directions
from facegan.sample.generate import SampleRequest, images_of, tile
from facegan.sample.interpolate import caption
from facegan.sample.latents import sample_inputs
from facegan.stream import FaceShards

_FRESH = 500  # samples on which effects are measured
_BATCH = 250
_CERTAIN = 1e-3  # probabilities nearer to 0 and 1 count as this near: a few logits must not decide
_SHOWN, _FACES, _SHOWN_STEPS = 8, 3, (-2, 0, 2)  # of the picture: directions, faces of each, steps


@dataclass(frozen=True)
class FoundDirections:
    """
    Attributes:
        directions: the strongest first.
        accuracy: of the classifier, balanced, by name.
        left_out: names of the attributes that it cannot tell, by the reason.
        picture: uint8 (H, W, C), the strongest directions: each in a row, faces before, at and behind samples.
    """

    directions: Directions
    accuracy: dict[str, float]
    left_out: dict[str, list[str]]
    picture: NDArray[np.uint8]

    def to_json(self) -> dict[str, Any]:
        names, effects = self.directions.names, self.directions.effects.tolist()
        rows = [
            {
                "name": name,
                "effect": row[i],
                "accuracy": self.accuracy[name],
                "effects": dict(zip(names, row, strict=True)),
            }
            for i, (name, row) in enumerate(zip(names, effects, strict=True))
        ]
        return {"directions": rows, "left_out": self.left_out}

    def rows(self) -> list[list[str]]:
        """Name, effect, the three largest effects on others."""
        rows = []
        for found in self.to_json()["directions"]:
            others = sorted(found["effects"].items(), key=lambda item: -abs(item[1]))
            texts = [f"{shown(name)} {effect:+.2f}" for name, effect in others if name != found["name"]]
            rows.append([shown(found["name"]), f"{found['effect']:+.2f}", ", ".join(texts[:3])])
        return rows


def labelled_faces(run: Path, spec: NetSpec, shards: str, config: DirectionsConfig) -> tuple[FaceShards, LabelledFaces]:
    """Faces of ``shards``, and their attributes. Raises SettingsError if there are none, too few or of another size."""
    real = open_split(shards, "auto")
    if (real.size, real.channels) != (spec.size, spec.channels):
        raise SettingsError(
            f"{run} draws {spec.size}×{spec.size} in {spec.channels} channels, but the faces of {shards} are "
            f"{real.size}×{real.size} in {real.channels}.\nName the faces that it was trained on with --shards."
        )
    return real, LabelledFaces(shards, real, config.seed, "facegan directions")


def find_directions(request: SampleRequest, shards: str, config: DirectionsConfig) -> FoundDirections:
    """The directions of a generator, by the attributes of ``shards``.

    Raises:
        SettingsError: as `labelled_faces`; or the classifier can tell no attribute.
    """
    file, _, spec = read_generator(request.run)
    real, faces = labelled_faces(request.run, spec, shards, config)
    digest = sha256_file(file)  # now: a training may replace the file meanwhile
    generator, console = request.load(), request.console
    classifier = faces.measured(
        ReferenceFaces(real, EvalConfig.default("n"), config.seed).cache, console
    )  # as eval has it
    names = {_name(head): number for number, head in enumerate(faces.heads) if head.name in classifier.accuracy}
    names.pop("", None)
    left_out = Audit((), left_out=classifier.left_out).reasons
    if not names:
        raise SettingsError(f"The classifier can tell no attribute of {shards}: there are no directions to find.")
    heads = list(names.values())
    with console.progress(config.n + 2 * len(names) * _FRESH, "samples") as progress:

        def score(inputs: Tensor) -> NDArray[np.float64]:
            """Probabilities (N, A)."""
            scores = list[NDArray[np.float64]]()
            for block in inputs.split(_BATCH):
                scores.append(
                    attribute_scores(classifier.state, images_of(generator, block))[0][:, heads].astype(float)
                )
                progress.advance(len(block))
            return np.concatenate(scores)

        inputs = sample_inputs(spec, config.n, config.seed)
        scores = score(inputs).clip(_CERTAIN, 1 - _CERTAIN)
        normals = fit_directions(inputs[:, : spec.latent].double().numpy(), np.log(scores / (1 - scores)))
        steps = torch.from_numpy(normals * deviation(spec.distribution)).float()
        fresh = sample_inputs(spec, _FRESH, config.seed, config.n)

        def moved(inputs: Tensor, step: Tensor) -> Tensor:
            z, codes = inputs.tensor_split([spec.latent], 1)
            return torch.cat([inside(z + step, spec.distribution), codes], 1)

        without, having = np.array([classifier.means[faces.heads[head].name] for head in heads]).T

        def shares(step: Tensor) -> NDArray[np.float64]:
            return ((score(moved(fresh, step)).mean(0) - without) / (having - without)).clip(0, 1)

        effects = np.stack([(shares(step) - shares(-step)) / 2 for step in steps])
    order = np.argsort(-effects.diagonal(), kind="stable")
    ordered = [list(names)[number] for number in order]
    directions = Directions(tuple(ordered), steps[order], torch.from_numpy(effects[order][:, order]).float(), digest)
    accuracy = {name: classifier.accuracy[faces.heads[names[name]].name] for name in ordered}
    return FoundDirections(directions, accuracy, left_out, _picture(generator, directions, fresh[:_FACES], moved))


def fit_directions(latents: NDArray[np.float64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of length 1, (A, Z), from latents (N, Z) and logits (N, A): see the top."""
    fitted = np.linalg.lstsq(latents - latents.mean(0), logits - logits.mean(0))[0].T
    return fitted / np.linalg.norm(fitted, axis=1, keepdims=True).clip(1e-30)


def _name(head: Head) -> str:
    """Of a direction: the attribute; for a number, such as yaw, its highest fifth. "" for those that have none."""
    name = head.column if head.kind.startswith("highest") else head.name if head.kind in ("binary", "class") else ""
    return "" if "," in name else name  # separates moves


def _picture(
    generator: Generator, found: Directions, inputs: Tensor, moved: Callable[[Tensor, Tensor], Tensor]
) -> NDArray[np.uint8]:
    rows = list[NDArray[np.uint8]]()
    for name, step in zip(found.names[:_SHOWN], found.steps, strict=False):
        drawn = images_of(generator, torch.cat([moved(inputs, times * step) for times in _SHOWN_STEPS]))
        by_face = drawn.unflatten(0, (len(_SHOWN_STEPS), len(inputs))).transpose(0, 1).flatten(0, 1)
        pictures = tile(by_face.permute(0, 2, 3, 1).numpy(), len(by_face))
        rows.append(np.hstack([caption(f"{name:.20}", 140, len(pictures), pictures.shape[2]), pictures]))
    return np.vstack(rows)
