"""``--init``: a new run starts from trained weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facegan.errors import CheckpointError
from facegan.nets import NetSpec, load_generator
from facegan.nets.weights import FILE_NAME, read_generator
from facegan.plugins import Trust
from facegan.run_dir import STATE
from facegan.training.checkpoint import TENSORS, CheckpointManager, Damaged, read_checkpoint
from facegan.training.trainer import Trainer


@dataclass(frozen=True)
class InitWeights:
    """Trained weights by net (``generator``, ``ema`` and, of a checkpoint, ``discriminator``), and their origin."""

    path: str  # as the user wrote it
    file: Path
    images: int | None  # of the checkpoint; None for a generator's file
    nets: dict[str, dict[str, Tensor]]
    spec: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """For run.json."""
        file = self.file / TENSORS if self.file.is_dir() else self.file
        with file.open("rb") as opened:
            sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"path": self.path, "file": str(file), "sha256": sha256, "images": self.images}


def read_weights(path: str | Path, trust_code: Trust | None = False) -> InitWeights:
    """Reads a generator's file, a checkpoint's folder, or a run's (its newest checkpoint, else its generator).

    Args:
        trust_code: as for `load_generator`; None reads the tensors of a user's own nets without building them.

    Raises:
        SettingsError: a generator's file names nets that are not trusted.
        CheckpointError: it is missing or damaged, or holds numbers that are not finite.
    """
    source = Path(path)
    weights = _of_folder(path, source, trust_code) if source.is_dir() else _of_generator(path, source, trust_code)
    for net, tensors in weights.nets.items():
        for name, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise CheckpointError(
                    f"--init {path}: {net}.{name} holds numbers that are not finite. Use an earlier checkpoint."
                )
    return weights


def start_from(trainer: Trainer, weights: InitWeights) -> None:
    """Loads the weights into fresh nets. Optimizers, images and schedules start from scratch.

    Raises:
        CheckpointError: the nets have another architecture or another distribution of latents.
    """
    own: dict[str, nn.Module] = {
        "generator": trainer.generator,
        "ema": trainer.ema.net,
        "discriminator": trainer.discriminator,
    }
    different = [net for net, tensors in weights.nets.items() if _first_other(tensors, own[net].state_dict())]
    if different:
        raise CheckpointError(
            _mismatch(weights, trainer.spec, [net for net in different if net != "ema"] or different, own)
        )
    distribution = weights.spec.get("law", trainer.spec.distribution)
    if distribution != trainer.spec.distribution:
        raise CheckpointError(
            f"--init {weights.path}: its generator was trained on {distribution} latents, and this run draws "
            f"{trainer.spec.distribution} ones.\nSet train.latent_distribution={distribution}."
        )
    for net, tensors in weights.nets.items():
        own[net].load_state_dict(tensors)


def _of_generator(path: str | Path, file: Path, trust_code: Trust | None) -> InitWeights:
    if trust_code is None:
        _, tensors, spec = read_generator(file)
    else:
        generator = load_generator(file, trust_code=trust_code)
        tensors, spec = generator.state_dict(), generator.spec
    return InitWeights(str(path), file, None, {"generator": tensors, "ema": tensors}, spec.to_json())


def _of_folder(path: str | Path, folder: Path, trust_code: Trust | None) -> InitWeights:
    if (folder / STATE).exists():
        return _of_checkpoint(path, folder)
    checkpoints = CheckpointManager(folder / "checkpoints").paths()
    if checkpoints:
        return _of_checkpoint(path, checkpoints[0])
    return _of_generator(path, folder / FILE_NAME, trust_code)


def _of_checkpoint(path: str | Path, folder: Path) -> InitWeights:
    try:
        checkpoint = read_checkpoint(folder)
    except Damaged as problem:
        raise CheckpointError(f"--init {path}: the checkpoint {folder} is damaged ({problem}). Name another.") from None
    nets = {net: checkpoint.part(net) for net in ("generator", "ema", "discriminator")}
    return InitWeights(str(path), folder, checkpoint.images, nets, checkpoint.state["spec"])


def _first_other(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> str:
    """The first tensor that is missing, unknown or of another shape, or ""."""
    for name in sorted(found.keys() | wanted.keys()):
        theirs, ours = found.get(name, torch.empty(0)), wanted.get(name, torch.empty(0))
        if name not in found or name not in wanted or theirs.shape != ours.shape:
            return name
    return ""


def _mismatch(weights: InitWeights, spec: NetSpec, nets: list[str], own: dict[str, nn.Module]) -> str:
    ours = spec.to_json()
    settings = [f"{key} {value}, not {ours.get(key)}" for key, value in weights.spec.items() if value != ours.get(key)]
    first = f"{nets[0]}.{_first_other(weights.nets[nets[0]], own[nets[0]].state_dict())}"
    which = f"its {' and its '.join(nets)} {'differ' if len(nets) > 1 else 'differs'}"
    how = f"it has {'; '.join(settings)}" if settings else f"the first different tensor is {first}"
    generator = f", or only its generator: --init {weights.file / FILE_NAME}" if nets == ["discriminator"] else ""
    what = f"--init {weights.path} belongs to another architecture ({which}): {how}."
    return f"{what}\nUse the settings it was made with{generator}."
