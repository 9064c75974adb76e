"""A generator in one file: safetensors, with what is needed to build it again in the metadata; never a pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from facegan.config import Law
from facegan.console import shown
from facegan.errors import CheckpointError, SettingsError
from facegan.files import write_bytes
from facegan.nets.registry import make_generator, planned_generator
from facegan.nets.spec import IMAGE_RANGE, Generator, NetSpec
from facegan.own import is_own

FORMAT = 1
_FIRST_SPEC = {"name", "size", "channels", "latent", "width", "norm"}  # what came later has defaults
FILE_NAME = "generator.safetensors"  # inside a run folder


def save_generator(path: Path, generator: Generator) -> None:
    """Writes weights and spec; the same weights give the same bytes (no path, no time, no version)."""
    about = {"format": FORMAT, "spec": asdict(generator.spec), "image_range": list(IMAGE_RANGE)}
    # One key, since safetensors writes several metadata keys in an order that changes from process to process.
    metadata = {"facegan": json.dumps(about, sort_keys=True)}
    write_bytes(path, save(plain_tensors(generator.state_dict()), metadata))


def load_generator(path: str | Path, device: torch.device | str = "cpu") -> Generator:
    """The generator of a ``.safetensors`` file, a run's folder or an exported one, in eval mode.

    ``generator(latents)`` maps float32 (N, ``generator.spec.latent``), of the law ``generator.spec.law``, to float
    (N, channels, size, size) in [−1, 1]; an image depends on its own latent alone.

    Where its nets are a user's own (``MODULE:NAME``), their module is imported (`facegan.own`).

    Raises:
        CheckpointError: there is none, it is no generator of facegan, or its tensors don't fit its architecture, or are
            no finite numbers.
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
    try:
        if not is_own(spec.name):  # what a file asks for may be more than all memory: it is compared before it is made
            refuse_other_tensors(str(file), tensors, planned_generator(spec).state_dict())
        generator = make_generator(spec)
        if is_own(spec.name):
            refuse_other_tensors(str(file), tensors, generator.state_dict())
    except SettingsError as error:
        by = "needs nets of a user's own" if is_own(spec.name) else "can't be built by this version of facegan"
        raise CheckpointError(f"{file} {by}: {error}") from None
    _refuse_other_numbers(file, tensors, generator.state_dict())
    generator.load_state_dict(tensors)
    return generator.to(device).eval().requires_grad_(False)


def plain_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """On the CPU and contiguous, as safetensors wants them."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def refuse_other_tensors(what: str, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
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


def _refuse_other_numbers(file: Path, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """CheckpointError naming the first tensor that is of another kind of numbers, or has some that are not finite."""
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
        with file.open("rb"):  # safetensors calls all that it can't open missing or damaged
            str(file).encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{file} can't be read: its path has to be UTF-8. Rename it, or its folder.") from None
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror}. Change its permissions, or copy it.") from None
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads((opened.metadata() or {}).get("facegan", "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is no whole safetensors file ({error}).\nTake an undamaged copy, or let the run save again."
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
    known = {field.name for field in fields(NetSpec)}
    spec = about.get("spec")
    if not isinstance(spec, dict) or not _FIRST_SPEC <= spec.keys() <= known or not _can_be(spec):
        raise CheckpointError(f"{file} has a spec that this facegan can't read: {spec!s:.200}. Update facegan.")
    return NetSpec(**spec)


def _can_be(spec: dict[str, Any]) -> bool:
    numbers = all(type(spec[name]) is int and spec[name] > 0 for name in ("size", "channels", "latent", "width"))
    texts = isinstance(spec["name"], str) and isinstance(spec["norm"], str)
    return numbers and texts and spec.get("law", NetSpec.law) in get_args(Law)
