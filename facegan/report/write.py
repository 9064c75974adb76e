"""`write_report` and `write_comparison`: a page of one run, and one of several."""

from __future__ import annotations

import gc
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan.console import shown
from facegan.errors import SettingsError
from facegan.files import make_folder, write_bytes
from facegan.nets import load_generator
from facegan.nets.weights import FILE_NAME
from facegan.plugins import Trust
from facegan.report.charts import compared_curves, curves_of
from facegan.report.page import render
from facegan.report.pictures import frames, newest, picture_of, sample_grids
from facegan.report.runs import Run, title, titles
from facegan.report.sections import (
    Baseline,
    baseline_of,
    dataset_section,
    metrics_section,
    repeating_command,
    settings_diff,
)
from facegan.sample.generate import grid, sample_images

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray


# Several runs side by side: the settings that differ, and one picture.

SAMPLES, COLUMNS = 16, 4  # of each run, in the picture
# Where and how, and not what was learnt.
_NO_DIFFERENCE = ("images", "save_every", "sample_every", "log_every", "eval_every", "eval_n", "keep", "milestones")
_CURVES = {"loss_g": "generator's loss", "loss_d": "discriminator's loss", "d_accuracy": "discriminator's accuracy"}


def differences(runs: list[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same for all, and each run's value."""
    names = [name for name in runs[0].settings if name not in _NO_DIFFERENCE]
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def write_picture(runs: list[Run], out: Path, *, seed: int = 0, trust_code: Trust = False) -> None:
    """Curves over each other, and samples of each run from the same latents where theirs are of one length.

    Raises:
        CheckpointError: a run has no generator, or one that can't be read.
        DiskError: ``out`` can't be written.
    """
    # The object API: pyplot would keep figures alive and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grids = [samples_of(run, seed, trust_code) for run in runs]
    names = [shown(name) for name in titles(runs)]
    figure = Figure(figsize=(max(9, 3.2 * len(runs)), 11), dpi=110, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(7, 4))
    above, below = parts
    panels = above.subplots(len(_CURVES), 1, sharex=True, squeeze=False)[:, 0]
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
    for axes, name, run, picture in zip(_row(below, len(runs)), names, runs, grids, strict=True):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255)  # which say nothing of a picture in colours
        axes.set_title(f"{name}\n{run.last['images']:,} images", fontsize=9, parse_math=False)
        axes.set_axis_off()
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    figure.clear()
    gc.collect()
    write_bytes(out, data.getvalue())


def _row(figure: Any, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def samples_of(run: Run, seed: int, trust_code: Trust) -> NDArray[np.uint8]:
    """A grid of the generator's samples, uint8 (H, W, C): the same latents for runs whose latents are alike."""
    generator = load_generator(run.folder / FILE_NAME, trust_code=trust_code)
    return grid(sample_images(generator, SAMPLES, seed), COLUMNS)


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
        taught=dataset_section(run),
        curves=curves,
        health=_HEALTH,
        grids=len(grids),
        frames=grown,
        judged=metrics_section(run.folder),
        baseline=base,
        settings=settings_diff(run, base),
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


# Where a page goes. Nothing heavy is imported: wrong names are refused at once.

PAGE_NAME, PAGE_FOLDER = "report.html", "explorer"  # inside a run's folder


def report_path(run: Path, explore: bool = False) -> Path:
    """Where a run's page goes unless someone says otherwise."""
    return run / (PAGE_FOLDER if explore else PAGE_NAME)


def refuse_other_name(out: Path, explore: bool = False) -> None:
    """
    Raises:
        SettingsError: a page is not named as pages are, or an explorer's folder is.
    """
    is_page = out.suffix.lower() in (".html", ".htm")
    if explore and is_page:
        raise SettingsError(f"--out {out}: an explorer is a folder; leave {out.suffix} out.")
    if not explore and not is_page:
        raise SettingsError(f"--out {out}: pages are HTML files; give it a name that ends in .html.")
