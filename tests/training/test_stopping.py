"""Ctrl-C: what it prints, how soon, and that nothing is lost by it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import ToyBatches, ToyFaces, toy_config, toy_train, without_times

from facegan.console import Console
from facegan.errors import Interrupted
from facegan.training import loop, train
from facegan.training import loop as signals
from facegan.training.log import read_stats
from facegan.training.precision import choose_precision
from facegan.training.trainer import Trainer, spec_of

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dcgan": ("dcgan", {}),
    "bf16": ("dcgan", {"precision": "bf16"}),
    "penalty": ("wgan-gp", {"d_steps": 2, "batch": 8}),
    "parts": ("wgan-gp", {"d_steps": 1, "grad_accum_steps": 2, "augment": "color,translation", "random_flip": True}),
    "spectral": ("dcgan", {"nets": "resnet", "width": 2, "batch": 8}),
    "dropout": ("dcgan", {"nets": "mlp"}),
    "began": ("dcgan", {"nets": "began", "loss": "began"}),
}


def state_of(trainer: Trainer, reals: ToyBatches) -> tuple[dict[str, torch.Tensor], Any]:
    tensors = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    return tensors, (trainer.scalars(), reals.state_dict())


def assert_equal(one: tuple[dict[str, torch.Tensor], Any], other: tuple[dict[str, torch.Tensor], Any]) -> None:
    assert one[1] == other[1]
    assert [name for name, tensor in one[0].items() if not torch.equal(tensor, other[0][name])] == []


@pytest.mark.parametrize("case", CASES)
def test_discarded_step_leaves_no_trace(case: str) -> None:
    """Broken off at its first, a middle and its last layer; and asking changes nothing of a step that is finished."""
    method, given = CASES[case]
    config = toy_config(method, **given)
    cpu = torch.device("cpu")
    precision = choose_precision(config.precision, cpu)
    trainers = [Trainer(config, spec_of(config, 32, 3), cpu, precision) for _ in range(2)]
    first, second = trainers
    reals, others = (ToyFaces(40).batches(config.batch) for _ in trainers)
    for trainer, batches in ((first, reals), (second, others)):
        trainer.train_step(batches)
    asked: list[int] = []
    assert first.train_step_unless(lambda: bool(asked.append(1)), reals)
    second.train_step(others)
    assert_equal(state_of(first, reals), state_of(second, others))
    before = state_of(first, reals)
    for number in (1, len(asked) // 2, len(asked)):
        left = iter(range(number, 0, -1))
        assert not first.train_step_unless(lambda left=left: next(left) == 1, reals)
        assert_equal(state_of(first, reals), before)
    first.train_step(reals)
    second.train_step(others)
    assert_equal(state_of(first, reals), state_of(second, others))


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
    train(toy_config(images=160), faces, run, device="cpu", console=Console(), **given)


def test_long_step_is_discarded(tmp_path, monkeypatch, capfd):
    whole = toy_train(tmp_path / "whole", images=160).run
    monkeypatch.setattr(loop, "_LONG_STEP", 0.0)
    run = tmp_path / "run"
    with pytest.raises(Interrupted, match=r"Stopped at 48 images and saved"):
        start(run, Pressing(at_batch=4 + 4))  # four batches show what real faces are like
    output = capfd.readouterr().err
    assert "Stopping now, without this step, and saving; press again after 10 s to lose the last 48 images.\n" in output
    assert (run / "checkpoints/000000048").is_dir()
    start(run, ToyFaces())
    assert without_times(run) == without_times(whole)
    for name in ("generator.safetensors", "checkpoints/000000160/state.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


def test_short_step_is_finished(tmp_path, capfd):
    with pytest.raises(Interrupted, match=r"Stopped at 64 images and saved"):
        start(tmp_path, Pressing(at_batch=4 + 4))
    assert "Stopping after this step and saving; press again after 10 s to lose the last 48 images.\n" in (
        capfd.readouterr().err
    )


def test_second_press_loses_nothing(tmp_path, capfd):
    faces = ToyFaces()

    def press() -> bool:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(Interrupted, match=r"Stopped at 32 images and saved"):
        start(tmp_path, faces, stop=press)
    assert capfd.readouterr().err.count("Stopping and saving. Please wait.\n") == 2
    assert (tmp_path / "checkpoints/000000032").is_dir()


def test_save_is_always_finished(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(signals, "PATIENCE", 0.0)
    faces = Pressing()

    def press() -> bool:
        faces.in_saves = True
        os.kill(os.getpid(), signal.SIGINT)
        return False

    with pytest.raises(Interrupted, match=r"Stopped at 32 images and saved"):
        start(tmp_path, faces, stop=press)
    assert "Finishing the save first.\n" in capfd.readouterr().err


def test_late_press_says_what_is_lost(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(signals, "PATIENCE", 0.0)
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


class Terminal:
    """A command in a terminal of 80 columns."""

    def __init__(self, *command: object) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "facegan", *map(str, command)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**environment, "TERM": "xterm-256color"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.output = b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while data := os.read(self.master, 4096):
                self.output += data

    def wait_for(self, path: Path, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not path.exists() and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)

    def press(self) -> None:
        os.write(self.master, b"\x03")

    def end(self) -> tuple[int, str]:
        """Exit code, and all that was printed, without colours and movements."""
        try:
            code = self.process.wait(120)
        finally:
            self.process.kill()
            self.reader.join()
            os.close(self.master)
        return code, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.output.decode())


def test_interrupt_in_a_terminal(dataset: Path, tmp_path: Path) -> None:
    """Train, press Ctrl-C twice, go on to the end, start once more."""
    run = tmp_path / "run"
    options = ["--batch", 60, "--images", 120, "--precision", "fp32", "--set", "train.width=16"]
    command = ["train", "--shards", dataset, *options, "--run", run]
    terminal = Terminal(*command)
    terminal.wait_for(run / "checkpoints" / "000000000")
    terminal.press()
    time.sleep(0.05)
    terminal.press()
    code, output = terminal.end()
    assert code == 130, output
    assert f"{run} (sample grids: {run / 'samples'})" in output.replace("\r\n", "")
    assert output.index("Stopping ") < output.index("Stopped at ")
    code, output = Terminal(*command).end()
    assert code == 0, output
    assert "0/0" not in output
    again = Terminal(*command)
    code, output = again.end()
    assert code == 0, output
    assert "is finished: it has 120 images" in output
    assert "0/0" not in output
    shutil.move(run, tmp_path / "stopped")
    code, output = Terminal(*command).end()
    assert code == 0, output
    for name in ("generator.safetensors", "samples/000000120.png"):
        assert (run / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes()
