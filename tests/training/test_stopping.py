"""Ctrl-C: what it prints, how soon, and that nothing is lost by it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyBatches, ToyFaces, assert_equal_states, toy_config, toy_run, toy_train, toy_trainer, without_times

from facegan.console import Console
from facegan.errors import Interrupted
from facegan.training import loop
from facegan.training.log import read_stats

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "parts": ("wgan-gp", {"d_steps": 1, "grad_accum_steps": 2, "augment": "color,translation", "random_flip": True}),
    "spectral": ("dcgan", {"nets": "resnet", "width": 2, "batch": 8}),
    "dropout": ("dcgan", {"nets": "mlp", "width": 4}),
    "began": ("dcgan", {"nets": "began", "loss": "began", "width": 4, "batch": 8}),
}


@pytest.mark.parametrize("case", CASES)
def test_discarded_step_leaves_no_trace(case: str) -> None:
    """Broken off at its first, a middle and its last layer; and asking changes nothing of a step that is finished."""
    method, given = CASES[case]
    first, second = (toy_trainer(method, **given) for _ in range(2))
    reals, others = (ToyFaces(40).batches(first.config.batch) for _ in range(2))
    first.train_step(reals)
    second.train_step(others)
    asked: list[int] = []
    assert first.train_step_unless(lambda: bool(asked.append(1)), reals)
    second.train_step(others)
    for number in (1, len(asked) // 2, len(asked)):
        left = iter(range(number, 0, -1))
        assert not first.train_step_unless(lambda left=left: next(left) == 1, reals)
        assert_equal_states(first, second)
        assert reals.position == others.position
    first.train_step(reals)
    second.train_step(others)
    assert_equal_states(first, second)


class Pressing(ToyFaces):
    """Presses Ctrl-C so many batches later, in the middle of a step; or in a save."""

    def __init__(self, at_batch: int = -1) -> None:
        super().__init__()
        self.at_batch, self.in_saves = at_batch, False

    def batches(self, batch_size: int, **given: Any) -> ToyBatches:
        faces = self

        class Batches(ToyBatches):
            def __next__(self) -> torch.Tensor:
                faces.at_batch -= 1
                if faces.at_batch == 0:
                    os.kill(os.getpid(), signal.SIGINT)
                return super().__next__()

            def state_dict(self) -> dict[str, Any]:
                if faces.in_saves:
                    os.kill(os.getpid(), signal.SIGINT)
                return super().state_dict()

        return Batches(self.images, batch_size, given["seed"], self.fingerprint)


def start(run: Path, faces: ToyFaces, **given: Any) -> None:
    toy_run(run, toy_config(images=96), faces, console=Console(), **given)


def test_long_step_is_discarded(tmp_path, monkeypatch, capfd):
    whole = toy_train(tmp_path / "whole", images=96).run
    monkeypatch.setattr(loop, "_LONG_STEP", 0.0)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"Stopped at 48 images and saved"):
        start(run, Pressing(at_batch=4 + 4))  # four batches show what real faces are like
    output = capfd.readouterr().err
    assert "Stopping now, without this step, and saving; press again after 10 s to lose the last 48 images.\n" in output
    assert (run / "checkpoints/000000048").is_dir()
    start(run, ToyFaces())
    assert without_times(run) == without_times(whole)
    for name in ("generator.safetensors", "checkpoints/000000096/state.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_second_press_loses_nothing(tmp_path, capfd):
    faces = ToyFaces()

    def press() -> bool:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(Interrupted, match=r"Stopped at 32 images and saved"):
        start(tmp_path, faces, stop=press)
    output = capfd.readouterr().err
    assert "Stopping after this step and saving; press again after 10 s to lose the last 16 images.\n" in output
    assert output.count("Stopping and saving. Please wait.\n") == 2
    assert (tmp_path / "checkpoints/000000032").is_dir()


def test_save_is_always_finished(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(loop, "PATIENCE", 0.0)
    faces = Pressing()

    def press() -> bool:
        faces.in_saves = True
        os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(Interrupted, match=r"Stopped at 32 images and saved"):
        start(tmp_path, faces, stop=press)
    assert "Finishing the save first.\n" in capfd.readouterr().err


def test_late_press_says_what_is_lost(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(loop, "PATIENCE", 0.0)
    before = signal.getsignal(signal.SIGINT)

    def press() -> bool:
        if read_stats(tmp_path):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return False

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, ToyFaces(), stop=press)
    assert "Stopping without saving: the last 32 images are lost.\n" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["000000000"]
