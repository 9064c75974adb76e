"""`facegan eval` in this process, torch-fidelity's own program, and images for both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facegan.stream import FaceShards
from tests.recipes.program import facegan


def evaluated(*arguments: object) -> dict[str, Any]:
    """The JSON of a successful `facegan eval`."""
    ended = facegan("eval", *arguments, "--json", "--device", "cpu")
    assert ended.code == 0, ended.stderr
    return json.loads(ended.stdout)


def refused(*arguments: object) -> tuple[int, str]:
    """Exit code, and the error message without the notes before it."""
    ended = facegan("eval", *arguments, "--device", "cpu")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""
    return ended.code, ended.stderr[ended.stderr.index("error: ") :]


def fidelity(samples: Path, real: Path, network: str, weights: Path, *options: str) -> dict[str, float]:
    """torch-fidelity's program on two folders."""
    command = [str(Path(sys.executable).with_name("fidelity")), "--input1", str(samples), "--input2", str(real)]
    command += ["--cpu", "--json", "--silent", "--no-cache", "--save-cpu-ram", "--batch-size", "32"]
    command += ["--feature-extractor", network, "--feature-extractor-weights-path", str(weights)]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=600)
    return json.loads(done.stdout)


def write_faces(folder: Path, shards: Path, split: str, count: int | None = None) -> Path:
    """Faces of a dataset as single PNGs."""
    faces = FaceShards(shards, split, cache="off")
    return write_images(folder, np.stack([faces[i][0] for i in range(count or len(faces))]))


def write_images(folder: Path, images: np.ndarray) -> Path:
    """uint8 (N, H, W, 3), RGB."""
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        cv2.imwrite(str(folder / f"{i:06d}.png"), image[..., ::-1])
    return folder
