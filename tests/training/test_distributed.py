"""Two processes on CPUs, joined by gloo, beside one with the same global batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import two
from torch import nn
from toy import ToyFaces, toy_config

from facegan.errors import SettingsError
from facegan.training import plan_train
from facegan.training.distributed import World
from facegan.training.log import read_stats
from facegan.training.trainer import Trainer, spec_of

CPU = torch.device("cpu")
PROGRAM = Path(__file__).with_name("two.py")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def two_processes(*arguments: str) -> list[tuple[str, str]]:
    """Output and errors of both, started by the environment alone as torchrun does. They end with a failure."""
    base = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    children = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *arguments],
            env=base | {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [child.communicate(timeout=300) for child in children]
    finally:
        for child in children:
            child.kill()
    assert all(child.returncode for child in children), ended
    return ended


CASES = {
    "critic without batch statistics": ("wgan-gp", {"d_steps": 2}),
    "connected layers, dropout by image": ("dcgan", {"nets": "mlp", "width": 4}),
    "conditional": ("wgan-gp", {"d_steps": 1, "condition": "Red,Light"}),
    "spectral normalisation": ("dcgan", {"nets": "resnet", "width": 2}),
    "adaptive augmentation": (
        "dcgan",
        {"norm": "none", "augment": "ada", "ada_target": -0.9, "ada_images": 64, "grad_accum_steps": 2},
    ),
    "in parts, augmented": (
        "wgan-gp",
        {"d_steps": 1, "grad_accum_steps": 2, "augment": "color,translation", "random_flip": True},
    ),
}


@dataclass(frozen=True)
class Trained:
    folder: Path
    answers: list[Any]  # of one process, and of each of two
    errors: list[str]  # of the two


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All at once: starting processes takes longer than their steps."""
    folder = tmp_path_factory.mktemp("distributed")
    alone = json.loads(json.dumps(two.trains(World(0, 1), CASES, folder / "1")))
    ended = two_processes(json.dumps(CASES), str(folder / "2"))
    answers = [json.loads(out.splitlines()[-1]) for out, _ in ended]
    return Trained(folder, [alone, *answers], [errors for _, errors in ended])


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(trained, case):
    alone, first, second = (output["cases"][case] for output in trained.answers)
    assert first == second  # both hold the same weights, and the same means
    for row, expected in zip(first["rows"], alone["rows"], strict=True):
        assert row == pytest.approx(expected, rel=2e-3, abs=2e-4)
    assert first["weights"] == pytest.approx(alone["weights"], rel=1e-3)
    if case == "adaptive augmentation":
        assert [row["ada_p"] for row in first["rows"]] == [0, 0, 0, 0, 1]


def losses(run: Path) -> list[dict[str, float]]:
    names = ("images", "loss_g", "loss_d", "d_real", "d_fake", "d_accuracy", "grad_g")
    return [{name: row[name] for name in names} for row in read_stats(run) if "loss_g" in row]


def test_two_processes_stop_and_resume(trained):
    _, first, second = trained.answers
    for answer in (first, second):
        assert (answer["stopped_after"], answer["images"]) == (3, [96, 96])
    whole, stopped = trained.folder / "2/whole", trained.folder / "2/stopped"
    assert (whole / "generator.safetensors").read_bytes() == (stopped / "generator.safetensors").read_bytes()
    assert losses(whole) == losses(stopped)
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == ["000000032", "000000064", "000000096"]
    for row, expected in zip(losses(whole), losses(trained.folder / "1/whole"), strict=True):
        assert row == pytest.approx(expected, rel=5e-3, abs=5e-3)


def test_only_the_main_process_evaluates(trained) -> None:
    _, first, second = trained.answers
    assert first["calls"] == ["protocol", "floor", "value", "value"]
    assert second["calls"] == []
    assert first["best"] == second["best"] != 0
    assert first["timed"] == second["timed"] > 0
    assert first["ended"] == second["ended"] == [64, 64]
    assert (trained.folder / f"2/whole/checkpoints/{first['best']:09d}").is_dir()


def test_failing_process_ends_the_others(trained):
    assert "this process is to fail" in trained.errors[1]
    assert all("Traceback" in errors for errors in trained.errors)


def test_batch_that_cannot_be_shared():
    with pytest.raises(SettingsError, match=r"--batch 10 cannot be shared evenly by 4 processes\. Choose 8 or 12\."):
        World(0, 4).share(10)
    with pytest.raises(SettingsError, match=r"--batch 3 .* 4 processes\. Choose 4\."):
        World(0, 4).share(3)
    assert World(0, 4).share(12) == 3


def test_share_that_cannot_be_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SettingsError, match=r"--batch 24 .* 6 images.*\n.*multiple of 16\."):
        plan_train(toy_config(batch=24, grad_accum_steps=4), ToyFaces(), tmp_path / "run", device="cpu")


def test_sync_batchnorm_on_cpu_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(sync_batchnorm=True)
    assert plan_train(config, ToyFaces(), tmp_path / "run", device="cpu")["sync_batchnorm"]  # a single process may
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"train\.sync_batchnorm needs CUDA GPUs"):
        plan_train(config, ToyFaces(), tmp_path / "run", device="cpu")


def test_sync_batchnorm_keeps_tensors() -> None:
    config = toy_config(sync_batchnorm=True)
    plain, synced = (Trainer(config, spec_of(config, 32, 3), CPU, "fp32", World(0, size)) for size in (1, 2))
    assert any(isinstance(module, nn.SyncBatchNorm) for module in synced.generator.modules())
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in synced.ema.net.modules())
    for name, tensor in plain.tensors().items():
        if not name.startswith("log."):
            assert torch.equal(synced.tensors()[name], tensor), name
