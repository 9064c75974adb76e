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

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facegan.errors import ModelError
from facegan.evaluate.fid import frechet_distance, statistics
from facegan.faces.detect import KEYPOINTS, MediaPipeDetector, resolve_model
from facegan.manifests import known_models

MODEL, MIN_SCORE = "short", 0.5  # prep's
_GREY = 128
_PERCENT = 100


def find_faces(images: Tensor) -> NDArray[np.float32]:
    """uint8 (N, C, S, S) on the CPU → float32 (N, 6, 2): x and y of `facegan.faces.detect.KEYPOINTS`, from (0, 0) at an
    image's top left corner to (1, 1) at its bottom right corner; NaN for images with no face or several.

    Raises:
        ModelError: mediapipe is not installed, or the model is unavailable or has another checksum.
    """
    model = resolve_model(known_models()[MODEL])
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
        return np.concatenate(list(pool.map(_keypoints, detectors, parts)))


def _keypoints(detector: MediaPipeDetector, images: Tensor) -> NDArray[np.float32]:
    side = images.shape[-1]
    half, found = side // 2, np.full((len(images), len(KEYPOINTS), 2), np.nan, np.float32)
    for image, keypoints in zip(images, found, strict=True):
        framed = np.full((2 * side, 2 * side, 3), _GREY, np.uint8)
        framed[half : half + side, half : half + side] = image.permute(1, 2, 0).numpy()
        faces = detector.detect(framed, MIN_SCORE)
        if len(faces) == 1:
            keypoints[:] = np.array(faces[0].keypoints) / side - 0.5
    return found


def with_one_face(keypoints: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, 6, 2): those of the images with exactly one face."""
    return keypoints[~np.isnan(keypoints[:, 0, 0])]


def keypoint_distance(found: NDArray[np.float32], real: NDArray[np.float32]) -> float:
    """The 2-Wasserstein distance of the Gaussians that fit two sets of faces' twelve coordinates, (n, 6, 2) each with
    n > 1, in percent of the width.

    It is the root of the Fréchet distance, so a length: all keypoints moved by 1 % of the width are √6 away. It detects
    faces in other positions or poses, and faces that are all alike.
    """
    ours, theirs = (statistics(_PERCENT * each.reshape(-1, 2 * len(KEYPOINTS))) for each in (found, real))
    return frechet_distance(ours, theirs) ** 0.5
