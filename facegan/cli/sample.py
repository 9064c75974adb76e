"""``facegan sample``: images, datasets and animations from a trained generator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import Best, Device, DryRun, Json, Overrides, Quiet, TrustCode, options, warn_not_tried
from facegan.config import SampleConfig
from facegan.console import Console, print_json, print_result
from facegan.errors import SettingsError
from facegan.files import refuse_folder

# Settings that have an effect with some targets only.
_ONLY_WITH = {
    "frames": ("interpolate",),
    "walks": ("interpolate",),
    "fps": ("interpolate", "training_progress"),
    "shard_size": ("shards",),
}


@options(SampleConfig)
def sample(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, one of its checkpoints, or a generator.safetensors.")
    ],
    overrides: Overrides,
    out: Annotated[Path | None, typer.Option("--out", help="A grid of all samples, a .png.")] = None,
    dir: Annotated[Path | None, typer.Option("--dir", help="A new folder of single PNGs.")] = None,
    shards: Annotated[
        Path | None, typer.Option("--shards", help="A new dataset in the format of facegan prep, marked as generated.")
    ] = None,
    interpolate: Annotated[
        Path | None, typer.Option("--interpolate", help="An animation from face to face and back: .gif, .webp or .mp4.")
    ] = None,
    training_progress: Annotated[
        Path | None,
        typer.Option(help="The same samples by each checkpoint of RUN: .gif, .webp, .mp4; or .png with a row each."),
    ] = None,
    best: Best = False,
    device: Device = "auto",
    trust_code: TrustCode = False,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Draw samples: a grid, single images, a dataset, or an animation.

    The same generator and seed give the same samples, whatever their number.
    """
    config = SampleConfig.of(overrides)
    targets = {"out": out, "dir": dir, "shards": shards, "interpolate": interpolate}
    kind, target = _target(targets | {"training_progress": training_progress})
    for name, kinds in _ONLY_WITH.items():
        if name in overrides and kind not in kinds:
            others = " or ".join(map(_option, kinds))
            raise SettingsError(f"{_option(name)} needs {others}. It has no effect with {_option(kind)}.")
    if best and kind == "training_progress":
        raise SettingsError("--best is one checkpoint; --training-progress shows all of them. Leave one of them out.")
    from facegan import sample as sampling

    if kind in ("interpolate", "training_progress") and target.suffix.lower() != ".png":
        sampling.check_animation(target, config.fps)
    if best:
        run = sampling.best_of(run)
    found = {"run": str(run), "seed": config.seed, "seeds": config.seeds, "latents": config.latents, "out": str(target)}
    if dry_run:
        count, nets = sampling.count_samples(run, kind, target, config)
        found |= {"n": count, "not_tried": warn_not_tried([nets])}
        print_json(found) if json else print_result(f"{count:,} samples of {run} would be written to {target}")
        return
    start = time.monotonic()
    result = _write(kind, run, target, config, quiet, {"device": device, "trust_code": trust_code})
    found |= {**result, "seconds": round(time.monotonic() - start, 2)}
    print_json(found) if json else print_result(str(target))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _target(options: dict[str, Path | None]) -> tuple[str, Path]:
    """The name and value of the one option that is given."""
    given = {name: path for name, path in options.items() if path is not None}
    if len(given) != 1:
        raise SettingsError(
            "Name one of --out grid.png, --dir DIR, --shards DIR, --interpolate walk.gif and "
            f"--training-progress growth.gif{', not ' + ' and '.join(map(_option, given)) if given else ''}."
        )
    kind, target = next(iter(given.items()))
    if kind == "out" and target.suffix.lower() != ".png":
        raise SettingsError(f"--out {target}: choose a name that ends in .png.")
    if kind == "out" or (kind == "training_progress" and target.suffix.lower() == ".png"):
        refuse_folder(target)
    return kind, target


def _write(
    kind: str, run: Path, target: Path, config: SampleConfig, quiet: bool, load: dict[str, Any]
) -> dict[str, Any]:
    """``load``: device and trust of the generator."""
    from facegan import sample as sampling

    console = Console(quiet=quiet)
    if kind == "out":
        return {"n": sampling.write_grid(run, target, config, **load)}
    if kind == "dir":
        return {"n": sampling.write_pictures(run, target, config, **load, console=console)}
    if kind == "shards":
        info = sampling.write_shards(run, target, config, **load, console=console)
        return {"n": info.totals.faces, "shards": len(info.shards), "bytes": info.totals.bytes}
    write = sampling.write_interpolation if kind == "interpolate" else sampling.write_progress
    animation = write(run, target, config, **load, console=console)
    return {"n": animation.samples, "frames": animation.frames, "fps": animation.fps}
