"""From a folder of photographs to a trained face generator.

    facegan prep PHOTOS out/        photographs → faces in WebDataset shards
    facegan train --shards out/     shards → DCGAN, WGAN-GP

``import facegan`` loads nothing heavy: each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from facegan.nets import load_generator
    from facegan.prep.forget import forget
    from facegan.prep.prepare import prepare
    from facegan.stream import FaceShards
    from facegan.training.run import train

__version__ = "0.1.0"

_MODULES = {
    "FaceShards": "facegan.stream",
    "forget": "facegan.prep.forget",
    "load_generator": "facegan.nets",
    "prepare": "facegan.prep.prepare",
    "train": "facegan.training.run",
}
__all__ = ["FaceShards", "__version__", "forget", "load_generator", "prepare", "train"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'facegan' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
