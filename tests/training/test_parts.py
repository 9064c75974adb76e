"""Devices, precision, the moving average, steps, grids."""

import copy
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from toy import ToyFaces, toy_config

from facegan import system
from facegan.errors import DeviceError, SettingsError
from facegan.nets import NetSpec, make_generator
from facegan.sample.generate import grid, sample_images, sample_latents, save_png, to_uint8
from facegan.training import precision
from facegan.training.ema import Ema, ema_beta
from facegan.training.step import to_float
from facegan.training.trainer import Trainer, spec_of

CPU = torch.device("cpu")
SPEC = NetSpec(size=32, width=4, latent=8)


def trainer(method="dcgan", mode: precision.Precision = "fp32", **given) -> Trainer:
    config = toy_config(method, **given)
    return Trainer(config, spec_of(config, 32, 3), CPU, mode)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ("gpu", "--device gpu is not known: choose auto, cpu, cuda, cuda:N or mps. Did you mean 'cpu'?"),
        ("cpu:1", "--device cpu:1 is not known"),
        ("cuda:99", "--device cuda:99 is not there"),
    ],
)
def test_devices_that_are_not_there(asked, sentence):
    with pytest.raises(DeviceError) as caught:
        system.choose_device(asked)
    assert sentence in str(caught.value)


def test_gpu_math_is_as_it_was_afterwards():
    cuda = torch.device("cuda")  # its flags are there without one
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


def test_auto_takes_bf16_only_where_the_cpu_has_instructions(monkeypatch):
    for flags, chosen in [({"avx512f"}, "fp32"), ({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16"), (set(), "fp32")]:
        monkeypatch.setattr(precision, "cpu_flags", lambda flags=flags: flags)
        assert precision.choose_precision("auto", CPU) == chosen
    assert precision.choose_precision("bf16", CPU) == "bf16"


def test_fp16_on_a_cpu():
    with pytest.raises(SettingsError, match="--precision fp16 needs a CUDA GPU, and the device is cpu"):
        precision.choose_precision("fp16", CPU)


def test_a_misspelt_method():
    with pytest.raises(SettingsError, match="Did you mean 'wgan-gp'"):
        toy_config("wgangp")


def test_ema_beta():
    assert ema_beta(100, 10**9, 1000) == pytest.approx(0.5**0.1)
    assert ema_beta(100, 2000, 1000) == pytest.approx(0.5)  # the ramp: a half-life of 5 % of 2,000
    assert ema_beta(100, 10**9, 0) == 0


def test_ema_of_constant_weights_has_the_closed_form():
    source = make_generator(SPEC)
    ema = Ema(source, half_life_images=400)
    start = {name: tensor.clone() for name, tensor in ema.net.state_dict().items()}
    with torch.no_grad():
        for tensor in [*source.parameters(), *(b for b in source.buffers() if b.is_floating_point())]:
            tensor.add_(1)
    for _ in range(8):
        ema.aim(100, images_seen=10**6)
        ema.update()
    for name, tensor in ema.net.state_dict().items():  # eight quarters of a half-life: the step's quarter is missing
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, start[name] + 0.75, msg=name)


def test_a_weight_on_the_device_averages_as_a_number_does():
    source = make_generator(SPEC)
    number, tensor = Ema(source, 400), Ema(source, 400, weight_on_device=True)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(1)
    for ema in (number, tensor):
        for images in (1000, 10**6):
            ema.aim(100, images)
            ema.update()
    for name, value in number.net.state_dict().items():
        torch.testing.assert_close(tensor.net.state_dict()[name], value, msg=name)


def test_without_a_half_life_the_average_is_the_last_weights():
    t = trainer(ema_images=0)
    reals = ToyFaces().batches(16)
    t.round(reals)
    for average, weight in zip(t.ema.net.parameters(), t.generator.parameters(), strict=True):
        assert torch.equal(average, weight)


def test_batch_norm_statistics_of_the_average_are_measured_and_the_training_is_left_alone():
    t = trainer()
    for _ in range(3):
        t.round(ToyFaces().batches(16))
    before = {name: tensor.clone() for name, tensor in t.tensors().items()}
    one, same = t.ema.generator(0), t.ema.generator(0)
    assert all(torch.equal(before[name], tensor) for name, tensor in t.tensors().items())
    assert all(torch.equal(a, b) for a, b in zip(one.buffers(), same.buffers(), strict=True))
    z = sample_latents(512, 16, 5)
    as_trained = copy.deepcopy(one).train()(z)
    torch.testing.assert_close(one(z), as_trained, atol=0.05, rtol=0)


def test_fused_adam_in_channels_last_is_adam():
    """Moments and weights share a layout in memory; else fused Adam moves the wrong elements."""
    t = trainer()
    weight = t.generator.get_parameter("layers.3.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last)
    plain = torch.nn.Parameter(weight.detach().clone().contiguous())
    adam = torch.optim.Adam([plain], 2e-4, betas=(0.5, 0.999), foreach=False)
    reals = ToyFaces().batches(16)
    for _ in range(3):
        t.round(reals)
        assert weight.grad is not None
        plain.grad = weight.grad.detach().clone().contiguous()
        adam.step()
    torch.testing.assert_close(weight.detach(), plain.detach().contiguous(), atol=1e-7, rtol=1e-5)


def test_a_state_loaded_into_another_trainer_goes_on_alike():
    reals = list(itertools.islice(ToyFaces().batches(16), 4))
    one, other = trainer(), trainer(seed=0)
    for _ in range(2):
        one.round(iter(reals[:1]))
    saved = {name: tensor.clone().contiguous() for name, tensor in one.tensors().items()}
    other.load("x", saved, one.numbers())
    one.round(iter(reals[1:]))
    other.round(iter(reals[1:]))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name


def test_the_generators_step_leaves_the_discriminators_gradients_alone():
    t = trainer()
    t.work.reals[0].copy_(next(ToyFaces().batches(16)))
    t.work.discriminator_step()
    before = [p.grad.clone() for p in t.discriminator.parameters() if p.grad is not None]
    t.work.generator_step()
    after = [p.grad for p in t.discriminator.parameters() if p.grad is not None]
    assert before
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.requires_grad for p in t.discriminator.parameters())


@pytest.mark.parametrize("method", ["dcgan", "wgan-gp"])
def test_bf16_rounds_are_finite_with_float32_weights(method):
    t = trainer(method, "bf16")
    for _ in range(2):
        t.round(ToyFaces().batches(16))
    assert all(np.isfinite(list(t.means().values())))
    assert {p.dtype for p in t.generator.parameters()} == {torch.float32}


def test_means_of_accuracy_and_of_the_generators_gradient():
    t = trainer()
    reals = list(itertools.islice(ToyFaces().batches(16), 2))
    norms = []
    for real in reals:
        t.round(iter([real]))
        norms.append(torch.cat([p.grad.flatten() for p in t.generator.parameters() if p.grad is not None]).norm())
    assert t.means()["grad_g"] == pytest.approx(torch.stack(norms).mean().item(), rel=1e-5)
    assert 0 <= t.means()["d_accuracy"] <= 1
    assert "skipped" not in t.means()


def test_lr_scale_multiplies_both_rates_and_is_part_of_the_state():
    t, other = trainer(), trainer()
    t.lr_scale = 0.5
    t.round(ToyFaces().batches(16))
    assert t.g.optimizer.param_groups[0]["lr"] == t.config.lr_g / 2
    assert t.d.optimizer.param_groups[0]["lr"] == t.config.lr_d / 2
    other.load("x", t.tensors(), t.numbers())
    assert other.lr_scale == 0.5
    other.round(ToyFaces().batches(16))
    assert other.d.optimizer.param_groups[0]["lr"] == t.config.lr_d / 2


def test_without_a_learning_rate_nothing_is_learnt():
    t = trainer()
    t.lr_scale = 0.0
    before = [p.clone() for p in t.generator.parameters()]
    t.round(ToyFaces().batches(16))
    assert all(torch.equal(a, b) for a, b in zip(before, t.generator.parameters(), strict=True))


def test_fp16_counts_the_steps_that_an_overflow_skipped():
    t = trainer(mode="fp16")
    reals = ToyFaces().batches(16)
    small = {**t.d.scaler.state_dict(), "scale": 256.0}
    t.d.scaler.load_state_dict(small)
    t.g.scaler.load_state_dict(small)
    t.round(reals)
    assert t.means()["skipped"] == 0
    t.clear_means()
    t.d.scaler.load_state_dict({**small, "scale": 2.0**127})  # any gradient overflows
    before = [p.clone() for p in t.discriminator.parameters()]
    t.round(reals)
    assert t.means()["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, t.discriminator.parameters(), strict=True))
    assert all(np.isfinite(list(t.means().values())))


def test_a_state_of_an_older_facegan_is_taken_up():
    """It counted fewer things for the log, and had no scale of the learning rates."""
    one, other = trainer(), trainer()
    one.round(ToyFaces().batches(16))
    tensors = {name: tensor for name, tensor in one.tensors().items() if name != "log.skipped"}
    tensors["log.totals"] = torch.ones(5)
    numbers = {name: value for name, value in one.numbers().items() if name not in ("lr_scale", "counts")}
    numbers["rounds_in_totals"] = 1
    del numbers["spec"]["law"]
    other.load("x", tensors, numbers)
    assert other.rounds == 1
    assert other.means()["loss_d"] == 0
    other.round(ToyFaces().batches(16))
    assert other.means()["loss_d"] > 0


def test_images_count_what_the_critic_saw():
    t = trainer("wgan-gp", batch=4, d_steps=5)
    reals = ToyFaces().batches(4)
    t.round(reals)
    assert (t.images, reals.position) == (20, 5)


def test_pixels_there_and_back():
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = to_float(images)
    assert (floats.min().item(), floats.max().item()) == (-1, 1)
    assert torch.equal(to_uint8(floats), images)


def test_samples_do_not_depend_on_count_or_batch():
    net = make_generator(SPEC).eval()
    few, many = sample_images(net, 3, seed=1), sample_images(net, 10, seed=1, batch=4)
    assert many.shape == (10, 3, 32, 32)
    assert (few.int() - many[:3].int()).abs().max() <= 1  # kernels for other batch sizes may round otherwise


def test_grid_and_png(tmp_path):
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    picture = grid(images, columns=3)
    assert picture.shape == (2 * 10 + 2, 3 * 10 + 2, 3)
    assert np.array_equal(picture[12:20, 2:10], images[3].permute(1, 2, 0).numpy())
    save_png(tmp_path / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)
    grey = grid(images[:, :1], columns=3)
    assert grey.shape == (22, 32, 1)
    save_png(tmp_path / "grey.png", grey)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "grey.png")), grey[..., 0])


def test_d_learns_again_after_a_step_of_g_that_failed(monkeypatch):
    """As where a round could not be recorded, and is then run plainly."""
    one = trainer()

    def fails(*_, **__):
        raise RuntimeError("capture")

    monkeypatch.setattr(one.work, "_count", fails)
    with pytest.raises(RuntimeError, match="capture"):
        one.work.generator_step()
    assert all(parameter.requires_grad for parameter in one.discriminator.parameters())
