"""The moving average, in closed form, and its batch-norm statistics; number formats."""

import copy

import pytest
import torch
from toy import CPU, toy_steps, toy_trainer

from facegan.errors import SettingsError
from facegan.nets import NetSpec, make_generator
from facegan.nets.random import latents
from facegan.sample.latents import sample_latents
from facegan.training import precision
from facegan.training.optim import Ema, ema_beta

SPEC = NetSpec(size=32, width=4, latent=8)


def test_ema_beta_is_a_half_life():
    assert ema_beta(100, 10**9, 1000) == pytest.approx(0.5**0.1)
    assert ema_beta(100, 2000, 1000) == pytest.approx(0.5)  # the ramp: a half-life of 5 % of 2,000
    assert ema_beta(100, 10**9, 0) == 0


@pytest.mark.parametrize("on_device", [False, True], ids=["number", "tensor"])
def test_ema_has_the_closed_form(on_device):
    source = make_generator(SPEC)
    ema = Ema(source, half_life_images=400, weight_on_device=on_device)
    start = {name: tensor.clone() for name, tensor in ema.net.state_dict().items()}
    with torch.no_grad():
        for tensor in [*source.parameters(), *(b for b in source.buffers() if b.is_floating_point())]:
            tensor.add_(1)
    for _ in range(8):
        ema.set_decay(100, images_seen=10**6)
        ema.update()
    for name, tensor in ema.net.state_dict().items():  # eight quarters of a half-life: a quarter of the step is missing
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, start[name] + 0.75, msg=name)


def test_without_half_life_average_equals_weights():
    t = toy_steps(toy_trainer(ema_images=0))
    for average, weight in zip(t.ema.net.parameters(), t.generator.parameters(), strict=True):
        assert torch.equal(average, weight)


def test_statistics_are_fresh_and_training_unchanged():
    t = toy_steps(toy_trainer(), 3)
    before = {name: tensor.clone() for name, tensor in t.tensors().items()}
    one, same = t.ema.generator(0), t.ema.generator(0)
    assert all(torch.equal(before[name], tensor) for name, tensor in t.tensors().items())
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), same.buffers(), strict=True))
    z = sample_latents(512, 16, 5)
    as_trained = copy.deepcopy(one).train()(z)
    torch.testing.assert_close(one(z), as_trained, atol=0.05, rtol=0)


def test_statistics_of_linear_layers():
    net = toy_steps(toy_trainer(nets="mnist-conv", width=4)).ema.generator(7)
    norm = net.get_submodule("layers.1")
    batches = [
        net.get_submodule("layers.0")(latents(64, 16, 7, "batch-norm statistics", batch, CPU, net.spec.distribution))
        for batch in range(8)
    ]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variance = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, variance, atol=1e-5, rtol=1e-4)


def test_gpu_math_is_restored_afterwards():
    cuda = torch.device("cuda")  # its flags exist without a GPU
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with precision.gpu_math(cuda, tf32=True, deterministic=True):
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
            with precision.gpu_math(cuda, tf32=False, deterministic=False):
                assert not torch.are_deterministic_algorithms_enabled()
            assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_auto_precision_follows_cpu_instructions(monkeypatch):
    for flags, chosen in [({"avx512f"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16"), (set(), "fp32")]:
        monkeypatch.setattr(precision, "cpu_flags", lambda flags=flags: flags)
        assert precision.choose_precision("auto", CPU) == chosen
    assert precision.choose_precision("bf16", CPU) == "bf16"


def test_precisions_that_a_device_lacks(monkeypatch):
    with pytest.raises(SettingsError, match="--precision fp16 needs a CUDA GPU, and the device is cpu"):
        precision.choose_precision("fp16", CPU)
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(SettingsError, match="--precision bf16 is not available on Tesla T4"):
        precision.choose_precision("bf16", torch.device("cuda"))
