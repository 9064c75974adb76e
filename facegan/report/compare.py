"""Several runs side by side: the settings that differ, and one picture."""

from __future__ import annotations

import gc
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan.console import shown
from facegan.files import write_bytes
from facegan.nets import load_generator
from facegan.nets.weights import FILE_NAME
from facegan.own import Trust
from facegan.report.runs import Run, titles
from facegan.train.grid import grid, sample_images

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

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
