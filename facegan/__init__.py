"""From a folder of photographs to a trained face generator.

    facegan prep PHOTOS out/        photographs → faces in WebDataset shards
    facegan train --shards out/     shards → DCGAN, WGAN-GP

``import facegan`` loads nothing heavy: the public names come from their rooms when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facegan.nets import load_generator as load_generator
    from facegan.prep.prepare import prepare as prepare
    from facegan.stream import FaceShards as FaceShards
    from facegan.train import train as train

__version__ = "0.1.0"

_ROOMS = {
    "FaceShards": "facegan.stream",
    "load_generator": "facegan.nets",
    "prepare": "facegan.prep.prepare",
    "train": "facegan.train",
}
__all__ = ["FaceShards", "__version__", "load_generator", "prepare", "train"]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'facegan' has no attribute {name!r}")
    room = importlib.import_module(_ROOMS[name])
    # The room facegan.train can itself be called: a function of its name would hide the modules inside it.
    value = room if _ROOMS[name] == f"facegan.{name}" else getattr(room, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
