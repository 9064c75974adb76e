"""The commands by name. A command's module, with its settings and their library, is loaded when that command is meant.

So ``facegan --help`` costs what the command line library costs, however many commands there are.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
import typer.core
import typer.main

# Name, which is that of its module in `facegan.cli` as well: what it does, as its own help begins, and an example below
# that help. Those without an example are groups.
COMMANDS: dict[str, tuple[str, str]] = {
    "prep": (
        "Detect and crop faces into WebDataset shards. Every photograph is accounted for in OUT/photos.parquet.",
        "facegan prep photos/ out/ --size 64 --split 0.9,0.05,0.05",
    ),
    "inspect": (
        "Show what a dataset holds: photographs by outcome, scores and face sizes; or one of them.",
        "facegan inspect out/ 000001 --plot face.png",
    ),
    "verify": (
        "Check every checksum and count. Exit code 1 and a line for each problem where something does not hold.",
        "facegan verify out/ --deep",
    ),
    "select": (
        "Make a dataset of some faces of one or several others, without detecting again.",
        'facegan select out/ best/ --where "score > 0.9 and width >= 178" --limit 10000',
    ),
    "train": (
        "Train a GAN on a dataset: samples, curves and checkpoints go into the run's folder.",
        "facegan train --shards out/ --method wgan-gp --images 1M --eval-every 50k",
    ),
    "sample": (
        "Draw samples: a grid, single pictures, a dataset, or a film.",
        "facegan sample runs/dcgan-out --interpolate walk.mp4 --n 8 --walks 9",
    ),
    "eval": (
        "Measure how near a generator's samples, or a folder's images, come to real faces.",
        "facegan eval runs/dcgan-out --shards out/ --n 2000",
    ),
    "export": (
        "Write a generator for other programs: weights, graphs, samples, and a model card.",
        "facegan export runs/dcgan-out generator/ --onnx",
    ),
    "report": (
        "Make a page of a run to look at: samples, dataset, curves, warnings, metrics, settings.",
        "facegan report runs/dcgan-out --explore",
    ),
    "compare": (
        "Show runs side by side: the settings that differ, rates, losses, findings, measurements.",
        "facegan compare runs/dcgan-out runs/wgan-gp-out --out both.png",
    ),
    "run": (
        "Run the stages of a recipe that are not up to date: photographs → faces → a trained generator → samples.",
        "facegan run celeba-dcgan-64 --set prep.source=img_align_celeba --to runs/mine",
    ),
    "recipes": (
        "List, show, check and copy recipes: whole experiments as TOML files.",
        "",
    ),
    "demo": (
        "Draw portraits, prepare them with the real detector, train a small DCGAN, sample and report: "
        "under three minutes.",
        "facegan demo /tmp/demo",
    ),
    "models": (
        "List and fetch the face detection models.",
        "",
    ),
    "doctor": (
        "One table of what is installed, the hardware, the detector models, and what is missing, with its remedy.",
        "facegan doctor --json",
    ),
    "bench": (
        "Measure facegan beside the same job by hand.",
        "",
    ),
}


class Commands(typer.core.TyperGroup):
    """Knows the names and what each command does; a command itself is there once it is resolved."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = {name: typer.core.TyperCommand(name, help=line) for name, (line, _) in COMMANDS.items()}

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """The command, or the group of commands, with all its options."""
    module = importlib.import_module(f"facegan.cli.{name}")
    if hasattr(module, "app"):
        group = typer.main.get_group(module.app)  # `get_command` would give it options of its own for completion
        group.name = name
        for below in group.commands.values():
            _without_types(below.get_params(typer.Context(below)))
        _without_types(group.get_params(typer.Context(group)))
        return group
    function, (_, example) = getattr(module, name), COMMANDS[name]
    # Typer breaks lines of later paragraphs where the docstring does.
    paragraphs = (" ".join(paragraph.split()) for paragraph in (function.__doc__ or "").split("\n\n"))
    one = typer.Typer(add_completion=False, rich_markup_mode="rich")
    one.command(name, help="\n\n".join(paragraphs), epilog=f"Example: {example}")(function)
    command = typer.main.get_command(one)
    command.name = name
    _without_types(command.get_params(typer.Context(command)))
    return command


def _without_types(parameters: list[Any]) -> list[Any]:
    """Help shows a flag as it is written: ``--json``, and not ``--json <bool>``."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters
