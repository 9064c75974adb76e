"""Whether samples show one face each, and whether its parts are where they are in real ones.

The judge is the detector that prep finds faces with (MediaPipe's BlazeFace, Bazarevsky et al. 2019), which knows
nothing of what a generator was trained with. It expects a face with its surroundings, so an image is set into a grey
frame, half its side wide on each side. In such a frame a face is never small: short range alone is asked. Of 250 faces
that prep cut from CelebA at 64 px it finds one face in all 250; with the image reflected into its frame it finds
several in 103 of them, for there they are.

It is a lenient judge: a blurred face is still one. It tells faces from none, or from parts that lie about.

N images, C channels, S side.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.errors import ModelError, SettingsError
from facegan.evaluate.fid import frechet_distance, statistics
from facegan.faces.detect import KEYPOINTS, MediaPipeDetector, check_model, resolve_model
from facegan.manifests import known_models

MODEL, MIN_SCORE = "short", 0.5  # prep's
_GREY = 128
_PERCENT = 100


@dataclass(frozen=True, eq=False)
class FacesFound:
    """What the detector found in a set of images.

    Attributes:
        images: how many were looked at.
        indices: int64 (n,), rising: those in which exactly one face was found.
        keypoints: float32 (n, 6, 2): its x and y in the order of `facegan.faces.detect.KEYPOINTS`, where an image's
            top left corner is (0, 0) and its bottom right one (1, 1).
    """

    images: int
    indices: NDArray[np.int64]
    keypoints: NDArray[np.float32]

    @property
    def share(self) -> float:
        """0 … 1: of the images, those with exactly one face."""
        return len(self.indices) / self.images


def find_faces(images: Tensor, model: Path | None = None) -> FacesFound:
    """
    Args:
        images: uint8 (N, C, S, S) on the CPU.
        model: the short-range model's file; looked for, and fetched, as prep does if None.

    Raises:
        SettingsError: there are no images.
        ModelError: mediapipe is not installed, or the model can't be had or has another checksum.
    """
    if not len(images):
        raise SettingsError("There are no images to find faces in.")
    known = known_models()[MODEL]
    if model is None:
        model = resolve_model(known)
    elif not model.is_file():
        raise ModelError(f"There is no model {model}. See: facegan models")
    else:
        check_model(model, known)
    parts = images.tensor_split(min(torch.get_num_threads(), len(images)))
    with ExitStack() as stack, ThreadPoolExecutor(len(parts)) as pool:
        detectors = [stack.enter_context(MediaPipeDetector([model])) for _ in parts]
        try:
            for detector in detectors:
                detector.load(MIN_SCORE)  # one after the other: file descriptor 2 is held while a model loads
        except ImportError as error:
            raise ModelError(
                f"Faces can't be looked for in samples: mediapipe can't be loaded ({error}).\n"
                f"Install it: pip install mediapipe"
            ) from None
        keypoints = [each for part in pool.map(_keypoints, detectors, parts) for each in part]
    indices = [index for index, points in enumerate(keypoints) if points is not None]
    found = np.array([keypoints[index] for index in indices], np.float32).reshape(-1, len(KEYPOINTS), 2)
    return FacesFound(len(images), np.array(indices, np.int64), found)


def _keypoints(detector: MediaPipeDetector, images: Tensor) -> list[NDArray[np.float64] | None]:
    """Of each image those of its one face; None where there is none, or several."""
    found = []
    for image in images:
        faces = detector.detect(_framed(image), MIN_SCORE)
        found.append(np.array(faces[0].keypoints) / images.shape[-1] - 0.5 if len(faces) == 1 else None)
    return found


def keypoint_distance(found: FacesFound, real: FacesFound) -> float:
    """How far keypoints are from where real ones are: the 2-Wasserstein distance of the Gaussians that fit the two
    sets' twelve coordinates (the root of `facegan.evaluate.fid`'s), in percent of an image's width.

    A length, so that it reads as one: all parts of all faces moved by 1 % of the width are at √6 (each of the six
    keypoints counts). It sees faces in other places or poses, and faces that are all the same; infinite where fewer
    than two faces were found, from which no distribution can be told.

    Raises:
        SettingsError: fewer than two real faces were found.
    """
    if len(real.indices) < 2:
        raise SettingsError(
            f"One face was found in {len(real.indices)} of {real.images:,} real images: "
            f"their keypoints have no distribution to compare with."
        )
    if len(found.indices) < 2:
        return float("inf")
    ours, theirs = (statistics(_PERCENT * each.keypoints.reshape(-1, 2 * len(KEYPOINTS))) for each in (found, real))
    return frechet_distance(ours, theirs) ** 0.5


def _framed(image: Tensor) -> NDArray[np.uint8]:
    """uint8 (C, S, S) → RGB (2S, 2S, 3)."""
    side = image.shape[-1]
    half = side // 2
    framed = np.full((2 * side, 2 * side, 3), _GREY, np.uint8)
    framed[half : half + side, half : half + side] = image.permute(1, 2, 0).numpy()
    return framed
