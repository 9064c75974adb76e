"""Losses, steps, the loop, checkpoints and the run's log: faces to a generator.

The room can itself be called: ``facegan.train(config, faces, run)`` is `facegan.train.run.train`, and
``facegan.train.rounds.losses`` is still a module.
"""

from __future__ import annotations

import sys
import types
from typing import Any

from facegan.train.faces import Batches, Faces
from facegan.train.grid import grid, sample_images, save_png
from facegan.train.rounds.losses import Loss
from facegan.train.run import TrainResult, plan_train, train

__all__ = ["Batches", "Faces", "Loss", "TrainResult", "grid", "plan_train", "sample_images", "save_png", "train"]


class _CallableRoom(types.ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> TrainResult:
        return train(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableRoom
