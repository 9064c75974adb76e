"""`write_report` and `write_comparison`: a page of one run, and one of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from facegan.files import make_folder, write_bytes
from facegan.own import Trust
from facegan.report.charts import compared_curves, curves_of
from facegan.report.compare import differences, samples_of
from facegan.report.judged import judged
from facegan.report.marked import Baseline, baseline_of, marked_settings, repeating_command
from facegan.report.page import render
from facegan.report.pictures import frames, newest, picture_of, sample_grids
from facegan.report.runs import Run, title, titles
from facegan.report.taught import taught

_HEALTH = {
    "rolled_back": "rolled back",
    "d_too_strong": "discriminator too strong",
    "collapse": "collapse",
    "no_change": "no change",
}


def write_report(run: Run, out: Path, baseline: Baseline | None = None) -> Path:
    """One self-contained HTML file of a run, under 5 MB.

    Args:
        baseline: what its settings are held against; the method's defaults where None.

    Raises:
        WebPackageError: the chart library can't be had.
        DiskError: ``out`` can't be written.
    """
    make_folder(out.absolute().parent)
    write_bytes(out, run_page(run, baseline))
    return out


def run_page(run: Run, baseline: Baseline | None = None, explorer: dict[str, Any] | None = None) -> bytes:
    """The page of a run.

    Args:
        explorer: what the latent explorer's script is told; None for a page without one.
    """
    grids, curves, base = sample_grids(run.folder), curves_of(run), baseline or baseline_of(run)
    grown = frames(grids)
    return render(
        "run.html",
        ("page.js", "charts.js", "grids.js", *(("explorer.js",) if explorer else ())),
        exploring=explorer is not None,
        title=title(run),
        run=run,
        newest=newest(grids),
        taught=taught(run),
        curves=curves,
        health=_HEALTH,
        grids=len(grids),
        frames=grown,
        judged=judged(run.folder),
        baseline=base,
        settings=marked_settings(run, base),
        command=repeating_command(run),
        explorer=explorer,
    )


def write_comparison(runs: Sequence[Run], out: Path, seed: int = 0, *, trust_code: Trust = False) -> Path:
    """One self-contained HTML file of several runs: what differs, curves over each other, samples of the same latents.

    Raises:
        CheckpointError: a run has no generator, or one that can't be read.
        WebPackageError: the chart library can't be had.
        DiskError: ``out`` can't be written.
    """
    runs = list(runs)
    curves = compared_curves(runs)
    page = render(
        "compare.html",
        ("page.js", "charts.js"),
        title=" · ".join(titles(runs)) if len(runs) < 4 else f"{len(runs)} runs",
        names=titles(runs),
        runs=runs,
        curves=curves,
        health=_HEALTH,
        differences=differences(runs),
        metrics=list(dict.fromkeys(name for run in runs for name in run.measured)),
        samples=[picture_of(samples_of(run, seed, trust_code)) for run in runs],
        seed=seed,
    )
    make_folder(out.absolute().parent)
    write_bytes(out, page)
    return out
