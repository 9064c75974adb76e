"""Photographs that a dataset must not contain: lists of their paths, and what a dataset remembers of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from facegan.errors import SettingsError
from facegan.files import parsing, write_json
from facegan.shards.format import STATE_FOLDER

_NAME = "suppressed.json"
SUPPRESSED_FILE = f"{STATE_FOLDER}/{_NAME}"
_ADVICE = "It keeps photographs out of the dataset: restore it; or delete it, and name them all with --exclude."


def read_paths(file: str | Path, option: str) -> frozenset[str]:
    """The paths in a file, one a line; raises SettingsError if it cannot be read."""
    try:
        return frozenset(Path(file).read_text(encoding="utf-8-sig").split("\n")) - {""}
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise SettingsError(f"{option} {file} cannot be read ({why}). Write one path a line, in UTF-8.") from None


@dataclass(frozen=True)
class Suppression:
    """Salted SHA-256 digests of the paths of photographs that were left out or taken out of a dataset, and of the
    fingerprints that it had with their faces."""

    salt: str
    digests: frozenset[str] = frozenset()

    @classmethod
    def read(cls, out: Path) -> Suppression:
        """That of the dataset in ``out``; empty if it has none. Raises DamagedFile."""
        path = out / SUPPRESSED_FILE
        if not path.is_file():
            return cls(os.urandom(16).hex())
        with parsing(path, _ADVICE):
            return TypeAdapter(cls).validate_json(path.read_bytes())

    def __len__(self) -> int:
        return len(self.digests)

    def __contains__(self, text: str) -> bool:
        return self._digest(text) in self.digests

    def adding(self, texts: Iterable[str]) -> Suppression:
        return Suppression(self.salt, self.digests.union(map(self._digest, texts)))

    def write(self, folder: Path) -> None:
        write_json(folder / _NAME, {"salt": self.salt, "digests": sorted(self.digests)})

    def _digest(self, text: str) -> str:
        return hashlib.sha256(f"{self.salt}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
