"""Which checkpoints stay: the newest, milestones, and the best by a metric."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy import ToyFaces, steps_of, toy_config, toy_train, without_times

from facegan.console import Console
from facegan.errors import DiskError, Interrupted, SettingsError
from facegan.nets import Generator, load_generator
from facegan.training import TrainResult, sample_images, train
from facegan.training.checkpoint import CheckpointManager
from facegan.training.log import read_stats


def kept(run: Path) -> list[int]:
    return sorted(int(path.name) for path in (run / "checkpoints").iterdir())


def test_keep_counts_the_newest(tmp_path):
    assert kept(toy_train(tmp_path, images=96, save_every=16, keep=2).run) == [80, 96]


def test_milestones_are_made_and_never_deleted(tmp_path):
    config = {"save_every": 32, "keep": 1, "milestones": "20, 64"}  # rounds end at multiples of 16
    assert kept(toy_train(tmp_path, images=160, **config).run) == [32, 64, 160]
    assert kept(toy_train(tmp_path, images=192, **{**config, "milestones": (170,)}).run) == [176, 192]


def test_a_stop_costs_no_scheduled_checkpoint(tmp_path):
    """A roll-back goes to the last one: it may not depend on when somebody pressed Ctrl-C."""
    asked: list[int] = []
    config = toy_config(save_every=64, keep=1)
    for images in (80, 96):
        with pytest.raises(Interrupted):
            train(
                config,
                ToyFaces(),
                tmp_path,
                device="cpu",
                stop=lambda n=images: asked.append(1) or len(asked) * 16 == n,
            )
        assert kept(tmp_path) == [64, images]
    toy_train(tmp_path, images=128, save_every=64, keep=1)
    assert kept(tmp_path) == [128]


def test_old_checkpoints_that_can_not_be_deleted_do_not_make_the_new_one_unsaved(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:

        def refuse(*given: object) -> None:
            raise DiskError("no")

        patch.setattr(CheckpointManager, "thin_out", refuse)
        assert toy_train(tmp_path, images=96, save_every=16, keep=2).images == 96
    said = capsys.readouterr().err
    assert "The checkpoint at 96 images is saved, but what belongs to it could not be (no): the next save does." in said
    assert "could not be saved" not in said
    assert kept(tmp_path) == list(range(0, 97, 16))
    toy_train(tmp_path, images=112, save_every=16, keep=2)
    assert kept(tmp_path) == [96, 112]


def test_samples_of_a_checkpoint(tmp_path):
    result = toy_train(tmp_path, images=64, save_every=32)
    assert load_generator(result.checkpoint).spec == load_generator(tmp_path).spec
    assert (result.checkpoint / "generator.safetensors").read_bytes() == result.generator.read_bytes()


SCORES = {48: 5.0, 96: 3.0, 144: 4.0, 192: float("nan"), 240: 3.0, 288: 9.0, 320: 8.0}


class Examiner:
    """Gives the scores above, and sees the generator that it is given."""

    def __init__(self, fail_at: int = 0) -> None:
        self.seen: list[bytes] = []
        self.left = list(SCORES.values())

    def __call__(self, generator: Generator) -> Mapping[str, float]:
        assert not generator.training
        self.seen.append(sample_images(generator, 2).numpy().tobytes())
        return {"fid": self.left[len(self.seen) - 1], "precision": len(self.seen) / 10}


def examined(run: Path, measure: Any, **given: Any) -> TrainResult:
    config = toy_config(save_every=160, keep=1, **given)
    return train(config, ToyFaces(), run, device="cpu", console=Console(quiet=True), measure=measure, eval_every=48)


def test_the_best_by_the_first_metric_is_kept_and_recorded(tmp_path):
    examiner = Examiner()
    examined(tmp_path, examiner)
    assert kept(tmp_path) == [96, 320]
    assert json.loads((tmp_path / "best.json").read_text()) == {"metric": "fid", "value": 3.0, "images": 96}
    best = load_generator(tmp_path / "checkpoints/000000096")
    assert sample_images(best, 2).numpy().tobytes() == examiner.seen[1]
    rows = [row for row in read_stats(tmp_path) if "measured" in row]
    assert [(row["images"], row["best"]) for row in rows] == [
        (images, images in (48, 96)) for images in (48, 96, 144, 192, 240, 288, 320)
    ]
    assert steps_of(tmp_path, "measured/precision") == [48, 96, 144, 192, 240, 288, 320]
    assert rows[3]["measured"] == {"fid": None, "precision": 0.4}  # JSON knows no NaN
    log = [line.split(maxsplit=2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert "96 images: fid 3, precision 0.2 (best so far)" in log
    assert "192 images: fid not finite, precision 0.4" in log


def test_the_best_is_resumed_to_the_bit(tmp_path):
    def measure(generator: Generator) -> dict[str, float]:
        return {"grey": sample_images(generator, 8).float().mean().item()}

    whole, run = tmp_path / "whole", tmp_path / "run"
    examined(whole, measure)
    asked: list[int] = []
    for number in (4, 9):
        with pytest.raises(Interrupted):
            train(
                toy_config(save_every=160, keep=1),
                ToyFaces(),
                run,
                device="cpu",
                measure=measure,
                eval_every=48,
                stop=lambda n=number: asked.append(1) or len(asked) == n,
            )
    examined(run, measure)
    assert without_times(run) == without_times(whole)
    assert kept(run) == kept(whole)
    assert (run / "best.json").read_bytes() == (whole / "best.json").read_bytes()


def test_measures_that_can_not_judge(tmp_path):
    def judged(measure: Any, **given: Any) -> None:
        train(toy_config(images=32), ToyFaces(), tmp_path / "run", device="cpu", measure=measure, **given)

    with pytest.raises(SettingsError, match=r"train\.eval_every = 16 has nothing to measure by"):
        toy_train(tmp_path / "run", images=32, eval_every=16)
    with pytest.raises(SettingsError, match="eval_every 0"):
        judged(lambda _: {"fid": 1.0}, eval_every=0)
    with pytest.raises(SettingsError, match="measure gives nothing"):
        judged(lambda _: {}, eval_every=16)
    with pytest.raises(SettingsError, match="measure gives fid, but the best checkpoint is to be chosen by 'kid'"):
        judged(lambda _: {"fid": 1.0}, eval_every=16, best="kid")
    assert not list((tmp_path / "run").rglob("best.json"))
