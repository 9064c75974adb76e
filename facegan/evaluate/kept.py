"""What was computed of real faces, kept in the user's cache: they are the same for all that is measured.

A file is named by all that its numbers hang on, and holds arrays (safetensors) and their checksum. One that does not
match it is computed again. Of more than 2 GB the least used go.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facegan.errors import DiskError
from facegan.files import make_folder, read_cached, user_cache, write_cached

Arrays = Mapping[str, NDArray[Any]]
FORMAT = 2
_MOST_BYTES = 2_000_000_000


class Kept:
    """Arrays of real faces by what they are of.

    Args:
        faces: all that tells these faces from others: dataset, split, how many, which.

    Attributes:
        found: names of what was there already.
    """

    def __init__(self, faces: Mapping[str, Any]) -> None:
        self.faces, self.folder = dict(faces), user_cache("real-features")
        self.found: list[str] = []

    def get(self, name: str, key: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
        """What was kept of ``name`` and ``key`` (all but the faces that the numbers hang on); else computed, and kept.

        A disk that is full or may not be written costs nothing but the time of the next run.
        """
        from safetensors.numpy import load, save

        told = {"format": FORMAT, "facegan": metadata.version("facegan"), "faces": self.faces, "key": dict(key)}
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        path = self.folder / f"{name}-{digest[:40]}.safetensors"
        data = read_cached(path)
        if data is None:
            arrays = compute()
            with contextlib.suppress(DiskError, OSError):
                make_folder(self.folder)
                write_cached(path, save({part: np.ascontiguousarray(array) for part, array in arrays.items()}))
                self._thin_out(path)
            return arrays
        with contextlib.suppress(OSError):
            os.utime(path)
        self.found.append(name)
        return load(data)

    def _thin_out(self, newest: Path) -> None:
        files = sorted(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime, reverse=True)
        total = 0
        for path in files:
            total += path.stat().st_size
            if total > _MOST_BYTES and path != newest:
                path.unlink(missing_ok=True)
