"""What only an NVIDIA GPU can show: captured steps are the steps, on resume too, in every precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from facegan.console import Console
from facegan.errors import Interrupted, SettingsError
from facegan.training import train
from facegan.training.losses import gradient_penalty
from facegan.training.precision import Precision
from facegan.training.trainer import Trainer
from tests.training.toy import ToyAttributes, ToyFaces, ToyOnDevice, stop_after, toy_config, toy_trainer, weights

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
METHODS = ["dcgan", "wgan-gp"]


def trainer(method: str = "dcgan", mode: Precision = "fp32", **given: Any) -> Trainer:
    return toy_trainer(method, mode, CUDA, **{"tf32": False, **given})


def trained(method: str, steps: int, mode: Precision = "fp32", **given: Any) -> Trainer:
    t = trainer(method, mode, **given)
    reals = (ToyAttributes if t.config.condition else ToyFaces)().batches(t.config.batch, device="cuda")
    for _ in range(steps):
        t.train_step(reals)
    return t


def assert_alike(one: Trainer, other: Trainer, **given: Any) -> None:
    theirs = other.tensors()
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(tensor, theirs[name], msg=name, **given)


@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("dcgan", {}),
        ("wgan-gp", {"batch": 8}),
        ("wgan-gp", {"batch": 8, "d_steps": 1, "penalty_every": 4}),
        ("dcgan", {"random_flip": True, "augment": "color,translation,cutout", "g_steps": 2, "schedule": "cosine"}),
        ("dcgan", {"grad_accum_steps": 2, "optimizer": "rmsprop", "d_warmup_images": 32}),
        ("dcgan", {"optimizer": "sgd", "momentum": 0.5}),
        ("dcgan", {"nets": "mnist-conv"}),  # dropout
        ("dcgan", {"nets": "resnet"}),  # spectral normalisation
        ("wgan-gp", {"nets": "r3gan", "batch": 8, "width": 16}),
        ("dcgan", {"nets": "began"}),
        ("dcgan", {"condition": "Red,Light"}),
        ("wgan-gp", {"nets": "resnet", "condition": "band", "batch": 8}),
        ("dcgan", {"augment": "ada", "ada_images": 64, "ada_target": -0.9}),
    ],
)
def test_captured_steps_equal_plain_steps(method, given):
    captured = trained(method, 8, deterministic=True, **given)
    assert captured.no_graphs_reason == ""
    plain = trained(method, 8, deterministic=True, graphs=False, **given)
    assert_alike(captured, plain, rtol=1e-4, atol=1e-5)
    assert captured.means() == pytest.approx(plain.means(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_captured_steps_gather_from_the_gpu(method):
    plain, faces = trained(method, 6, deterministic=True, batch=8), ToyFaces().images.cuda()
    t = trainer(method, deterministic=True, batch=8)
    reals = ToyOnDevice(faces, 8, 0, "", given_batches=2 * t.config.d_steps)
    for _ in range(6):
        t.train_step(reals)
    assert t.no_graphs_reason == ""
    assert t.gan_step.faces is not None
    assert_alike(plain, t, rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
def test_loaded_state_continues_to_the_bit(method, mode):
    whole = trained(method, 12, mode, deterministic=True, batch=8)
    reals = ToyFaces().batches(8, device="cuda")
    first, second = (trainer(method, mode, deterministic=True, batch=8) for _ in range(2))
    for _ in range(5):
        first.train_step(reals)
    saved = {name: tensor.cpu().clone() for name, tensor in first.tensors().items()}
    second.load("x", saved, first.scalars())
    for _ in range(7):
        second.train_step(reals)
    assert_alike(whole, second, rtol=0, atol=0)


def test_loading_reaches_captured_steps():
    t = trained("dcgan", 4, deterministic=True)
    saved = {name: tensor.clone() for name, tensor in t.tensors().items()}
    numbers, reals = t.scalars(), ToyFaces().batches(16, device="cuda")
    ends = []
    for _ in range(2):
        t.load("x", saved, numbers)
        reals.position = 4
        t.train_step(reals)
        ends.append({name: tensor.clone() for name, tensor in t.tensors().items()})
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


def test_stopped_run_ends_with_the_same_bytes(tmp_path: Path):
    config = toy_config("dcgan", deterministic=True, precision="bf16")
    train(config, ToyFaces(), tmp_path / "whole", device="cuda")
    with pytest.raises(Interrupted):
        train(config, ToyFaces(), tmp_path / "stopped", device="cuda", stop=stop_after(7))
    train(config, ToyFaces(), tmp_path / "stopped", device="cuda", console=Console(quiet=True))
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")


def test_captured_penalty_is_not_tf32(monkeypatch):
    seen = []
    backends: Any = torch.backends  # whose flags are made at run time

    def penalty(*given):
        seen.append((backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision))
        return gradient_penalty(*given)

    monkeypatch.setattr("facegan.training.step.gradient_penalty", penalty)
    captured = trained("wgan-gp", 3, tf32=True, deterministic=True)
    plain = trained("wgan-gp", 3, tf32=True, deterministic=True, graphs=False)
    assert captured.no_graphs_reason == ""
    assert captured.means()["gp"] == pytest.approx(plain.means()["gp"], rel=1e-3)
    assert set(seen) == {("ieee", "ieee")}


@pytest.mark.slow
def test_memory_is_flat_over_5000_steps():
    t = trained("dcgan", 50)
    reals = ToyFaces().batches(16, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for _ in range(5000):
        t.train_step(reals)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == before


def test_step_does_not_wait_for_the_gpu():
    t = trained("dcgan", 3)
    reals = iter([torch.zeros(16, 3, 32, 32, dtype=torch.uint8, device="cuda")] * 5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            t.train_step(reals)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_too_large_batch_names_one_that_fits(tmp_path: Path):
    free = torch.cuda.mem_get_info()[0]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3e9 / free))
    try:
        with pytest.raises(
            SettingsError, match=r"--batch 32768 does not fit .*images at once do.\nStart again .* --batch \d+, or"
        ):
            train(toy_config(batch=32768, width=64), ToyFaces(40_000), tmp_path / "run", device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
