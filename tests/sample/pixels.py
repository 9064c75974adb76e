"""Requests, and images as arrays: drawn by hand, or read from files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facegan.config import SampleConfig
from facegan.nets import load_generator
from facegan.sample import SampleRequest
from facegan.sample.generate import to_uint8


def request(run: Path, **settings: object) -> SampleRequest:
    return SampleRequest(run, SampleConfig.of(settings), "cpu")


def images_of(run: Path, latents: torch.Tensor) -> np.ndarray:
    """uint8 (N, H, W, C), by one pass of the generator."""
    with torch.inference_mode():
        return to_uint8(load_generator(run)(latents)).permute(0, 2, 3, 1).numpy()


def near(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal up to one level: `facegan sample` draws channels last, which may change the last bit of a float."""
    return a.shape == b.shape and int(np.abs(a.astype(int) - b.astype(int)).max()) <= 1


def read_pngs(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.iterdir())])
