"""losses.png: the rows of stats.jsonl as curves, with marks where `facegan.training.monitor` found a failure."""

from __future__ import annotations

import gc
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKS = {
    "rolled_back": ("rolled back", "tab:red"),
    "d_too_strong": ("D too strong", "tab:purple"),
    "collapse": ("collapse", "tab:brown"),
    "no_change": ("no change", "tab:gray"),
}
_PANELS = {
    "loss": {
        "loss_g": "generator",
        "loss_d": "discriminator",
        "gp": "gradient penalty",
        "convergence": "measure of convergence",
        "k": "BEGAN's k",
    },
    "discriminator's mean logit": {"d_real": "real images", "d_fake": "fake images"},
    "discriminator's accuracy": {"d_accuracy": "real and fake images", "ada_p": "ADA's p"},
}


@contextmanager
def collected() -> Iterator[None]:
    """Collects the reference cycles of a figure, which are many: those of fifty drawings filled 50 MB.

    Without collections meanwhile they stay in the youngest generation, and need no search of the whole heap.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if enabled:
            gc.enable()


@collected()
def draw_curves(rows: list[dict[str, Any]]) -> bytes:
    """Losses, D's mean logits and accuracy, and evaluations, over images; PNG bytes. Needs a training row."""
    # The object API: pyplot would keep figures alive and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    losses, marks = [row for row in rows if "loss_g" in row], [row for row in rows if "health" in row]
    measured = [row for row in rows if "measured" in row]
    images = [row["images"] for row in losses]
    figure = Figure(figsize=(9, 10 if measured else 8), dpi=110, layout="constrained")
    heights = (3, 3, 2, 2) if measured else (3, 3, 2)
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    for axes, (label, names) in zip(panels, _PANELS.items(), strict=False):
        for name, title in names.items():
            if name in losses[-1]:
                values = [row.get(name, math.nan) for row in losses]
                axes.plot(images, values, label=title, linewidth=1.2, marker="." * (len(losses) < 30))
        _finish(axes, label)
        for row in marks:
            axes.axvline(row["images"], color=_MARKS[row["health"]][1], linestyle="--", linewidth=1)
    panels[len(_PANELS) - 1].set_ylim(-0.02, 1.02)
    if measured:
        _measurements(panels[-1], measured, [row["floor"] for row in rows if "floor" in row])
    panels[-1].set_xlabel("real images shown to the discriminator")
    panels[-1].xaxis.set_major_locator(MaxNLocator(6))
    panels[-1].xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    kinds = [mark for kind, mark in _MARKS.items() if any(row["health"] == kind for row in marks)]
    if kinds:  # each once, in a legend above the curves
        lines = [Line2D([], [], color=color, linestyle="--", linewidth=1, label=name) for name, color in kinds]
        curves = panels[0].get_legend()
        panels[0].legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False, ncols=4)
        panels[0].add_artist(curves)
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    return data.getvalue()


def _finish(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if axes.get_lines():
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _measurements(axes: Axes, rows: list[dict[str, Any]], floors: list[dict[str, float]]) -> None:
    """The first metric, its best value so far, and its value for real images."""
    name = next(iter(rows[-1]["measured"]))
    rows = [row for row in rows if row["measured"].get(name) is not None]
    values = [row["measured"][name] for row in rows]
    axes.plot([row["images"] for row in rows], values, linewidth=1.2, marker=".", label=name)
    for row in [row for row in rows if row["best"]][-1:]:
        best = row["images"], row["measured"][name]
        axes.plot(*best, linestyle="", marker="o", fillstyle="none", color="black", label="best so far")
    if floors and name in floors[-1]:
        axes.axhline(floors[-1][name], color="tab:green", linestyle=":", linewidth=1, label="real images")
    if all(value >= 0 for value in values):
        axes.set_ylim(bottom=0)
    _finish(axes, "measured")
