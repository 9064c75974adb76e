"""Named directions in a generator's latents: a file beside it, which ``facegan directions`` writes.

A directions, Z length of a latent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from facegan.console import shown
from facegan.errors import SettingsError, suggest
from facegan.files import parse_json, parsing, read_tensors, sha256_file, write_bytes
from facegan.nets.weights import FILE_NAME

DIRECTIONS = "directions.safetensors"


@dataclass(frozen=True)
class Directions:
    """
    Attributes:
        names: of attributes, A of them.
        steps: one standard deviation of the latents along each direction, float32 (A, Z).
        effects: how much the share of faces with attribute b changes by a step along direction a, float32 (A, A).
        generator: SHA-256 of its file.
    """

    names: tuple[str, ...]
    steps: Tensor
    effects: Tensor
    generator: str

    def step(self, moves: Mapping[str, float]) -> Tensor:
        """The sum of several moves, (Z,). Raises SettingsError for a name that is not one of them."""
        for name in moves:
            if name not in self.names:
                raise SettingsError(
                    f"There is no direction '{shown(name)}'.{suggest(name, self.names)} "
                    f"There are {', '.join(map(shown, self.names))}."
                )
        return torch.stack([moves[name] * self.steps[self.names.index(name)] for name in moves]).sum(0)

    def write(self, path: Path) -> None:
        from safetensors.torch import save

        about = json.dumps({"names": self.names, "generator": self.generator}, sort_keys=True)
        tensors = {"steps": self.steps.contiguous(), "effects": self.effects.contiguous()}
        write_bytes(path, save(tensors, {"facegan": about}))


def directions_path(generator: Path) -> Path:
    """Beside the generator of a run, a checkpoint or a file."""
    return (generator if generator.is_dir() else generator.parent) / DIRECTIONS


def read_directions(generator: Path, length: int) -> Directions:
    """Those of a run, a checkpoint or a generator's file with latents of this length.

    Raises:
        SettingsError: there are none, or they are another generator's.
        DamagedFile: they cannot be read.
    """
    path, command = directions_path(generator), f"facegan directions {generator} --shards OUT"
    if not path.is_file():
        raise SettingsError(f"There is no {path}. Find the directions of this generator with: {command}")
    tensors, metadata = read_tensors(path)
    facts = parse_json(metadata.get("facegan", ""), path)
    with parsing(path):
        names, steps, effects = tuple(facts["names"]), tensors["steps"].float(), tensors["effects"].float()
        is_whole = steps.shape == (len(names), length) and effects.shape == (len(names), len(names)) and names
        if not (
            is_whole
            and all(isinstance(name, str) for name in names)
            and torch.cat([steps, effects], 1).isfinite().all()
        ):
            raise ValueError("it has no directions")
        found = Directions(names, steps, effects, facts["generator"])
    file = generator / FILE_NAME if generator.is_dir() else generator
    if found.generator != sha256_file(file):
        raise SettingsError(f"{path} is of another generator than {file}. Find new directions with: {command}")
    return found
