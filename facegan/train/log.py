"""The run's log: stats.jsonl, TensorBoard, losses.png, log.txt and the sample grids.

A row of stats.jsonl: ``images`` and ``rounds`` so far; means since the row before of ``loss_d``, ``loss_g``, ``d_real``
and ``d_fake`` (D's logits), ``d_accuracy`` (share of images that D places rightly: real above 0 and fake below; for
WGAN-GP the share of pairs of both with real above fake), ``grad_g`` (L2 norm of G's gradient) and, for WGAN-GP, ``gp``
(the penalty without its weight λ; ``loss_d`` holds λ times it); in fp16 ``skipped`` (steps left out since the row
before, because a gradient overflowed); ``images_per_second`` since the row before; ``seconds`` of training so far, over
all starts of the run.
"""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facegan.console import Console
from facegan.files import disk_errors, make_folder, write_bytes
from facegan.train.grid import save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RunLog:
    """Opened at ``images``: what the files say of later images is cut away, so that resuming leaves no double rows."""

    def __init__(self, run: Path, images: int, console: Console) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.run, self.console = run, console
        self.samples = make_folder(run / "samples")
        self.rows = [row for row in read_stats(run) if row["images"] <= images]
        write_bytes(run / "stats.jsonl", "".join(_line(row) for row in self.rows).encode())
        for path in self.samples.glob("*.png"):
            if path.stem.isdecimal() and int(path.stem) > images:
                path.unlink()
        # TensorBoard hides what an earlier writer logged at purge_step or later.
        self.board = SummaryWriter(str(run), purge_step=images + 1 if images else None)

    def note(self, text: str) -> None:
        self.console.note(text)
        self._write(text)

    def warn(self, text: str) -> None:
        self.console.warn(text)
        self._write(f"warning: {text}")

    def row(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with disk_errors(self.run), (self.run / "stats.jsonl").open("a", encoding="utf-8") as file:
            file.write(_line(row))
        for name, value in row.items():
            if name not in ("images", "rounds", "seconds"):
                self.board.add_scalar(name, value, row["images"])

    def grid(self, picture: NDArray[np.uint8], images: int) -> None:
        save_png(self.samples / f"{images:09d}.png", picture)
        self.board.add_image("samples", picture, images, dataformats="HWC")

    def flush(self) -> None:
        self.board.flush()

    def draw(self) -> None:
        if self.rows:
            write_bytes(self.run / "losses.png", draw_curves(self.rows))

    def close(self) -> None:
        self.board.close()

    def _write(self, text: str) -> None:
        with disk_errors(self.run), (self.run / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


def read_stats(run: Path) -> list[dict[str, Any]]:
    """The rows of stats.jsonl, up to one that a killed process left unfinished."""
    rows: list[dict[str, Any]] = []
    path = run / "stats.jsonl"
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def draw_curves(rows: list[dict[str, Any]]) -> bytes:
    """Losses above, D's mean logits below, over images; PNG bytes."""
    # The object API: pyplot would keep figures alive and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), dpi=110, layout="constrained")
    losses, logits = figure.subplots(2, 1, sharex=True)
    _curves(losses, rows, {"loss_g": "generator", "loss_d": "discriminator", "gp": "gradient penalty"}, "loss")
    _curves(logits, rows, {"d_real": "real images", "d_fake": "fake images"}, "discriminator's mean logit")
    logits.set_xlabel("real images shown to the discriminator")
    logits.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    data = io.BytesIO()
    FigureCanvasAgg(figure).print_png(data)
    return data.getvalue()


def _curves(axes: Axes, rows: list[dict[str, Any]], names: dict[str, str], label: str) -> None:
    images = [row["images"] for row in rows]
    for name, title in names.items():
        if name in rows[0]:
            axes.plot(images, [row[name] for row in rows], label=title, linewidth=1.2, marker="." * (len(rows) < 30))
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
