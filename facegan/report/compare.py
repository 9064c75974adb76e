"""Several runs side by side: the settings that differ, rates, losses, findings and measurements; and one picture."""

from __future__ import annotations

import gc
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan.config import TrainConfig
from facegan.errors import CheckpointError
from facegan.files import write_bytes
from facegan.nets import load_generator
from facegan.nets.weights import FILE_NAME
from facegan.train.folder.log import read_stats
from facegan.train.folder.record import read_record
from facegan.train.grid import grid, sample_images

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

SAMPLES, COLUMNS = 16, 4  # of each run, in the picture
# Where and how, and not what was learnt.
_NO_DIFFERENCE = ("images", "save_every", "sample_every", "log_every", "eval_every", "eval_n", "keep", "milestones")
_CURVES = {"loss_g": "generator's loss", "loss_d": "discriminator's loss", "d_accuracy": "discriminator's accuracy"}


@dataclass(frozen=True)
class Run:
    """What a run's folder says of it."""

    folder: Path
    settings: dict[str, Any]  # of its training, and ``precision``, ``device``, ``dataset`` as they came to be
    rows: list[dict[str, Any]]  # of the training
    findings: list[dict[str, Any]]
    measured: dict[str, float]  # the smallest value of each metric

    @property
    def last(self) -> dict[str, Any]:
        return self.rows[-1]

    @property
    def images_per_second(self) -> float:
        """Over the whole training, without saving and sampling."""
        return self.last["images"] / max(self.last["seconds"], 1e-9)

    def figures(self) -> dict[str, Any]:
        """Plain values, as ``--json`` prints them."""
        return {
            "run": str(self.folder),
            "images": self.last["images"],
            "images_per_second": round(self.images_per_second, 1),
            "loss_g": self.last["loss_g"],
            "loss_d": self.last["loss_d"],
            "d_accuracy": self.last.get("d_accuracy"),
            "health": sorted({row["health"] for row in self.findings}),
            "measured": self.measured,
        }


def read_run(folder: str | Path) -> Run:
    """
    Raises:
        CheckpointError: it is no run's folder, or one that trained nothing yet.
    """
    folder = Path(folder)
    record = read_record(folder)
    rows = read_stats(folder)
    training = [row for row in rows if "loss_g" in row]
    if record is None or not training:
        what = "holds no run.json" if record is None else "has no row of losses yet"
        raise CheckpointError(f"{folder} {what}: name the folder of a run that facegan train has trained.")
    # What an older facegan did not know of yet was as the default is now.
    settings = TrainConfig().model_dump(mode="json") | record["settings"]
    settings |= {"precision": record["precision"], "device": record["device"]}
    settings["dataset"] = f"{record['dataset']['path'] or 'memory'} ({record['dataset']['fingerprint'][:8]})"
    measured: dict[str, float] = {}
    for row in rows:
        for name, value in row.get("measured", {}).items():
            if value is not None:
                measured[name] = min(value, measured.get(name, math.inf))
    return Run(folder, settings, training, [row for row in rows if "health" in row], measured)


def differences(runs: list[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same for all, and each run's value."""
    names = [name for name in runs[0].settings if name not in _NO_DIFFERENCE]
    values = {name: [run.settings.get(name) for run in runs] for name in names}
    return {name: each for name, each in values.items() if any(value != each[0] for value in each)}


def write_picture(runs: list[Run], out: Path, *, seed: int = 0) -> None:
    """Curves over each other, and samples of each run from the same latents where theirs are of one length.

    Raises:
        CheckpointError: a run has no generator, or one that can't be read.
        DiskError: ``out`` can't be written.
    """
    # The object API: pyplot would keep figures alive and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grids = [_samples(run, seed) for run in runs]
    names = titles(runs)
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
    panels[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    panels[-1].set_xlabel("real images shown to the discriminator")
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for axes, name, run, picture in zip(_row(below, len(runs)), names, runs, grids, strict=True):
        axes.imshow(picture)
        axes.set_title(f"{name}\n{run.last['images']:,} images", fontsize=9)
        axes.set_axis_off()
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    figure.clear()
    gc.collect()
    write_bytes(out, data.getvalue())


def titles(runs: list[Run]) -> list[str]:
    """The folders' names, or as much of their paths as tells them apart."""
    parts = [run.folder.resolve().parts for run in runs]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            return names
    return [str(run.folder) for run in runs]


def _row(figure: Any, count: int) -> list[Axes]:
    return list(figure.subplots(1, count, squeeze=False)[0])


def _samples(run: Run, seed: int) -> NDArray[np.uint8]:
    return grid(sample_images(load_generator(run.folder / FILE_NAME), SAMPLES, seed), COLUMNS)
