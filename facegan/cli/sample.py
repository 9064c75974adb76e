"""``facegan sample``: pictures, datasets and films from a trained generator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import (
    Debug,
    Device,
    DryRun,
    Json,
    Quiet,
    Set,
    TrustCode,
    explicit_options,
    make_console,
    merge_overrides,
    say_not_tried,
    setting,
)
from facegan.config import SampleConfig
from facegan.console import print_json, print_result
from facegan.errors import SettingsError
from facegan.files import refuse_folder

# Settings that do something with some targets alone.
_ONLY_WITH = {
    "frames": ("interpolate",),
    "walks": ("interpolate",),
    "fps": ("interpolate", "training_progress"),
    "shard_size": ("shards",),
}


def sample(
    context: typer.Context,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, one of its checkpoints, or a generator.safetensors.")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="One picture of all samples, a .png.")] = None,
    dir: Annotated[Path | None, typer.Option("--dir", help="A new folder of single PNGs.")] = None,
    shards: Annotated[
        Path | None, typer.Option("--shards", help="A new dataset, as facegan prep makes them, marked as generated.")
    ] = None,
    interpolate: Annotated[
        Path | None,
        typer.Option("--interpolate", help="A film from face to face and back to the first: .gif, .webp or .mp4."),
    ] = None,
    training_progress: Annotated[
        Path | None,
        typer.Option(help="The same samples by each checkpoint of RUN: .gif, .webp, .mp4; or .png with a row each."),
    ] = None,
    best: Annotated[
        bool, typer.Option("--best", help="By the best checkpoint of a run that was measured on the way.")
    ] = False,
    n: Annotated[int | None, setting(SampleConfig, "n")] = SampleConfig.default("n"),
    seed: Annotated[int, setting(SampleConfig, "seed")] = SampleConfig.default("seed"),
    seeds: Annotated[str, setting(SampleConfig, "seeds")] = SampleConfig.default("seeds"),
    latents: Annotated[str, setting(SampleConfig, "latents")] = SampleConfig.default("latents"),
    frames: Annotated[int, setting(SampleConfig, "frames")] = SampleConfig.default("frames"),
    fps: Annotated[float | None, setting(SampleConfig, "fps")] = SampleConfig.default("fps"),
    walks: Annotated[int, setting(SampleConfig, "walks")] = SampleConfig.default("walks"),
    device: Device = "auto",
    trust_code: TrustCode = False,
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw samples: a grid, single pictures, a dataset, or a film.

    The same generator and seed give the same samples, whatever their number.
    """
    options = explicit_options(context, SampleConfig.model_fields)
    values = merge_overrides(SampleConfig, sets, **options)
    config = SampleConfig.of(values)
    targets = {
        "out": out,
        "dir": dir,
        "shards": shards,
        "interpolate": interpolate,
        "training_progress": training_progress,
    }
    kind, target = _target({name: path for name, path in targets.items() if path is not None})
    for name, kinds in _ONLY_WITH.items():
        if name in values and kind not in kinds:
            others = " or ".join(map(_option, kinds))
            raise SettingsError(f"--{name.replace('_', '-')} is for {others}: it changes nothing with {_option(kind)}.")
    if best and kind == "training_progress":
        raise SettingsError("--best is one checkpoint; --training-progress shows all of them. Leave one of them out.")
    from facegan import sample as room

    if kind in ("interpolate", "training_progress") and target.suffix.lower() != ".png":
        room.check_animation(target, config.fps)
    if best:
        run = room.best_of(run)
    told = {"run": str(run), "seed": config.seed, "seeds": config.seeds, "latents": config.latents, "out": str(target)}
    if dry_run:
        count, nets = room.count_samples(run, kind, target, config)
        what = f"{count:,} samples of {run} would be drawn into {target}"
        _print(json, {**told, "n": count, "not_tried": say_not_tried([nets])}, what)
        return
    start = time.monotonic()
    result = _write(kind, run, target, config, quiet, {"device": device, "trust_code": trust_code})
    _print(json, {**told, **result, "seconds": round(time.monotonic() - start, 2)}, str(target))


def _option(kind: str) -> str:
    return f"--{kind.replace('_', '-')}"


def _target(named: dict[str, Path]) -> tuple[str, Path]:
    if len(named) != 1:
        raise SettingsError(
            "Name one of --out grid.png, --dir DIR, --shards DIR, --interpolate walk.gif and "
            f"--training-progress growth.gif{', not ' + ' and '.join(map(_option, named)) if named else ''}."
        )
    kind, target = next(iter(named.items()))
    if kind == "out" and target.suffix.lower() != ".png":
        raise SettingsError(f"--out {target}: pictures are PNG files; give it a name that ends in .png.")
    if kind == "out" or (kind == "training_progress" and target.suffix.lower() == ".png"):
        refuse_folder(target)
    return kind, target


def _write(
    kind: str, run: Path, target: Path, config: SampleConfig, quiet: bool, opened: dict[str, Any]
) -> dict[str, Any]:
    """``opened``: how the generator is."""
    from facegan import sample as room

    console = make_console(quiet)
    if kind == "out":
        return {"n": room.write_grid(run, target, config, **opened)}
    if kind == "dir":
        return {"n": room.write_pictures(run, target, config, **opened, console=console)}
    if kind == "shards":
        info = room.write_shards(run, target, config, **opened, console=console)
        return {"n": info.totals.faces, "shards": len(info.shards), "bytes": info.totals.bytes}
    write = room.write_interpolation if kind == "interpolate" else room.write_progress
    film = write(run, target, config, **opened, console=console)
    return {"n": film.samples, "frames": film.frames, "fps": film.fps}


def _print(json: bool, found: dict[str, Any], text: str) -> None:
    if json:
        print_json(found)
    else:
        print_result(text)
