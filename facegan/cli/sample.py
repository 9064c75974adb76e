"""``facegan sample``: pictures from a trained generator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, Device, DryRun, Json, Quiet, console_of
from facegan.console import print_json, print_result
from facegan.errors import SettingsError


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a generator.safetensors.")],
    out: Annotated[Path | None, typer.Option("--out", help="One picture with all samples.")] = None,
    dir: Annotated[Path | None, typer.Option("--dir", help="A folder for single PNGs instead.")] = None,
    best: Annotated[
        bool, typer.Option("--best", help="By the best checkpoint of a run that was measured on the way.")
    ] = False,
    n: Annotated[int, typer.Option("--n", min=1, help="How many samples.")] = 64,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which samples: the same seed gives the same ones.")] = 0,
    device: Device = "auto",
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw samples: a grid (--out) or single pictures (--dir)."""
    if (out is None) == (dir is None):
        raise SettingsError("Name either --out grid.png for one picture or --dir DIR for single ones.")
    if out is not None and out.suffix.lower() != ".png":
        raise SettingsError(f"--out {out}: pictures are PNG files; give it a name that ends in .png.")
    target = str(out or dir)
    if best:
        from facegan.train.sample import best_of

        run = best_of(run)
    if dry_run:
        print_result(f"{n:,} samples of {run} with seed {seed} would go into {target}")
        return
    from facegan.train.sample import write_grid, write_pictures

    if out is not None:
        write_grid(run, out, n=n, seed=seed, device=device)
    elif dir is not None:
        write_pictures(run, dir, n=n, seed=seed, device=device, console=console_of(quiet))
    if json:
        print_json({"run": str(run), "n": n, "seed": seed, "out": target})
    else:
        print_result(target)
