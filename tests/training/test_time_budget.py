"""``--images 1h``: a number of images that is measured once, and then is a number like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from toy import ToyFaces, stop_after, ticking_clock, toy_config, toy_run, weights, without_times

from facegan.config import TrainConfig
from facegan.console import Console
from facegan.errors import Interrupted, SettingsError
from facegan.training import augment, monitor, plan_train, run
from facegan.training.augment import adapt
from facegan.training.run import sentence_of
from facegan.training.time_budget import Costs

TIME = "0.0016min"


def measure(generator: Any) -> dict[str, float]:
    return {"size": float(generator.spec.size)}


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only."""
    folder = tmp_path_factory.mktemp("timed") / "run"
    with ticking_clock():
        toy_run(folder, toy_config(images=TIME, schedule="linear"), measure=measure, eval_every=160)
    return folder


def test_same_bytes_as_that_number(timed: Path, tmp_path: Path) -> None:
    record = json.loads((timed / "run.json").read_text())
    images = record["settings"]["images"]
    assert record["time"] == {"time": TIME, "images": images}
    assert f"--images {TIME} on this machine is {images:,} images" in (timed / "log.txt").read_text()
    again = tmp_path / "run"
    toy_run(again, toy_config(images=images, schedule="linear"), measure=measure, eval_every=160)
    assert "time" not in json.loads((again / "run.json").read_text())
    assert weights(again) == weights(timed)
    assert without_times(again) == without_times(timed)
    files = [sorted(path.relative_to(each) for path in each.rglob("*.*g")) for each in (again, timed)]
    assert files[0] == files[1]
    for checkpoint in (timed / "checkpoints").iterdir():
        other = again / "checkpoints" / checkpoint.name
        assert (other / "state.safetensors").read_bytes() == (checkpoint / "state.safetensors").read_bytes()
        states = [json.loads((each / "state.json").read_text()) for each in (checkpoint, other)]
        for state in states:  # seconds, and the length of log.txt
            for name in ("seconds", "logged_at", "log", "sha256"):
                del state[name]
        assert states[0] == states[1]


def test_resumed_run_keeps_the_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, config = tmp_path / "run", toy_config(images=TIME, schedule="linear")
    with pytest.raises(Interrupted), ticking_clock():
        toy_run(folder, config, stop=stop_after(3))
    images = json.loads((folder / "run.json").read_text())["settings"]["images"]
    monkeypatch.setattr(run, "images_in_time", None)  # not called again
    plan = plan_train(config, ToyFaces(), folder, device="cpu")
    assert (plan["images"], plan["from_images"]) == (images, 48)
    assert toy_run(folder, toy_config(images=" 0.00160 min", schedule="linear")).images == images
    assert toy_run(folder, config).images == images  # it is finished
    with pytest.raises(SettingsError, match=f"was started with images = {images}; this command asks for images = 2h"):
        toy_run(folder, toy_config(images="2h", schedule="linear"))


def test_costs_fill_the_time() -> None:
    config = toy_config(save_every=160, sample_every=320, log_every=32)
    costs = Costs(start=10, step=1, row=0.5, grid=3, save=5, evaluation=7, evaluate_every=480)
    # 100 steps are 1,600 images: 51 rows; 1 + 6 grids; 4 evaluations; 1 + 11 + 4 checkpoints.
    assert costs.seconds(config, 100) == 10 + 100 + 51 * 0.5 + 7 * 3 + 4 * 7 + 16 * 5
    for seconds in (100, 264.4, 264.5, 10_000):
        steps = costs.steps_in(config, seconds)
        assert costs.seconds(config, steps) <= seconds < costs.seconds(config, steps + 1)
    assert costs.steps_in(config, 264.5) == 100
    assert costs.steps_in(config, 20) == 0


def test_too_short_time_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--images 0\.00001min is too short for a step here: .* it takes \d+ s"):
        toy_run(tmp_path / "run", toy_config(images="0.00001min"))
    assert not (tmp_path / "run/run.json").exists()
    assert not list((tmp_path / "run").glob(".*.partial"))


def test_dry_run_refuses_a_too_short_time(tmp_path: Path) -> None:
    config = toy_config(images="0.00000001min")
    with pytest.raises(SettingsError, match=r"--images 0\.00000001min is too short for a step here\.\nUse a longer"):
        sentence_of(plan_train(config, ToyFaces(), tmp_path / "run", device="cpu"), config, ToyFaces())


def test_measures_steps_that_augment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = toy_config(images=TIME, augment="ada", ada_images=10**9), []

    def watched(images: Tensor, p: Tensor, *random: Tensor) -> Tensor:
        seen.append(p.item())
        return adapt(images, p, *random)

    monkeypatch.setattr(augment, "adapt", watched)
    sentence_of(plan_train(config, ToyFaces(), tmp_path / "run", device="cpu"), config, ToyFaces())
    assert min(seen) > 0.05
    seen.clear()
    with ticking_clock():
        toy_run(tmp_path / "run", config)
    assert max(seen) > 0.05
    rows = [row for row in without_times(tmp_path / "run") if "ada_p" in row]
    assert max(row["ada_p"] for row in rows) < 0.01  # the run itself starts at 0


def test_settings_with_a_time(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--images 0h is too short\. Write a time greater than 0\."):
        TrainConfig.of({"images": "0h"})
    config = TrainConfig.of({"images": "1.5h"})
    assert (config.time, config.length) == ("1.5h", "1.5h")
    assert config.with_images(640) == TrainConfig(images=640)
    plan = plan_train(toy_config(images="1h"), ToyFaces(), tmp_path / "run", device="cpu")
    assert (plan["images"], plan["time"]) == (None, "1h")
    sentence, advice = sentence_of(plan, toy_config(images="1h"), ToyFaces())
    assert (": 1h, about " in sentence, advice) == (True, "")


def test_shorter_time_than_the_run_has(tmp_path: Path) -> None:
    trained = toy_run(tmp_path / "run", toy_config(images=960)).images
    before, config = (tmp_path / "run/run.json").read_bytes(), toy_config(images="0.0016min")
    finished = f"The run {tmp_path / 'run'} is finished: it has 960 images. Use a larger --images to continue."
    short = toy_config(images="0.0001min")
    assert sentence_of(plan_train(short, ToyFaces(), tmp_path / "run", device="cpu"), short, ToyFaces()) == (
        finished,
        "",
    )
    with ticking_clock():
        assert toy_run(tmp_path / "run", config).images == trained
    log = (tmp_path / "run/log.txt").read_text()
    assert finished in log
    assert "a resumed run keeps" not in log
    assert (tmp_path / "run/run.json").read_bytes() == before


def test_measurement_reports_no_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "GRACE_STEPS", 0)
    with ticking_clock():
        toy_run(tmp_path / "run", toy_config(images=TIME), console=Console())
    before, _, _ = capsys.readouterr().err.partition("on this machine is")
    assert "look alike" not in before
