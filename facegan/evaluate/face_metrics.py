"""Whether samples show exactly one face, and whether its keypoints are where those of real faces are.

The detector is that of prep (MediaPipe's BlazeFace, Bazarevsky et al. 2019), independent of how a generator was
trained. It expects a face with its surroundings, so an image gets a grey frame of half its side on each side. A face is
never small in it, so the short-range model suffices: of 250 faces that prep cut from CelebA at 64 px it finds one face
in all 250. (With the image reflected into the frame it finds several in 103 of them, because there are several.)

It is lenient: a blurred face is still a face. It separates faces from images without one or with scattered parts.

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
    """The faces found in a set of images.

    Attributes:
        images: number of images.
        indices: int64 (n,), ascending: the images with exactly one face.
        keypoints: float32 (n, 6, 2): x and y of `facegan.faces.detect.KEYPOINTS`, from (0, 0) at an image's top left
            corner to (1, 1) at its bottom right corner.
    """

    images: int
    indices: NDArray[np.int64]
    keypoints: NDArray[np.float32]

    @property
    def share(self) -> float:
        """The share of images with exactly one face: 0 … 1."""
        return len(self.indices) / self.images


def find_faces(images: Tensor, model: Path | None = None) -> FacesFound:
    """Detect faces in uint8 (N, C, S, S) on the CPU.

    Args:
        model: the short-range model's file; None: found or downloaded as in prep.

    Raises:
        SettingsError: there are no images.
        ModelError: mediapipe is not installed, or the model is unavailable or has another checksum.
    """
    if not len(images):
        raise SettingsError("There are no images to detect faces in.")
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
                detector.load(MIN_SCORE)  # one by one: file descriptor 2 is redirected meanwhile
        except ImportError as error:
            raise ModelError(
                f"Detecting faces in samples needs mediapipe, which cannot be imported ({error}).\n"
                "Install it: pip install mediapipe"
            ) from None
        keypoints = [each for part in pool.map(_keypoints, detectors, parts) for each in part]
    indices = [index for index, points in enumerate(keypoints) if points is not None]
    found = np.array([keypoints[index] for index in indices], np.float32).reshape(-1, len(KEYPOINTS), 2)
    return FacesFound(len(images), np.array(indices, np.int64), found)


def _keypoints(detector: MediaPipeDetector, images: Tensor) -> list[NDArray[np.float64] | None]:
    """The keypoints of each image's face; None for images with no face or several."""
    found = []
    for image in images:
        faces = detector.detect(_framed(image), MIN_SCORE)
        found.append(np.array(faces[0].keypoints) / images.shape[-1] - 0.5 if len(faces) == 1 else None)
    return found


def keypoint_distance(found: FacesFound, real: FacesFound) -> float:
    """The 2-Wasserstein distance of the Gaussians that fit the two sets' twelve coordinates, in percent of the width.

    It is the root of the Fréchet distance, so a length: all keypoints moved by 1 % of the width are √6 away. It detects
    faces in other positions or poses, and faces that are all alike. Infinite with fewer than two faces found.

    Raises:
        SettingsError: fewer than two real faces were found.
    """
    if len(real.indices) < 2:
        raise SettingsError(
            f"Comparing keypoints needs 2 real images with one face; {len(real.indices)} of {real.images:,} have one."
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
