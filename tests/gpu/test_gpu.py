"""What only an NVIDIA GPU can show: recorded rounds are the rounds, on resume too, in every precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from facegan.console import Console
from facegan.errors import Interrupted, SettingsError
from facegan.training import train
from facegan.training.losses import gradient_penalty
from facegan.training.precision import Precision
from facegan.training.trainer import Trainer, spec_of
from tests.training.toy import ToyFaces, ToyOnDevice, toy_config

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
METHODS = ["dcgan", "wgan-gp"]


def trainer(method: str = "dcgan", mode: Precision = "fp32", **given: Any) -> Trainer:
    config = toy_config(method, **{"tf32": False, **given})
    return Trainer(config, spec_of(config, 32, 3), CUDA, mode)


def trained(method: str, rounds: int, mode: Precision = "fp32", **given: Any) -> Trainer:
    t = trainer(method, mode, **given)
    reals = ToyFaces().batches(t.config.batch, device="cuda")
    for _ in range(rounds):
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
    ],
)
def test_recorded_rounds_are_the_rounds(method, given):
    recorded = trained(method, 8, deterministic=True, **given)
    assert recorded.no_graphs_reason == ""
    plain = trained(method, 8, deterministic=True, graphs=False, **given)
    assert_alike(recorded, plain, rtol=1e-4, atol=1e-5)
    assert recorded.means() == pytest.approx(plain.means(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_recorded_rounds_gather_from_the_gpu(method):
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
def test_a_state_taken_up_goes_on_to_the_bit(method, mode):
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


def test_loading_into_recorded_rounds_reaches_them():
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


def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path: Path):
    config = toy_config("dcgan", deterministic=True, precision="bf16")
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 7

    train(config, ToyFaces(), tmp_path / "whole", device="cuda")
    with pytest.raises(Interrupted):
        train(config, ToyFaces(), tmp_path / "stopped", device="cuda", stop=stop)
    train(config, ToyFaces(), tmp_path / "stopped", device="cuda", console=Console(quiet=True))
    whole, stopped = (tmp_path / name / "generator.safetensors" for name in ("whole", "stopped"))
    assert whole.read_bytes() == stopped.read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_fp16_is_finite_for_200_rounds(method):
    t = trained(method, 200, "fp16", batch=16)
    means = t.means()
    assert all(map(math.isfinite, means.values()))
    assert means["skipped"] < 60  # the scales begin high, and fall until gradients fit
    assert all(bool(tensor.isfinite().all()) for tensor in t.tensors().values())
    assert {p.dtype for p in t.generator.parameters()} == {torch.float32}


def test_the_penalty_is_captured_and_is_not_tf32(monkeypatch):
    seen = []
    backends: Any = torch.backends  # whose flags are made at run time

    def penalty(*given):
        seen.append((backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision))
        return gradient_penalty(*given)

    monkeypatch.setattr("facegan.training.step.gradient_penalty", penalty)
    recorded = trained("wgan-gp", 3, tf32=True, deterministic=True)
    plain = trained("wgan-gp", 3, tf32=True, deterministic=True, graphs=False)
    assert recorded.no_graphs_reason == ""
    assert recorded.means()["gp"] == pytest.approx(plain.means()["gp"], rel=1e-3)
    assert set(seen) == {("ieee", "ieee")}


@pytest.mark.slow
def test_memory_is_flat_over_5000_rounds():
    t = trained("dcgan", 50)
    reals = ToyFaces().batches(16, device="cuda")
    torch.cuda.synchronize()
    before = torch.cuda.memory_reserved()
    for _ in range(5000):
        t.train_step(reals)
    torch.cuda.synchronize()
    assert torch.cuda.memory_reserved() == before


def test_pictures_and_measurements_are_made_as_rounds_are(tmp_path: Path):
    seen = []

    def measure(generator: torch.nn.Module) -> dict[str, float]:
        backends: Any = torch.backends
        seen.append((torch.are_deterministic_algorithms_enabled(), backends.cudnn.conv.fp32_precision))
        return {"nothing": 0.0}

    config = toy_config("dcgan", deterministic=True, tf32=False)
    train(config, ToyFaces(), tmp_path / "run", device="cuda", measure=measure, eval_every=64)
    assert set(seen) == {(True, "ieee")}


def test_a_round_does_not_wait_for_the_gpu():
    t = trained("dcgan", 3)
    reals = iter([torch.zeros(16, 3, 32, 32, dtype=torch.uint8, device="cuda")] * 5)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            t.train_step(reals)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_batch_that_does_not_fit_says_which_would(tmp_path: Path):
    free = torch.cuda.mem_get_info()[0]
    torch.cuda.set_per_process_memory_fraction(min(1.0, 3e9 / free))
    try:
        with pytest.raises(
            SettingsError, match=r"--batch 32768 does not fit .*images at once do.\nStart again .* --batch \d+, or"
        ):
            train(toy_config(batch=32768, width=64), ToyFaces(40_000), tmp_path / "run", device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
