"""The logs of a run."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import ToyFaces, toy_config, toy_train

from facegan.console import Console
from facegan.errors import DiskError, FaceganError
from facegan.files import exclusive
from facegan.training import train
from facegan.training.curves import draw_curves
from facegan.training.log import RunLog, TensorBoardWriter, read_stats


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_bar_shows_losses(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm-256color")
    measured: Any = {"measure": lambda generator: {"swd": 2.5, "other": 1.0}, "eval_every": 64}
    train(toy_config(images=64), ToyFaces(), tmp_path, device="cpu", console=Console(), **measured)
    *_, bar, below = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).splitlines()
    assert re.search(r"64/64 images · [\d.,]+/s · 0 s left · D \d\.\d{3} · G \d\.\d{3} · D right \d+%", bar)
    assert below == f"{tmp_path / 'samples/000000064.png'} · swd 2.5 at 64 images"


def test_tensorboard_reads_our_events(tmp_path):
    y, x = np.mgrid[:40, :60]
    picture = np.stack([x * 4, y * 6, 255 - x * 2 - y], axis=2).astype(np.uint8)
    writer = TensorBoardWriter(tmp_path)
    writer.purge(0)
    writer.scalars({"a": 1.5, "b": -2.0}, 10)
    writer.scalars({"a": 2.5}, 20)
    writer.picture("samples", picture, 20)
    writer.scalars({"a": 3.5}, 30)
    writer.purge(21)
    writer.scalars({"a": 4.5}, 30)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in events.Scalars("a")] == [(10, 1.5), (20, 2.5), (30, 4.5)]
    assert [(e.step, e.value) for e in events.Scalars("b")] == [(10, -2.0)]
    (image,) = events.Images("samples")
    assert (image.step, image.width, image.height) == (20, 60, 40)
    found = cv2.imdecode(np.frombuffer(image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert found is not None
    assert np.abs(found.astype(int) - picture).mean() < 3


def test_row_fields_are_documented(tmp_path):
    run = toy_train(tmp_path, "wgan-gp", images=160, batch=8).run
    row = read_stats(run)[0]
    documented = set(
        re.findall(r"^    ([a-z_]+(?:, [a-z_]+)?)  ", RunLog.__init__.__globals__["__doc__"], re.MULTILINE)
    )
    fields = {name for names in documented for name in names.split(", ")}
    assert fields - row.keys() == {"skipped", "gpu_bytes", "k", "convergence", "ada_p", "ada_r"}
    assert row.keys() - fields == set()


def test_curves_are_drawn_rarely(tmp_path, monkeypatch):
    drawn: list[int] = []
    monkeypatch.setattr("facegan.training.log.draw_curves", lambda rows: drawn.append(len(rows)) or draw_curves(rows))
    log = RunLog(tmp_path, Console(quiet=True))
    log.draw(now=True)
    assert drawn == []
    for images in range(1, 30):
        log.row({"images": images, "rounds": images, "loss_g": 1.0, "loss_d": 1.0, "d_real": 0.0, "d_fake": 0.0})
        log.draw()
    assert drawn[0] == 1
    assert len(drawn) < 10
    log.draw(now=True)
    assert drawn[-1] == 29
    log.close()


def test_second_start_is_refused_at_once(tmp_path):
    toy_train(tmp_path, images=16)
    with exclusive(tmp_path / ".lock", "x"):
        for resume in ("auto", "never"):
            with pytest.raises(FaceganError, match=r"Another facegan train is writing into .* \(process \d+ on"):
                train(toy_config(images=32), ToyFaces(), tmp_path, device="cpu", resume=resume)
    assert not list(tmp_path.parent.glob("*.old-1"))


def test_unwritable_folder_fails_at_the_start(tmp_path):
    with pytest.raises(DiskError, match=r"/proc/facegan-test.*cannot be created"):
        toy_train(Path("/proc/facegan-test/run"), images=16)
