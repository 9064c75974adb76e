"""A generator as one safetensors file, with its spec in the metadata. Nothing pickled is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from facegan.config import LatentDistribution
from facegan.console import shown
from facegan.errors import CheckpointError, DamagedFile, SettingsError
from facegan.files import parse_json, read_tensors, write_bytes
from facegan.nets.condition import Condition
from facegan.nets.layers import IMAGE_RANGE, Generator, NetSpec
from facegan.nets.registry import make_generator, meta_generator
from facegan.plugins import Trust, is_import_path, refuse_untrusted

FORMAT = 1
FILE_NAME = "generator.safetensors"  # inside a run folder
_FIRST_FIELDS = {"name", "size", "channels", "latent", "width", "norm"}  # later fields of a spec have defaults


def save_generator(path: Path, generator: Generator) -> None:
    """Write weights and spec. The same weights give the same bytes: they include no path, time or version."""
    about = {"format": FORMAT, "spec": generator.spec.to_json(), "image_range": list(IMAGE_RANGE)}
    # One key, since safetensors writes several metadata keys in an order that changes from process to process.
    metadata = {"facegan": json.dumps(about, sort_keys=True)}
    write_bytes(path, save(plain_tensors(generator.state_dict()), metadata))


def load_generator(path: str | Path, device: torch.device | str = "cpu", *, trust_code: Trust = False) -> Generator:
    """The generator of a ``.safetensors`` file, a run folder or an export folder, in eval mode.

    ``generator(latents)`` maps float32 (N, ``generator.spec.latent``) of ``generator.spec.distribution`` to float
    (N, channels, size, size) in [−1, 1]; an image depends on its own latent alone. One with a ``spec.condition`` takes
    that as a second argument: −1 or 1 for each of its names, or one-hot for its classes.

    ``trust_code``: whether user-defined nets (``MODULE:NAME``) that the file names may be imported, which runs their
    code; a frozenset allows these names alone.

    Raises:
        SettingsError: the file names such nets, and they are not trusted.
        CheckpointError: there is no generator of facegan in it, or its tensors do not fit its spec or are not finite.
    """
    file, tensors, spec = read_generator(path)
    if is_import_path(spec.name):
        refuse_untrusted(str(file), spec.name, trust_code)
    try:
        generator = make_generator(spec)
    except SettingsError as error:
        raise CheckpointError(f"{file} needs user-defined nets: {error}") from None
    if is_import_path(spec.name):
        _check_tensors(file, tensors, generator.state_dict())
    generator.load_state_dict(tensors)
    return generator.to(device).eval().requires_grad_(False)


def read_generator(path: str | Path) -> tuple[Path, dict[str, Tensor], NetSpec]:
    """File, tensors and spec. No user code runs: tensors of user-defined nets are not checked."""
    file = Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise CheckpointError(
            f"There is no {file}. Name a generator's .safetensors file, or a run folder:\n"
            "a run writes it with its first checkpoint. Start `facegan train` with this --run again."
        )
    tensors, spec = _read(file)
    if not is_import_path(spec.name):
        try:  # compare shapes before anything is allocated: a damaged spec may need more than all memory
            expected = meta_generator(spec).state_dict()
        except SettingsError as error:
            raise CheckpointError(f"This version of facegan cannot build {file}: {error}") from None
        _check_tensors(file, tensors, expected)
    return file, tensors, spec


def plain_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, as safetensors needs them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def require_same_tensors(what: str, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        theirs = list(found[name].shape) if name in found else "missing"
        ours = list(expected[name].shape) if name in expected else "no such tensor"
        if theirs != ours:
            raise CheckpointError(
                f"{what} has another architecture: its tensor {shown(name)} is {theirs}, expected {ours}.\n"
                "Use it with the settings that it was made with."
            )


def _check_tensors(file: Path, found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Names and shapes, kinds of numbers, and finite values."""
    require_same_tensors(str(file), found, expected)
    for name, tensor in found.items():
        if tensor.is_complex() or tensor.is_floating_point() != expected[name].is_floating_point():
            dtypes = f"{tensor.dtype}, expected {expected[name].dtype}".replace("torch.", "")
            raise CheckpointError(f"{file} is not a generator: its tensor {shown(name)} is {dtypes}.")
        if not tensor.float().isfinite().all():
            raise CheckpointError(
                f"{file} cannot be used: its tensor {shown(name)} has values that are not finite.\n"
                "Use an undamaged copy, or an earlier checkpoint of the run."
            )


def _read(file: Path) -> tuple[dict[str, Tensor], NetSpec]:
    try:
        str(file).encode()
        tensors, metadata = read_tensors(file)
        about = parse_json(metadata.get("facegan", "null"), file)
    except UnicodeEncodeError:
        raise CheckpointError(f"{file} cannot be read: its path must be valid UTF-8. Rename it.") from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}. Change its permissions or copy it.") from None
    except DamagedFile as error:
        raise CheckpointError(
            f"{file} is not a complete safetensors file ({error.why}).\n"
            "Use an undamaged copy, or let the run save it again."
        ) from None
    if not isinstance(about, dict):
        raise CheckpointError(
            f"{file} has tensors but is not a generator of facegan: its metadata lacks 'facegan'.\n"
            f"Name a run folder, or the {FILE_NAME} inside it."
        )
    number, spec = about.get("format"), about.get("spec")
    if number != FORMAT:
        raise CheckpointError(f"{file} has format {number!r:.100}; this facegan reads format {FORMAT}. Update facegan.")
    if not is_spec(spec):
        raise CheckpointError(f"{file} has a spec that this facegan cannot read: {spec!s:.200}. Update facegan.")
    return tensors, NetSpec.of(spec)


def is_spec(spec: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a JSON value has valid fields of a `NetSpec`."""
    if not isinstance(spec, dict) or not _FIRST_FIELDS <= spec.keys() <= {*NetSpec().to_json(), "condition"}:
        return False
    if "condition" in spec:
        try:
            Condition.of(spec["condition"])
        except ValueError:
            return False
    numbers = all(type(spec[name]) is int and spec[name] > 0 for name in ("size", "channels", "latent", "width"))
    texts = isinstance(spec["name"], str) and isinstance(spec["norm"], str)
    return numbers and texts and spec.get("law", "normal") in get_args(LatentDistribution)
