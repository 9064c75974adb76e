"""`write_report` and `write_comparison`: the page of a run, and a page or picture of several."""

from __future__ import annotations

import gc
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facegan.console import shown
from facegan.files import make_folder, write_bytes
from facegan.nets import load_generator
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.report.charts import compared_curves, curves_of
from facegan.report.page import render
from facegan.report.pictures import frames, newest, picture_of
from facegan.report.runs import Run, titles
from facegan.report.sections import (
    Baseline,
    baseline_of,
    dataset_section,
    metrics_section,
    repeating_command,
    settings_diff,
)
from facegan.run_dir import DATASET_PAGE, run_title, sample_grids
from facegan.sample.generate import grid, sample_images

SAMPLES, COLUMNS = 16, 4  # of each run in a comparison
_NOT_COMPARED = ("images", "save_every", "sample_every", "log_every", "eval_every", "eval_n", "keep", "milestones")
_CURVES = {"loss_g": "generator's loss", "loss_d": "discriminator's loss", "d_accuracy": "discriminator's accuracy"}
_HEALTH = {"rolled_back": "rolled back", "d_too_strong": "discriminator too strong", "no_change": "no change"}


def write_report(run: Run, out: Path, baseline: Baseline | None = None, *, watched: bool = False) -> Path:
    """One self-contained HTML file of a run, under 5 MB, with a link to its dataset's page if that is beside it.

    ``baseline`` as in `run_page`. ``watched``: the page reloads itself, because it will be written again.
    """
    make_folder(out.absolute().parent)
    dataset_page = DATASET_PAGE if out.with_name(DATASET_PAGE).is_file() else ""
    write_bytes(out, run_page(run, baseline, dataset_page=dataset_page, watched=watched))
    return out


def run_page(
    run: Run,
    baseline: Baseline | None = None,
    explorer: dict[str, Any] | None = None,
    dataset_page: str = "",
    watched: bool = False,
) -> bytes:
    """The page of a run; raises WebPackageError if the chart library is unavailable.

    ``baseline``: settings to compare with, by default the method's. ``explorer``: values for the latent explorer.
    """
    grids, baseline = sample_grids(run.folder), baseline or baseline_of(run)
    more = [name for name, wanted in (("explorer.js", explorer), ("watch.js", watched)) if wanted]
    return render(
        "run.html",
        ("page.js", "plots.js", "charts.js", "grids.js", *more),
        exploring=explorer is not None,
        title=run_title(run.folder),
        run=run,
        newest=newest(grids),
        dataset=dataset_section(run),
        dataset_page=dataset_page,
        curves=curves_of(run),
        health=_HEALTH,
        grids=len(grids),
        frames=frames(grids),
        evaluation=metrics_section(run.folder),
        baseline=baseline,
        settings=settings_diff(run, baseline),
        command=repeating_command(run),
        explorer=explorer,
        watched=watched,
    )


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The settings that differ, with each run's value."""
    names = [name for name in runs[0].settings if name not in _NOT_COMPARED]
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def write_comparison(runs: Sequence[Run], out: Path, seed: int = 0, *, trust_code: Trust = False) -> Path:
    """One self-contained HTML file of several runs: differences, curves, and samples of equal latents."""
    names = titles(runs)
    page = render(
        "compare.html",
        ("page.js", "plots.js", "charts.js"),
        title=" · ".join(names) if len(runs) < 4 else f"{len(runs)} runs",
        names=names,
        runs=runs,
        curves=compared_curves(runs),
        health=_HEALTH,
        differences=differences(runs),
        metrics=list(dict.fromkeys(name for run in runs for name in run.measured)),
        samples=[picture_of(_samples(run, seed, trust_code)) for run in runs],
        seed=seed,
    )
    make_folder(out.absolute().parent)
    write_bytes(out, page)
    return out


def write_picture(runs: Sequence[Run], out: Path, *, seed: int = 0, trust_code: Trust = False) -> None:
    """A PNG of several runs: curves, and samples of equal latents; raises as `write_comparison`."""
    # pyplot would keep figures alive and choose a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grids = [_samples(run, seed, trust_code) for run in runs]
    names = [shown(name) for name in titles(runs)]
    figure = Figure(figsize=(max(9, 3.2 * len(runs)), 11), dpi=110, layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(7, 4))
    panels = halves[0].subplots(len(_CURVES), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (key, label) in zip(panels, _CURVES.items(), strict=True):
        for run, name in zip(runs, names, strict=True):
            images = [row["images"] for row in run.rows]
            axes.plot(images, [row.get(key, math.nan) for row in run.rows], label=name, linewidth=1.2)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    legend = panels[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    for text in legend.get_texts():
        text.set_parse_math(False)
    panels[-1].set_xlabel("real images shown to the discriminator")
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    columns = halves[1].subplots(1, len(runs), squeeze=False)[0]
    for axes, name, run, picture in zip(columns, names, runs, grids, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)  # matplotlib ignores these for colour pictures
        axes.set_title(f"{name}\n{run.last['images']:,} images", fontsize=9, parse_math=False)
        axes.set_axis_off()
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    figure.clear()
    gc.collect()
    write_bytes(out, data.getvalue())


def _samples(run: Run, seed: int, trust_code: Trust) -> NDArray[np.uint8]:
    """A grid of samples, uint8 (H, W, C); runs with equal latent settings use equal latents."""
    generator = load_generator(run.folder / FILE_NAME, trust_code=trust_code)
    return grid(sample_images(generator, SAMPLES, seed), COLUMNS)
