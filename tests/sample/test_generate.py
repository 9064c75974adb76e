"""Samples, grids and PNGs."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from facegan.nets import NetSpec, make_generator
from facegan.sample.generate import grid, sample_images, save_png


def test_samples_do_not_depend_on_count_or_batch() -> None:
    net = make_generator(NetSpec(size=32, width=4, latent=8)).eval()
    few, many = sample_images(net, 3, seed=1), sample_images(net, 10, seed=1, batch=4)
    assert many.shape == (10, 3, 32, 32)
    assert (few.int() - many[:3].int()).abs().max() <= 1  # kernels for other batch sizes may round otherwise


def test_grid_and_png(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    picture = grid(images, columns=3)
    assert picture.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    assert np.array_equal(picture[12:20, 2:10], images[3].permute(1, 2, 0).numpy())
    save_png(tmp_path / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)
    grey = grid(images[:, :1], columns=3)
    assert grey.shape == (22, 32, 1)
    save_png(tmp_path / "grey.png", grey)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grey.png")), grey[..., 0])
