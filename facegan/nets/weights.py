"""A generator in one file: safetensors, with what is needed to build it again in the metadata; never a pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeGuard, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from facegan.config import LatentDistribution
from facegan.console import shown
from facegan.errors import CheckpointError, DamagedFile, SettingsError
from facegan.files import parse_json, read_tensors, write_bytes
from facegan.nets.registry import make_generator, planned_generator
from facegan.nets.spec import IMAGE_RANGE, Generator, NetSpec
from facegan.plugins import Trust, is_import_path, refuse_untrusted

FORMAT = 1
_FIRST_SPEC = {"name", "size", "channels", "latent", "width", "norm"}  # what came later has defaults
FILE_NAME = "generator.safetensors"  # inside a run folder


def save_generator(path: Path, generator: Generator) -> None:
    """Writes weights and spec; the same weights give the same bytes (no path, no time, no version)."""
    about = {"format": FORMAT, "spec": asdict(generator.spec), "image_range": list(IMAGE_RANGE)}
    # One key, since safetensors writes several metadata keys in an order that changes from process to process.
    metadata = {"facegan": json.dumps(about, sort_keys=True)}
    write_bytes(path, save(plain_tensors(generator.state_dict()), metadata))


def load_generator(path: str | Path, device: torch.device | str = "cpu", *, trust_code: Trust = False) -> Generator:
    """The generator of a ``.safetensors`` file, a run's folder or an exported one, in eval mode.

    ``generator(latents)`` maps float32 (N, ``generator.spec.latent``), of the law ``generator.spec.law``, to float
    (N, channels, size, size) in [−1, 1]; an image depends on its own latent alone.

    Args:
        trust_code: where the file names nets of somebody's own (``MODULE:NAME``), their module may be imported, which
            runs its code; a frozenset allows these names alone.

    Raises:
        SettingsError: the file names such nets, and they are not trusted.
        CheckpointError: there is none, it is no generator of facegan, or its tensors don't fit its architecture, or are
            no finite numbers.
    """
    file, tensors, spec = read_generator(path)
    if is_import_path(spec.name):
        refuse_untrusted(str(file), spec.name, trust_code)
    try:
        generator = make_generator(spec)
    except SettingsError as error:
        raise CheckpointError(f"{file} needs nets of a user's own: {error}") from None
    if is_import_path(spec.name):
        _refuse_others(file, tensors, generator.state_dict())
    generator.load_state_dict(tensors)
    return generator.to(device).eval().requires_grad_(False)


def read_generator(path: str | Path) -> tuple[Path, dict[str, Tensor], NetSpec]:
    """Its file, tensors and spec. No code of others runs: tensors of nets of their own are not compared with any.

    Raises:
        CheckpointError: as `load_generator`.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
        if not file.exists():
            raise CheckpointError(
                f"{path} holds no {FILE_NAME}: a run writes it with its first checkpoint.\n"
                "Start `facegan train` with this --run again, or name another run."
            )
    if not file.is_file():
        raise CheckpointError(f"There is no {file}. Name a run folder, or a generator's .safetensors file.")
    tensors, about = _read(file)
    spec = _spec(file, about)
    if not is_import_path(
        spec.name
    ):  # what a file asks for may be more than all memory: it is compared before it is made
        try:
            planned = planned_generator(spec)
        except SettingsError as error:
            raise CheckpointError(f"{file} can't be built by this version of facegan: {error}") from None
        _refuse_others(file, tensors, planned.state_dict())
    return file, tensors, spec


def plain_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def require_same_tensors(what: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """CheckpointError naming the first tensor that is missing, too many or of another shape."""
    for name in sorted(found.keys() | wanted.keys()):
        theirs = list(found[name].shape) if name in found else "missing"
        ours = list(wanted[name].shape) if name in wanted else "not there"
        if theirs != ours:
            raise CheckpointError(
                f"{what} belongs to another architecture: its tensor {shown(name)} is {theirs}, but here it "
                f"is {ours}.\n"
                "Use it with the settings that it was made with."
            )


def _refuse_others(file: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """CheckpointError naming the first tensor of another shape or kind of numbers, or with some that are not finite."""
    require_same_tensors(str(file), found, wanted)
    for name, tensor in found.items():
        if tensor.is_complex() or tensor.is_floating_point() != wanted[name].is_floating_point():
            kinds = f"{tensor.dtype}, but here it is {wanted[name].dtype}".replace("torch.", "")
            raise CheckpointError(f"{file} is no generator's file: its tensor {shown(name)} is {kinds}.")
        if not tensor.float().isfinite().all():
            raise CheckpointError(
                f"{file} can't draw: its tensor {shown(name)} has numbers that are not finite. Take an "
                "undamaged copy,\n"
                "or an earlier checkpoint of the run."
            )


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{file} can't be read: its path has to be UTF-8. Rename it, or its folder.") from None
    try:
        tensors, metadata = read_tensors(file)
        about = parse_json(metadata.get("facegan", "null"), file)
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror}. Change its permissions, or copy it.") from None
    except DamagedFile as error:
        raise CheckpointError(
            f"{file} is no whole safetensors file ({error.why}).\nTake an undamaged copy, or let the run save again."
        ) from None
    if not isinstance(about, dict):
        raise CheckpointError(
            f"{file} holds tensors, but no generator of facegan: its metadata lacks 'facegan'.\n"
            f"Name a run folder, or the {FILE_NAME} inside it."
        )
    return tensors, about


def _spec(file: Path, about: dict[str, Any]) -> NetSpec:
    if about.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} has format {about.get('format')!r:.100}, and this facegan reads format {FORMAT}. Update facegan."
        )
    spec = about.get("spec")
    if not is_spec(spec):
        raise CheckpointError(f"{file} has a spec that this facegan can't read: {spec!s:.200}. Update facegan.")
    return NetSpec(**spec)


def is_spec(spec: Any) -> TypeGuard[dict[str, Any]]:
    """Whether a value out of JSON can be a `NetSpec`'s fields."""
    known = {field.name for field in fields(NetSpec)}
    if not isinstance(spec, dict) or not _FIRST_SPEC <= spec.keys() <= known:
        return False
    numbers = all(type(spec[name]) is int and spec[name] > 0 for name in ("size", "channels", "latent", "width"))
    texts = isinstance(spec["name"], str) and isinstance(spec["norm"], str)
    return numbers and texts and spec.get("law", NetSpec.law) in get_args(LatentDistribution)
