"""Which latents are drawn: of one seed, one of each seed, or those of a file.

N latents, Z length of a latent.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from facegan.config import SampleConfig
from facegan.errors import DamagedFile, SettingsError
from facegan.files import parsing, read_tensors
from facegan.nets import NetSpec
from facegan.train.grid import sample_latents

_SUFFIXES = (".npy", ".npz", ".safetensors")
_MOST_BYTES = 8 << 30
_ENTRY = "latents"  # of files that hold several arrays


class Latents(Protocol):
    """Latents by number; what stands at a number does not hang on what else is asked for."""

    def __len__(self) -> int: ...

    def rows(self, first: int, count: int) -> Tensor:
        """float32 (count, Z) on the CPU."""
        ...

    def name(self, number: int) -> str:
        """What the image of a number is called."""
        ...


@dataclass(frozen=True)
class OfSeed:
    seed: int
    count: int
    spec: NetSpec

    def __len__(self) -> int:
        return self.count

    def rows(self, first: int, count: int) -> Tensor:
        return sample_latents(count, self.spec.latent, self.seed, first, self.spec.law)

    def name(self, number: int) -> str:
        return f"sample-{number:06d}"


@dataclass(frozen=True)
class OfSeeds:
    """Each the first latent of its seed."""

    seeds: tuple[int, ...]
    spec: NetSpec

    def __len__(self) -> int:
        return len(self.seeds)

    def rows(self, first: int, count: int) -> Tensor:
        seeds = self.seeds[first : first + count]
        return torch.cat([sample_latents(1, self.spec.latent, seed, law=self.spec.law) for seed in seeds])

    def name(self, number: int) -> str:
        """Seeds may stand several times, so the number is told as well."""
        return f"sample-{number:06d}-seed-{self.seeds[number]}"


@dataclass(frozen=True)
class OfFile:
    all: Tensor  # (N, Z)

    def __len__(self) -> int:
        return len(self.all)

    def rows(self, first: int, count: int) -> Tensor:
        return self.all[first : first + count]

    def name(self, number: int) -> str:
        return f"sample-{number:06d}"


def latents_of(config: SampleConfig, spec: NetSpec, n: int) -> Latents:
    """The latents that settings choose for a generator.

    Args:
        n: how many, where the settings do not say.

    Raises:
        SettingsError: a file of latents is missing, can't be read, or does not fit the generator.
    """
    if config.seeds:
        return OfSeeds(config.seed_list, spec)
    if not config.latents:
        return OfSeed(config.seed, config.n or n, spec)
    latents = read_latents(Path(config.latents), spec.latent)
    if config.n and config.n > len(latents):
        raise SettingsError(
            f"--n {config.n:,}: {config.latents} holds {len(latents):,} latents. Leave --n out for all."
        )
    return OfFile(latents[: config.n])


def read_latents(path: Path, length: int) -> Tensor:
    """float32 (N, Z) of a file: one array, or the one that is called ``latents``. Nothing pickled is read.

    Raises:
        SettingsError: it can't be read, or is no finite float array (N, ``length``) with N from 1 up.
    """
    if path.suffix not in _SUFFIXES:
        raise SettingsError(f"--latents {path}: name a file that ends in {', '.join(_SUFFIXES[:2])} or {_SUFFIXES[2]}.")
    if not path.is_file():
        raise SettingsError(f"--latents {path}: there is no such file.")
    try:
        with parsing(path):
            arrays = _arrays(path)
    except DamagedFile as error:
        raise SettingsError(
            f"--latents {path} can't be read ({error.why}).\nWrite it with numpy.save or safetensors, as plain numbers."
        ) from None
    found = arrays.get(_ENTRY) if len(arrays) != 1 else next(iter(arrays.values()))
    if found is None:
        raise SettingsError(f"--latents {path} holds {len(arrays)} arrays: call one of them '{_ENTRY}'.")
    shape = "×".join(map(str, found.shape)) or "one number"
    if found.ndim != 2 or found.shape[1] != length or not len(found) or found.dtype.kind != "f":
        raise SettingsError(
            f"--latents {path} holds {found.dtype} of {shape}: this generator takes float32 (N, {length})."
        )
    with np.errstate(over="ignore"):  # what float32 can't hold is told below
        numbers = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(numbers).all():
        row = int(np.flatnonzero(~np.isfinite(numbers).all(1))[0])
        raise SettingsError(f"--latents {path}: row {row} has numbers that are not finite in float32.")
    return torch.from_numpy(numbers.copy())


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header can't ask for all memory
        if array.nbytes > _MOST_BYTES:  # nor can a file that is mostly holes
            raise ValueError("it holds more than 8 GiB")
        return {_ENTRY: array}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
                raise ValueError("it unpacks to more than 8 GiB")
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    return read_tensors(path, "np")[0]
