"""`facegan eval` in this process, torch-fidelity's own program, and images for both."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facegan.console import Console, Progress
from facegan.nets import load_generator, save_generator
from facegan.stream import FaceShards
from tests.recipes.program import facegan


class BesideTraining(Console):
    """Of a command during which a training saves another generator."""

    def __init__(self, file: Path) -> None:
        super().__init__(quiet=True)
        self.file = file

    @contextlib.contextmanager
    def progress(self, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
        generator = load_generator(self.file, trust_code=True)
        for parameter in generator.parameters():
            parameter.neg_()
        save_generator(self.file, generator)
        with super().progress(total, unit, done) as progress:
            yield progress


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
