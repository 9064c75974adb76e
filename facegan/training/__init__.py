"""Train a GAN: losses, steps, the loop, checkpoints and the run's log. `facegan.train` is `training.run.train`."""

from __future__ import annotations

from facegan.sample.generate import grid, sample_images, save_png
from facegan.training.losses import Loss
from facegan.training.run import TrainResult, plan_train, train
from facegan.training.trainer import Batches, Faces

__all__ = ["Batches", "Faces", "Loss", "TrainResult", "grid", "plan_train", "sample_images", "save_png", "train"]
