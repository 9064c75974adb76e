"""Which latents a generator draws: by seed or from a file, with conditions beside them, truncated and moved.

N images, Z length of a latent, K numbers of a condition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from facegan.config import AttributeChoice, LatentDistribution, SampleConfig
from facegan.console import shown
from facegan.errors import DamagedFile, SettingsError
from facegan.files import parsing, read_tensors
from facegan.nets import NetSpec
from facegan.nets.random import inside, latents

SAMPLES = 64  # if the settings give no number
_LATENT_ARRAY = "latents"  # its name in files with several arrays
_MOST_LATENT_BYTES = 8 << 30


def sample_latents(
    count: int, length: int, seed: int, first: int = 0, distribution: LatentDistribution = "normal"
) -> Tensor:
    """(count, length) on the CPU; row i depends on (seed, first + i) alone, whatever the count or the device."""
    return torch.cat([latents(1, length, seed, "sample", i, "cpu", distribution) for i in range(first, first + count)])


def sample_inputs(spec: NetSpec, count: int, seed: int, first: int = 0) -> Tensor:
    """What a generator maps to samples, (count, Z + K) on the CPU: latents, and beside them conditions as frequent as
    among the training faces. Row i depends on (seed, first + i) alone."""
    return _beside(sample_latents(count, spec.latent, seed, first, spec.distribution), spec, seed, first)


def _beside(z: Tensor, spec: NetSpec, seed: int, first: int) -> Tensor:
    numbers = torch.arange(first, first + len(z))
    return torch.cat([z, spec.condition.draw(seed, "sample", numbers)], 1) if spec.condition else z


def sample_attributes(spec: NetSpec, count: int, seed: int) -> dict[str, list[int]]:
    """The attributes that the first samples of a seed are drawn with, as `facegan.nets.Condition.values_of`, or {}."""
    condition = spec.condition
    return condition.values_of(condition.draw(seed, "sample", torch.arange(count))) if condition else {}


def contrast_inputs(spec: NetSpec, seed: int, columns: int) -> Tensor:
    """For a grid with a row for each of the condition's `contrasts`: the first samples of the seed, the same in each
    row but for that attribute, (rows · columns, Z + K)."""
    inputs, condition = sample_inputs(spec, columns, seed), spec.condition
    if not condition:
        return inputs
    z, codes = inputs.tensor_split([spec.latent], 1)
    rows = [condition.replaced(codes, name, value) for name, value in condition.contrasts().values()]
    return torch.cat([torch.cat([z, row], 1) for row in rows])


@dataclass(frozen=True)
class Latents:
    """Latents by number, with their conditions; ``row`` gives one as float32 (1, Z + K) on the CPU, whatever else is
    drawn."""

    count: int
    row: Callable[[int], Tensor]

    def rows(self, first: int, count: int) -> Tensor:
        return torch.cat([self.row(number) for number in range(first, first + count)])


def make_latents(config: SampleConfig, spec: NetSpec, n: int = SAMPLES, step: Tensor | None = None) -> Latents:
    """The latents that the settings choose, and their conditions; ``n`` of them if the settings give no number.
    ``step``, (Z,), is added to each latent.

    ``config.truncation`` scales them towards 0, their mean. BigGAN (Brock et al. 2019, arXiv:1809.11096) draws
    coordinates beyond a threshold again, which shortens latents as well, but to another face at each threshold. Scaled
    ones keep their direction: a seed shows one face that changes gradually, and so do latents of a file.

    Raises:
        SettingsError: a file of latents is missing, cannot be read, or does not fit the generator; or the generator
            does not know the attributes, or its latents cannot be truncated.
    """
    spec = with_attributes(config, spec)
    chosen = _chosen_latents(config, spec, n)
    if config.truncation == 1 and step is None:
        return chosen
    if config.truncation < 1 and spec.distribution != "normal":
        raise SettingsError(
            f"--truncation {config.truncation:g} needs normal latents, and this generator's are {spec.distribution}. "
            "Leave it out."
        )

    def row(number: int) -> Tensor:
        z, codes = chosen.row(number).tensor_split([spec.latent], 1)
        z = config.truncation * z
        return torch.cat([z if step is None else inside(z + step, spec.distribution), codes], 1)

    return Latents(chosen.count, row)


def _chosen_latents(config: SampleConfig, spec: NetSpec, n: int) -> Latents:
    if seeds := config.seed_list:
        return Latents(len(seeds), lambda i: sample_inputs(spec, 1, seeds[i]))
    if not config.latents:
        return Latents(config.n or n, lambda i: sample_inputs(spec, 1, config.seed, i))
    latents, codes = _read_latents(Path(config.latents), spec)
    if config.n and config.n > len(latents):
        raise SettingsError(
            f"--n {config.n:,}: {config.latents} has only {len(latents):,} latents. Leave out --n to use all of them."
        )
    if codes is None or config.asked.keys() - {"along"}:
        return Latents(config.n or len(latents), lambda i: _beside(latents[i : i + 1], spec, 0, i))
    inputs = torch.cat([latents, codes], 1)
    return Latents(config.n or len(latents), lambda i: inputs[i : i + 1])


def with_attributes(config: AttributeChoice, spec: NetSpec) -> NetSpec:
    """The spec whose conditions have the attributes that the settings ask for; SettingsError if it has none of them."""
    if not config.asked:
        return spec
    name, value = next(iter(config.asked.items()))
    condition, option = spec.condition, f"--{name} {shown(value)}"
    if not condition:
        raise SettingsError(
            f"{option} needs a generator that was trained with --condition, and this one was not. Leave it out."
        )
    if (config.class_ is not None and not condition.classes) or (config.attributes and condition.classes):
        use = f"--class with one of {condition.choices}" if condition.classes else "--with and --without"
        raise SettingsError(f"{option} cannot be used here: the generator knows {condition.kind}. Use {use}.")
    if along := config.asked.get("along"):
        condition.given({along: condition.values[0]})
    classes = {} if config.class_ is None else {condition.names[0]: config.class_}
    return replace(spec, condition=condition.given(config.attributes | classes))


def _read_latents(path: Path, spec: NetSpec) -> tuple[Tensor, Tensor | None]:
    """float32 (N, Z) from a file with one array, or one named ``latents``; and (N, K) if it has a fitting
    ``condition``. Nothing pickled is loaded."""
    length = spec.latent
    try:
        with parsing(path):
            arrays = _read_arrays(path)
    except OSError as error:
        raise SettingsError(f"--latents {path} cannot be read: {error.strerror}.") from None
    except DamagedFile as error:
        raise SettingsError(
            f"--latents {path} cannot be read ({error.why}).\nSave plain numbers with numpy.save or safetensors."
        ) from None
    array = next(iter(arrays.values())) if len(arrays) == 1 else arrays.get(_LATENT_ARRAY)
    if array is None:
        raise SettingsError(f"--latents {path} has {len(arrays)} arrays. Name one of them '{_LATENT_ARRAY}'.")
    if array.ndim != 2 or array.shape[1] != length or not len(array) or array.dtype.kind != "f":
        raise SettingsError(
            f"--latents {path} has {array.dtype} of {array.shape}; this generator needs floats (N, {length})."
        )
    with np.errstate(over="ignore"):  # reported below
        numbers = np.array(array, np.float32, order="C")
    if len(bad := np.flatnonzero(~np.isfinite(numbers).all(1))):
        raise SettingsError(f"--latents {path}: row {bad[0]} has values that are not finite in float32.")
    codes, shape = arrays.get("condition"), (len(numbers), spec.inputs - length)
    if not spec.condition or codes is None or codes.shape != shape or not np.isin(codes, (-1, 0, 1)).all():
        return torch.from_numpy(numbers), None
    return torch.from_numpy(numbers), torch.from_numpy(np.array(codes, np.float32))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".safetensors":
        return read_tensors(path, "np")[0]
    if path.suffix == ".npy":
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # mapped: a header cannot request all memory
        arrays, unpacked_bytes = {_LATENT_ARRAY: array}, array.nbytes  # nor can a sparse file
    elif path.suffix == ".npz":
        arrays = np.load(path, allow_pickle=False)
        unpacked_bytes = sum(entry.file_size for entry in arrays.zip.infolist())
    else:
        raise SettingsError(f"--latents {path}: the file name must end in .npy, .npz or .safetensors.")
    if unpacked_bytes > _MOST_LATENT_BYTES:
        raise ValueError("it has more than 8 GiB")
    return dict(arrays)
