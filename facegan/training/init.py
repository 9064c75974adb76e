"""``--init``: a new run starts from trained weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facegan.errors import CheckpointError
from facegan.files import sha256_file
from facegan.nets import NetSpec, load_generator
from facegan.nets.weights import FILE_NAME, read_generator
from facegan.plugins import Trust
from facegan.run_dir import STATE, checkpoint_folders
from facegan.training.checkpoint import TENSORS, Damaged, read_checkpoint
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
        return {"path": self.path, "file": str(file), "sha256": sha256_file(file), "images": self.images}


def read_weights(path: str | Path, trust_code: Trust | None = False) -> InitWeights:
    """Reads a generator's file, a checkpoint's folder, or a run's (its newest checkpoint, else its generator).

    ``trust_code`` as for `load_generator`; None reads the tensors of a user's own nets without building them.
    """
    source = Path(path)
    checkpoints = [source] if (source / STATE).exists() else checkpoint_folders(source)
    if checkpoints:
        folder = checkpoints[0]
        try:
            checkpoint = read_checkpoint(folder)
        except Damaged as problem:
            raise CheckpointError(f"--init {path}: {folder} is damaged ({problem}). Name another.") from None
        nets = {net: checkpoint.part(net) for net in ("generator", "ema", "discriminator")}
        return InitWeights(str(path), folder, checkpoint.images, nets, checkpoint.state["spec"])
    file = source / FILE_NAME if source.is_dir() else source
    if trust_code is None:
        _, tensors, spec = read_generator(file)
    else:
        generator = load_generator(file, trust_code=trust_code)
        tensors, spec = generator.state_dict(), generator.spec
    return InitWeights(str(path), file, None, {"generator": tensors, "ema": tensors}, spec.to_json())


def start_from(trainer: Trainer, weights: InitWeights) -> None:
    """Loads the weights into fresh nets. Optimizers, images and schedules start from scratch."""
    if trainer.config.freeze_d and "discriminator" not in weights.nets:
        raise CheckpointError(
            f"--init {weights.path} has no discriminator, whose layers train.freeze_d could freeze.\n"
            "Name a checkpoint or a run, or leave out train.freeze_d."
        )
    nets = {"generator": trainer.generator, "ema": trainer.ema.net, "discriminator": trainer.discriminator}
    other = [net for net, tensors in weights.nets.items() if _shapes(tensors) != _shapes(nets[net].state_dict())]
    spec = NetSpec.of(weights.spec)
    if other or _condition(spec) != _condition(trainer.spec):
        has = spec.differences(trainer.spec) or ["tensors of other shapes"]
        only = f", or only its generator: --init {weights.file / FILE_NAME}" if other == ["discriminator"] else ""
        raise CheckpointError(
            f"--init {weights.path} belongs to another architecture: its {[*other, 'generator'][0]} has "
            f"{'; '.join(has)}.\n"
            f"Use the settings it was made with{only}."
        )
    distribution = weights.spec.get("law", trainer.spec.distribution)
    if distribution != trainer.spec.distribution:
        raise CheckpointError(
            f"--init {weights.path}: its generator was trained on {distribution} latents, and this run draws "
            f"{trainer.spec.distribution} ones.\nSet train.latent_distribution={distribution}."
        )
    for net, tensors in weights.nets.items():
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise CheckpointError(f"--init {weights.path}: its {net} has values that are not finite. Name another.")
        nets[net].load_state_dict(tensors)


def _condition(spec: NetSpec) -> tuple[Any, ...]:
    """What a condition's numbers mean."""
    return (spec.condition.names, spec.condition.classes) if spec.condition else ()


def _shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}
