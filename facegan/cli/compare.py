"""``facegan compare``: several runs side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, Json, TrustCode
from facegan.console import print_json, print_result, print_table
from facegan.errors import SettingsError


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A page (.html) or a picture (.png): curves, and samples of the same latents."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Which samples.")] = 0,
    trust_code: TrustCode = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show runs side by side: the settings that differ, rates, losses, findings, measurements."""
    if out is not None and out.suffix.lower() not in (".png", ".html"):
        raise SettingsError(f"--out {out}: give it a name that ends in .html for a page, or in .png for a picture.")
    from facegan.report.runs import read_run, titles
    from facegan.report.write import differences, write_picture

    runs = [read_run(folder) for folder in folders]
    different = differences(runs)
    if out is not None and out.suffix.lower() == ".html":
        from facegan.report.write import write_comparison

        write_comparison(runs, out, seed, trust_code=trust_code)
    elif out is not None:
        write_picture(runs, out, seed=seed, trust_code=trust_code)
    if json:
        found = {"runs": [run.figures() for run in runs], "differences": different}
        print_json(found | ({"out": str(out)} if out else {}))
        return
    metrics = sorted({name for run in runs for name in run.measured})
    rows = [
        [name, *("–" if value in (None, "") else str(value) for value in values)] for name, values in different.items()
    ]
    rows += [
        ["images", *(f"{run.last['images']:,}" for run in runs)],
        ["images/s", *(f"{run.images_per_second:,.0f}" for run in runs)],
        ["generator's loss", *(_number(run.last["loss_g"], ".3f") for run in runs)],
        ["discriminator's loss", *(_number(run.last["loss_d"], ".3f") for run in runs)],
        *([f"smallest {name}", *(_number(run.measured.get(name), ".4g") for run in runs)] for name in metrics),
        ["health", *(", ".join(sorted({row["health"] for row in run.findings})) or "healthy" for run in runs)],
    ]
    print_table(["", *titles(runs)], rows)
    if out is not None:
        print_result(f"curves and samples: {out}")


def _number(value: float | None, form: str) -> str:
    """``–`` where nothing was measured."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)
