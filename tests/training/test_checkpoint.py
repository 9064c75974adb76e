"""Which checkpoints are kept: the newest, milestones, and the best by a metric."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy import steps_of, stop_after, toy_config, toy_run, toy_train, without_times

from facegan.errors import DiskError, Interrupted, SettingsError
from facegan.nets import Generator, load_generator
from facegan.training import TrainResult, sample_images
from facegan.training.checkpoint import CheckpointManager
from facegan.training.log import read_stats


def checkpoints(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_milestones_are_never_deleted(tmp_path):
    config = {"save_every": 32, "keep": 1, "milestones": "20, 64"}  # steps end at multiples of 16
    assert checkpoints(toy_train(tmp_path, images=160, **config).run) == [32, 64, 160]
    assert checkpoints(toy_train(tmp_path, images=192, **{**config, "milestones": (170,)}).run) == [176, 192]


def test_stop_deletes_no_scheduled_checkpoint(tmp_path):
    """A roll-back goes to the last one: it may not depend on when somebody pressed Ctrl-C."""
    config, stop = toy_config(save_every=64, keep=1), stop_after(5, 6)
    for images in (80, 96):
        with pytest.raises(Interrupted):
            toy_run(tmp_path, config, stop=stop)
        assert checkpoints(tmp_path) == [64, images]
    toy_train(tmp_path, images=128, save_every=64, keep=1)
    assert checkpoints(tmp_path) == [128]


def test_failed_pruning_keeps_the_new_checkpoint(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:

        def refuse(*given: object) -> None:
            raise DiskError("no")

        patch.setattr(CheckpointManager, "prune", refuse)
        assert toy_train(tmp_path, images=96, save_every=16, keep=2).images == 96
    output = capsys.readouterr().err
    assert "the checkpoint at 96 images is saved, but best.json or old checkpoints are not up to date (no)." in output
    assert "could not be saved" not in output
    assert checkpoints(tmp_path) == list(range(0, 97, 16))
    toy_train(tmp_path, images=112, save_every=16, keep=2)
    assert checkpoints(tmp_path) == [96, 112]


SCORES = {48: 5.0, 96: 3.0, 144: 4.0, 192: float("nan"), 240: 3.0, 288: 9.0, 320: 8.0}


class RecordingMeasure:
    """Returns the scores above, and records samples of each generator."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.left = list(SCORES.values())

    def __call__(self, generator: Generator) -> Mapping[str, float]:
        assert not generator.training
        self.seen.append(sample_images(generator, 2).numpy().tobytes())
        return {"fid": self.left[len(self.seen) - 1], "precision": len(self.seen) / 10}


def train_measured(run: Path, measure: Any, images: int = 320, **options: Any) -> TrainResult:
    config = toy_config(images=images, save_every=images // 2, keep=1)
    return toy_run(run, config, measure=measure, eval_every=48, **options)


def test_best_checkpoint_is_kept_and_recorded(tmp_path):
    measure = RecordingMeasure()
    train_measured(tmp_path, measure)
    assert checkpoints(tmp_path) == [96, 320]
    assert json.loads((tmp_path / "best.json").read_text()) == {"metric": "fid", "value": 3.0, "images": 96}
    best = load_generator(tmp_path / "checkpoints/000000096")
    assert sample_images(best, 2).numpy().tobytes() == measure.seen[1]
    rows = [row for row in read_stats(tmp_path) if "measured" in row]
    assert [(row["images"], row["best"]) for row in rows] == [
        (images, images in (48, 96)) for images in (48, 96, 144, 192, 240, 288, 320)
    ]
    assert steps_of(tmp_path, "measured/precision") == [48, 96, 144, 192, 240, 288, 320]
    assert rows[3]["measured"] == {"fid": None, "precision": 0.4}  # JSON knows no NaN
    log = [line.split(maxsplit=2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert "96 images: fid 3, precision 0.2 (best so far)" in log
    assert "192 images: fid not finite, precision 0.4" in log


def test_best_is_resumed_to_the_bit(tmp_path):
    def measure(generator: Generator) -> dict[str, float]:
        return {"grey": sample_images(generator, 8).float().mean().item()}

    whole, run = tmp_path / "whole", tmp_path / "run"
    train_measured(whole, measure, 160)
    stop = stop_after(4, 8)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train_measured(run, measure, 160, stop=stop)
    train_measured(run, measure, 160)
    assert without_times(run) == without_times(whole)
    assert checkpoints(run) == checkpoints(whole)
    assert (run / "best.json").read_bytes() == (whole / "best.json").read_bytes()


def test_unusable_measures_are_refused(tmp_path):
    def evaluate(measure: Any, **given: Any) -> None:
        toy_run(tmp_path / "run", toy_config(images=32), measure=measure, **given)

    with pytest.raises(SettingsError, match=r"train\.eval_every = 16 needs a measure"):
        toy_train(tmp_path / "run", images=32, eval_every=16)
    with pytest.raises(SettingsError, match="eval_every 0"):
        evaluate(lambda _: {"fid": 1.0}, eval_every=0)
    with pytest.raises(SettingsError, match="measure returns nothing"):
        evaluate(lambda _: {}, eval_every=16)
    with pytest.raises(SettingsError, match="chosen by 'kid', but measure returns fid"):
        evaluate(lambda _: {"fid": 1.0}, eval_every=16, best="kid")
    assert not list((tmp_path / "run").rglob("best.json"))
