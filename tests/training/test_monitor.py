"""Trainings that fail, and what the run reports; and healthy ones."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from toy import poison, steps_of, stop_after, toy_config, toy_run, toy_train, weights, without_times

from facegan.errors import Interrupted, TrainingError
from facegan.training import monitor
from facegan.training.curves import draw_curves
from facegan.training.log import read_stats
from facegan.training.monitor import Monitor, diversity, mean_change, problem_of

SMALL: dict[str, Any] = {"width": 4, "log_every": 80, "sample_every": 800, "save_every": 10**6}


def findings(run: Path) -> list[str]:
    return [row["health"] for row in read_stats(run) if "health" in row]


def test_diversity_and_change_by_hand():
    images = torch.randint(0, 256, (7, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    pixels = images.numpy().astype(float)
    pairs = [np.sqrt(np.mean((a - b) ** 2)) for a, b in itertools.combinations(pixels, 2)]
    assert diversity(images) == pytest.approx(np.mean(pairs), rel=1e-6)
    assert diversity(images[:1].expand(4, -1, -1, -1)) == 0
    assert mean_change(images, images.flip(0)) == pytest.approx(np.abs(pixels - pixels[::-1]).mean(), rel=1e-6)


@pytest.mark.slow
def test_exploding_generator_collapses(tmp_path, capsys, monkeypatch):
    """Steps this large drive every pixel to the end of tanh, where no gradient gets through.

    Which end depends on the seed and on the CPU's rounding, and with it whether samples are alike.
    """
    monkeypatch.setattr(monitor, "GRACE_STEPS", 60)
    for seed in range(6):
        run = tmp_path / str(seed)
        capsys.readouterr()
        toy_train(run, images=16 * 200, lr_g=50.0, seed=seed, **SMALL)
        if set(findings(run)) == {"collapse", "d_too_strong", "no_change"}:
            break
    assert set(findings(run)) == {"collapse", "d_too_strong", "no_change"}
    output = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(output) == len(findings(run))
    log = (run / "log.txt").read_text()
    for row in read_stats(run):
        if "health" in row:
            assert f"warning: {row['text']}" in output
            assert row["text"] in log


def test_waiting_generator_is_healthy(tmp_path):
    toy_train(tmp_path, images=16 * 60, d_warmup_images=16 * 60, **SMALL)
    assert "no_change" not in findings(tmp_path)


def test_still_generator_is_reported_once(tmp_path, capsys):
    toy_train(tmp_path, images=16 * 100, lr_g=1e-12, **SMALL)  # grids at 0, 800 and 1,600 images
    assert findings(tmp_path) == ["no_change"]
    assert "the samples have not changed from 0 to 800 images (0.00 of 255 grey levels)" in capsys.readouterr().err


@pytest.mark.slow
def test_healthy_training_reports_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(monitor, "GRACE_STEPS", 300)
    toy_train(tmp_path, images=16 * 400, lr_g=1e-3, lr_d=1e-3, **SMALL)
    assert findings(tmp_path) == []
    assert capsys.readouterr().err == ""


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.floats(0.9, 1), st.floats(0.1, 10)), min_size=10, max_size=60))
def test_too_strong_needs_ten_rows(rows):
    watch = Monitor(True, (2, 3, 8, 8))
    reported = False
    for i, (accuracy, gradient) in enumerate(rows):
        found = watch.update({"images": i, "rounds": i, "d_accuracy": accuracy, "grad_g": gradient})
        reported = reported and accuracy > 0.97
        window = rows[max(0, i - 9) : i + 1]
        first, later = (np.mean([g for _, g in part]) for part in (window[:5], window[5:] or window))
        failing = len(window) == 10 and all(a > 0.97 for a, _ in window) and later < 0.8 * first
        assert bool(found) == (failing and not reported)
        reported = reported or failing


def test_samples_may_rest_at_low_rates():
    still = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for rate, kinds in ((1.0, ["no_change"]), (0.05, [])):
        watch = Monitor(True, (2, 3, 8, 8))
        watch.update_grid(still, 0, 0)
        assert [finding.kind for finding in watch.update_grid(still, 800, 50, rate)] == kinds


def test_overflow_at_the_smallest_scale():
    assert problem_of({"loss_d": 1.0, "skipped": 3.0}, 2.0**-3) == "fp16 gradients overflow at a loss scale of 0.125"
    assert problem_of({"loss_d": 1.0, "skipped": 3.0}, 2.0**16) is None
    assert problem_of({"loss_d": 1.0, "skipped": 0.0}, 2.0**-3) is None
    assert problem_of({"loss_d": 1.0}, 1.0) is None


def test_critic_is_never_too_strong():
    watch = Monitor(False, (2, 3, 8, 8))
    for i in range(30):
        assert not watch.update({"images": i, "rounds": i, "d_accuracy": 1.0, "grad_g": 1 / (i + 1)})


ROLLED_BACK = toy_config(images=320, save_every=80, sample_every=80, keep=1)


@pytest.fixture(scope="module")
def rolled_back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run with a roll-back."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        poison(monkeypatch, at_step=13)
        return toy_run(tmp_path_factory.mktemp("rolled-back") / "run", ROLLED_BACK).run


def test_roll_back_halves_the_learning_rates(rolled_back):
    rows = read_stats(rolled_back)
    (row,) = [row for row in rows if "health" in row]
    assert (row["health"], row["images"], row["rounds"]) == ("rolled_back", 160, 10)
    text = "is nan at 224 images: rolled back to the checkpoint of 160 images, with half the learning rates."
    assert text in row["text"]
    images = list(range(32, 321, 32))
    assert [(r["images"], r["lr_scale"]) for r in rows if "loss_g" in r] == [
        (n, 1 if n <= 160 else 0.5) for n in images
    ]
    state = json.loads((rolled_back / "checkpoints/000000320/state.json").read_text())
    assert (state["rolled_back"]["to_images"], state["lr_scale"]) == (160, 0.5)
    assert sorted(int(path.stem) for path in (rolled_back / "samples").iterdir()) == [0, 80, 160, 240, 320]
    assert steps_of(rolled_back, "loss_g") == images  # and TensorBoard shows the rows of stats.jsonl


def test_resume_after_roll_back_to_the_bit(tmp_path, monkeypatch, rolled_back):
    """Stopped before the roll-back, while a weight is NaN, and after it."""
    poison(monkeypatch, at_step=13)
    stop = stop_after(3, 12, 13, 16)  # of all steps
    for _ in range(4):
        with pytest.raises(Interrupted):
            toy_run(tmp_path, ROLLED_BACK, stop=stop)
    toy_run(tmp_path, ROLLED_BACK)
    assert weights(tmp_path) == weights(rolled_back)
    assert without_times(tmp_path) == without_times(rolled_back)


def test_stop_while_diverged_saves_nothing(tmp_path, monkeypatch):
    poison(monkeypatch, at_step=11)
    output = r"Stopped at 176 images without saving, because .* is not finite\.\n.* resumes from 160 images\."
    with pytest.raises(Interrupted, match=output):
        toy_run(tmp_path, toy_config(images=640), stop=stop_after(11))


def test_second_divergence_stops_with_advice(tmp_path, monkeypatch):
    poison(monkeypatch, at_step=15, times=5)
    with pytest.raises(TrainingError, match=r"diverged at 256 images: .*, again, after a roll-back") as caught:
        toy_train(tmp_path, images=640)
    assert "--precision fp32" in str(caught.value)
    assert f"--init {tmp_path} starts from this run's last finite weights" in str(caught.value)
    assert caught.value.exit_code == 1
    assert len(str(caught.value).splitlines()) <= 3
    with pytest.raises(TrainingError, match="again"):  # the run remembers it
        toy_train(tmp_path, images=640)


def test_exploding_training_saves_only_finite_weights(tmp_path, capsys):
    with pytest.raises(TrainingError, match=r"diverged at \d+ images"):
        toy_train(tmp_path, images=1600, lr_g=1e30, lr_d=1e30, save_every=32)
    assert "rolled back to the checkpoint of 0 images" in capsys.readouterr().err
    paths = list(tmp_path.rglob("*.safetensors"))
    assert len(paths) >= 3
    for path in paths:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    assert findings(tmp_path) == ["rolled_back"]


def test_curves_show_marks():
    rows: list[dict[str, Any]] = [
        {"images": i, "rounds": i, "loss_g": 1.0, "loss_d": 2.0, "d_real": 0.0, "d_fake": 0.0, "d_accuracy": 0.5}
        for i in range(100)
    ]
    kinds = ("rolled_back", "d_too_strong", "collapse", "no_change")
    marks = [{"images": 50, "rounds": 50, "health": kind, "value": 0, "text": ""} for kind in kinds]
    assert draw_curves(rows + marks) != draw_curves(rows)
