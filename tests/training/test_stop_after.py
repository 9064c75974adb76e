"""``--stop-after N``: a training ends when its first metric no longer improves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy import ToyFaces, poison, toy_config, toy_run, toy_trainer

from facegan.config import TrainConfig
from facegan.nets import Generator
from facegan.report.runs import read_run
from facegan.report.write import run_page
from facegan.training import TrainResult, plan_train
from facegan.training.log import read_stats
from facegan.training.run import sentence_of
from facegan.training.run_state import PeriodicEval

VALUES = [5.0, 3.0, 4.0, 3.5, 2.0, 6.0, 7.0, 8.0, 9.0, 1.0]  # at 32, 64, … images


def config(stop_after: int) -> TrainConfig:
    return toy_config(images=320, log_every=96, sample_every=96, eval_every=32, eval_n=4, stop_after=stop_after)


def train(run: Path, stop_after: int, all_values: list[float] = VALUES) -> TrainResult:
    """With the next of the values at each evaluation, counted over all starts."""
    done = sum("measured" in row for row in read_stats(run))
    values = iter(all_values[done:])

    def measure(generator: Generator) -> dict[str, float]:
        return {"swd": next(values)}

    return toy_run(run, config(stop_after), measure=measure)


def test_stops_without_improvement_and_continues(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = train(run, 2)
    why = "swd has not improved for 2 evaluations, since 64 images"
    assert (first.images, first.ended, json.loads((run / "run.json").read_text())["ended"]) == (128, why, why)
    assert f"Stopped at 128 images: {why}. The best checkpoint is kept." in (run / "log.txt").read_text()
    assert [row["images"] for row in read_stats(run) if "ended" in row] == [128]
    assert [row["images"] for row in read_stats(run) if "loss_g" in row] == [96, 128]
    assert {64, 128} <= {int(path.name) for path in (run / "checkpoints").iterdir()}
    assert (run / "samples/000000128.png").is_file()
    assert f"Ended early: {why}." in run_page(read_run(run)).decode()
    # The same again does nothing, nor does a smaller number.
    for again in (2, 1):
        assert train(run, again).images == 128
        plan = plan_train(config(again), ToyFaces(), run, device="cpu")
        assert sentence_of(plan, config(again), ToyFaces())[0].endswith(
            f"is finished at 128 images: {why}. Use a larger --stop-after, or none, to continue."
        )
    more = train(run, 3)
    assert (more.images, more.best.images if more.best else 0) == (256, 160)
    assert more.ended == "swd has not improved for 3 evaluations, since 160 images"
    last = train(run, 0)
    assert (last.images, "ended" in last.to_json(), "ended" in (run / "run.json").read_text()) == (320, False, False)


def test_roll_back_of_the_last_step_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, at_step=8)
    ended = train(tmp_path / "run", 2, [*VALUES[:4], *range(10, 0, -1)])
    assert (ended.images, ended.ended) == (320, "")
    assert [row["images"] for row in read_stats(tmp_path / "run") if "measured" in row] == [*range(32, 321, 32)]


def test_decides_the_last_weights() -> None:
    assert {"eval_every", "stop_after"} <= toy_config(eval_every=32, stop_after=3).decisive
    assert not {"eval_every", "stop_after", "keep"} & toy_config(eval_every=32).decisive


def test_stops_when_copies_rise_above_those_of_real_faces() -> None:
    values = iter([0.0, 0.002, 0.012, 0.014, 0.02, 0.011])
    evaluation, best, found = PeriodicEval(lambda generator: {"copied": next(values)}, 32), None, []
    for images in range(1, 7):
        _, best = evaluation.evaluate(toy_trainer().generator, images, best, {"copied": 0.01})
        found.append(best.images if best else 0)
    assert found == [1, 2, 3, 4, 4, 6]
    values = iter([0.004])
    assert evaluation.evaluate(toy_trainer().generator, 7, best, {"copied": None})[1] != best  # unknown
