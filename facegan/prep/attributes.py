"""``--attributes``: what CelebA's list_attr_celeba.txt says of each photograph goes into its sample's JSON.

The file's first line is the number of photographs, the second names the attributes, and every other one is a
photograph's file name and 1 or −1 for each attribute (Liu et al. 2015, "Deep Learning Face Attributes in the Wild").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import SourceError
from facegan.files import sha256_file

_MOST = 62  # what SQLite's integers hold as bits


@dataclass(frozen=True)
class Attributes:
    """A file of attributes: their names, and the file's SHA-256."""

    path: Path
    names: tuple[str, ...]
    sha256: str

    def rows(self) -> Iterator[tuple[bytes, int]]:
        """File name, and the attributes that it has as bits, the first one lowest.

        Raises:
            SourceError: a line that is none of such a file.
        """
        with self.path.open("rb") as file:
            next(file)
            next(file)
            for number, line in enumerate(file, 3):
                if not line.strip():
                    continue
                name, *values = line.split()
                if len(values) != len(self.names) or set(values) - {b"1", b"-1"}:
                    raise SourceError(f"Line {number} of {self.path} has not {len(self.names)} values of 1 or -1.")
                yield name, sum(1 << i for i, value in enumerate(values) if value == b"1")


def open_attributes(path: Path) -> Attributes:
    """
    Raises:
        SourceError: the file is not there, or is no list of attributes.
    """
    try:
        with path.open("rb") as file:
            count, names = file.readline(1000), file.readline(10_000).decode().split()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} can't be read ({error}). Name CelebA's list_attr_celeba.txt.") from None
    if not count.strip().isdigit() or not 0 < len(names) <= _MOST:
        raise SourceError(f"{path} is no list of attributes. Name CelebA's list_attr_celeba.txt.")
    return Attributes(path, tuple(names), sha256_file(path))


def told(names: tuple[str, ...], bits: int) -> dict[str, int]:
    """1 or −1 by name, as the file has it."""
    return {name: 1 if bits >> i & 1 else -1 for i, name in enumerate(names)}
