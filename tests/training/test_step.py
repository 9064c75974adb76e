"""Each setting of a training does what it says: seen on the trainer, in closed form or beside a second way."""

import itertools
import math
from typing import Any

import pytest
import torch
from toy import ToyFaces, ToyOnDevice, assert_equal_states, copy_state, inputs_of, toy_config, toy_steps, toy_trainer

from facegan.errors import DatasetError
from facegan.nets import count_parameters, make_generator
from facegan.training import precision
from facegan.training.optim import NetOptimizer, schedule_factor
from facegan.training.step import StepVariant
from facegan.training.trainer import Trainer, spec_of


def assert_same_nets(one: Trainer, other: Trainer, rtol: float, atol: float) -> None:
    for name, tensor in one.tensors().items():
        if name.startswith(("generator", "discriminator")) and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, other.tensors()[name], rtol=rtol, atol=atol, msg=name)


def differ(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.generator.parameters(), other.generator.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "given", [{"random_flip": True, "augment": "color,translation,cutout", "g_steps": 2}, {"nets": "mlp", "width": 4}]
)
def test_batch_in_parts_equals_batch(given):
    """Neither the critic nor G has batch statistics here."""
    whole, parts = (toy_trainer("wgan-gp", batch=12, grad_accum_steps=n, **given) for n in (1, 3))
    batches = list(itertools.islice(ToyFaces().batches(12), whole.config.d_steps))
    for t in (whole, parts):
        t.generator.eval()
        t.train_step(iter(batches))
    assert_same_nets(whole, parts, rtol=1e-4, atol=2e-6)
    for name, value in whole.means().items():
        assert parts.means()[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    ("method", "given"),
    [("dcgan", {"grad_accum_steps": 2}), ("wgan-gp", {"batch": 8, "random_flip": True, "augment": "cutout"})],
)
def test_gathered_batches_equal_copied_batches(method, given):
    copying, gathering = (toy_trainer(method, **given) for _ in range(2))
    faces, batch, first = ToyFaces(), copying.config.batch, copying.config.d_steps
    reals, theirs = ToyOnDevice(faces.images, batch, 0, "", given_batches=first), faces.batches(batch)
    for _ in range(2):
        copying.train_step(theirs)
        gathering.train_step(reals)
        assert (gathering.gan_step.faces is None) == (reals.position == first)
    assert_equal_states(copying, gathering)


def test_latents_are_fresh_or_shared():
    """One update each: G learns from D's fakes, also where the batch is computed in parts; else each has its own."""
    t = toy_trainer(g_steps=2)
    seen = inputs_of(t.generator)
    toy_steps(t, 2)
    assert len(seen) == 6  # one for D and two for G
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    assert t.counts == {"d": 2, "g": 4, "gp": 0}
    t = toy_trainer()
    seen = inputs_of(t.generator)
    toy_steps(t)
    assert len(seen) == 1
    t = toy_trainer(grad_accum_steps=2, batch=8)
    seen = inputs_of(t.generator)
    toy_steps(t)
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))


@pytest.mark.parametrize(("net", "other"), [("d", "g"), ("g", "d")])
def test_warmup_trains_one_net_alone(net, other):
    warmup: dict[str, Any] = {f"{net}_warmup_images": 40}  # three steps of 16
    t = toy_trainer(**warmup)
    still = [p.clone() for p in getattr(t, other).net.parameters()]
    reals = ToyFaces().batches(16)
    for _ in range(3):
        t.train_step(reals)
    assert (t.counts[net], t.counts[other]) == (3, 0)
    assert all(torch.equal(a, b) for a, b in zip(still, getattr(t, other).net.parameters(), strict=True))
    assert reals.position == (3 if net == "d" else 0)
    t.train_step(reals)
    assert t.counts[other] == 1


def test_lazy_penalty_is_rare_and_heavier():
    variants = [StepVariant.of(toy_config("wgan-gp", d_steps=2, penalty_every=3), number) for number in range(4)]
    assert [variant.penalties for variant in variants] == [(True, False), (False, True), (False, False), (True, False)]
    lazy, eager = (toy_trainer("wgan-gp", d_steps=1, penalty_every=k, gp_weight=w) for k, w in ((2, 10), (1, 20)))
    for t in (lazy, eager):
        toy_steps(t)
    assert_same_nets(lazy, eager, rtol=0, atol=0)
    assert lazy.means() == eager.means()
    for t in (lazy, eager):
        toy_steps(t)
    assert (lazy.counts["gp"], eager.counts["gp"]) == (1, 2)
    assert differ(lazy, eager)


@pytest.mark.parametrize(
    ("given", "weight", "kind"),
    [
        ({"regulariser": "r1", "r1_gamma": 4.0}, 2, "real"),
        ({"regulariser": "r2", "r1_gamma": 3.0, "penalty_every": 2}, 3, "fake"),
    ],
)
def test_penalty_adds_its_weighted_gradient(given, weight, kind):
    t = toy_trainer("dcgan", loss="hinge", norm="none", **given)
    t.gan_step.reals[0].copy_(next(ToyFaces().batches(16)))
    seen = inputs_of(t.discriminator)
    t.gan_step.update_discriminator(penalised=True)
    real, fake = seen[:2]
    other = toy_trainer("dcgan", loss="hinge", norm="none", **given)
    at = (real if kind == "real" else fake).requires_grad_(True)
    loss = torch.relu(1 - other.discriminator(real)).mean() + torch.relu(1 + other.discriminator(fake)).mean()
    (slope,) = torch.autograd.grad(other.discriminator(at).sum(), at, create_graph=True)
    loss = loss + weight * slope.square().sum(dim=(1, 2, 3)).mean()
    expected = torch.autograd.grad(loss, list(other.discriminator.parameters()))
    for parameter, gradient in zip(t.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_weight_clip_bounds_the_discriminator():
    t = toy_steps(toy_trainer("dcgan", loss="wgan", weight_clip=0.01, optimizer="rmsprop", lr_d=0.01))
    assert max(parameter.abs().max().item() for parameter in t.discriminator.parameters()) == pytest.approx(0.01)
    assert max(parameter.abs().max().item() for parameter in t.generator.parameters()) > 0.01


def test_relativistic_generator_sees_ds_reals():
    t = toy_trainer("dcgan", loss="relativistic", g_steps=2, norm="none", random_flip=True)
    seen = inputs_of(t.discriminator)
    toy_steps(t)
    assert len(seen) == 1 + 2 * 2
    assert all(torch.equal(seen[0][:16], seen[i]) for i in (2, 4))
    assert not torch.equal(seen[1], seen[3])


@pytest.mark.parametrize("given", [{}, {"nets": "mlp"}, {"nets": "r3gan", "condition": "Red,Light"}])
def test_one_pass_over_both_kinds_equals_two(given):
    """Also with dropout by the images' numbers, and with conditions."""
    one, two = (toy_trainer("fast", width=4, **given) for _ in range(2))
    assert one.gan_step._one_pass
    two.gan_step._one_pass = False
    for t in (one, two):
        for net in (t.g, t.d):
            net.step = lambda: torch.zeros(())
        toy_steps(t)
    torch.testing.assert_close(one.d.gradient, two.d.gradient, rtol=1e-4, atol=1e-6)
    assert one.means() == pytest.approx(two.means(), rel=1e-4)


def test_batch_norm_sees_one_kind_at_a_time():
    t = toy_trainer("dcgan", loss="relativistic")
    seen = inputs_of(t.discriminator)
    toy_steps(t)
    assert [len(pixels) for pixels in seen] == [16] * 4


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "minimax", "label_smoothing": 0.1, "optimizer": "rmsprop", "momentum": 0.5},
        {"loss": "max-likelihood", "regulariser": "dragan"},
        {"loss": "lsgan", "optimizer": "sgd", "momentum": 0.9},
        {"loss": "hinge", "regulariser": "r1,r2", "norm": "none"},
        {"loss": "wgan-gp", "regulariser": "r1", "norm": "none"},
        {"loss": "relativistic", "grad_accum_steps": 2},
    ],
)
def test_loaded_state_continues_to_the_bit(given):
    whole, first, second = (toy_trainer("dcgan", **{"lr_g": 1e-3, "lr_d": 1e-3, **given}) for _ in range(3))
    toy_steps(whole, 3)
    reals = ToyFaces().batches(16)
    first.train_step(reals)
    copy_state(first, second)
    for _ in range(2):
        second.train_step(reals)
    assert_equal_states(whole, second)
    row = second.means()
    assert all(math.isfinite(value) for value in row.values())
    assert ("gp" in row) == ("regulariser" in given)


def test_learning_rates_follow_schedule_and_scale():
    for done, cosine, linear in [(0, 1, 1), (500, 0.5, 0.5), (250, (1 + math.sqrt(0.5)) / 2, 0.75), (1000, 0, 0)]:
        assert schedule_factor("cosine", done, 1000) == pytest.approx(cosine)
        assert schedule_factor("linear", done, 1000) == pytest.approx(linear)
        assert schedule_factor("constant", done, 1000) == 1
    t = toy_trainer(schedule="linear", images=64, lr_g=0.1, lr_d=0.2)
    t.lr_scale = 0.5
    toy_steps(t, 2)
    other = toy_trainer(schedule="linear", images=64, lr_g=0.1, lr_d=0.2)
    copy_state(t, other)
    assert other.lr_scale == 0.5
    assert t.g.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.75 / 2)
    assert t.d.optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * 0.75 / 2)


@pytest.mark.parametrize(
    ("given", "make"),
    [
        (
            {"optimizer": "rmsprop", "momentum": 0.5, "beta2": 0.9},
            lambda p: torch.optim.RMSprop(p, 2e-4, alpha=0.9, momentum=0.5, foreach=False),
        ),
        ({"optimizer": "sgd", "momentum": 0.9}, lambda p: torch.optim.SGD(p, 2e-4, momentum=0.9, foreach=False)),
        ({}, lambda p: torch.optim.Adam(p, 2e-4, (0.5, 0.999), foreach=False)),
    ],
)
def test_optimizers_equal_torchs_in_any_layout(given, make):
    """Moments and weights share a memory layout; otherwise fused Adam would update the wrong elements."""
    t = toy_trainer(**given)
    weights = [t.discriminator.get_parameter("layers.2.weight"), t.generator.get_parameter("layers.3.weight")]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    plain = [torch.nn.Parameter(weight.detach().clone().contiguous()) for weight in weights]
    optimizer = make(plain)
    reals = ToyFaces().batches(16)
    for _ in range(3):
        t.train_step(reals)
        for copy, weight in zip(plain, weights, strict=True):
            assert weight.grad is not None
            copy.grad = weight.grad.detach().clone().contiguous()
        optimizer.step()
    for copy, weight in zip(plain, weights, strict=True):
        torch.testing.assert_close(weight.detach(), copy.detach().contiguous(), atol=1e-7, rtol=1e-5)


def test_discriminator_may_have_another_width():
    t = toy_trainer(width=8, width_d=4)
    assert count_parameters(t.discriminator) == count_parameters(toy_trainer(width=4).discriminator)
    assert count_parameters(t.generator) == count_parameters(toy_trainer(width=8).generator)


def test_discriminator_sees_the_image_range():
    t = toy_trainer(image_range=0.5)
    seen = inputs_of(t.discriminator)
    real = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
    real[:8] = 255
    t.train_step(iter([real]))
    assert (seen[0].min().item(), seen[0].max().item()) == (-0.5, 0.5)
    assert 0 < seen[1].abs().max() <= 0.5


def test_latent_distribution_reaches_training_and_samples():
    t = toy_trainer(latent_distribution="sphere")
    seen = inputs_of(t.generator)
    toy_steps(t)
    torch.testing.assert_close(seen[0].norm(dim=1), torch.full((16,), 4.0))
    assert t.ema.generator(0).spec.distribution == "sphere"


def test_flips_and_holes_reach_the_discriminator():
    t = toy_trainer(random_flip=True, augment="cutout")
    seen = inputs_of(t.discriminator)
    real = torch.full((16, 3, 32, 32), 200, dtype=torch.uint8)
    real[..., 16:] = 255
    for _ in range(8):
        t.train_step(iter([real]))
    mirrored = torch.cat([images.amax(dim=(1, 2)).argmax(dim=1) < 16 for images in seen[::3]])
    assert 40 < mirrored.sum() < 88  # of 128
    holes = [(images == 0).all(dim=1) for images in seen]
    assert all((hole.sum(dim=(1, 2)) >= 64).all() for hole in holes)
    assert not torch.equal(holes[1], holes[2])


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (torch.full((16, 3, 32, 32), math.nan), r"is float32 \(16, 3, 32, 32\), with NaN; it must be uint8"),
        (torch.zeros(16, 3, 16, 16, dtype=torch.uint8), r"\(16, 3, 16, 16\); it must be uint8 \(16, 3, 32, 32\)"),
    ],
)
def test_wrong_batches_are_refused(batch, sentence):
    with pytest.raises(DatasetError, match=sentence):
        toy_trainer().train_step(iter([batch]))


def test_means_of_accuracy_and_gradient():
    t = toy_trainer()
    norms = []
    for real in itertools.islice(ToyFaces().batches(16), 2):
        t.train_step(iter([real]))
        norms.append(torch.cat([p.grad.flatten() for p in t.generator.parameters() if p.grad is not None]).norm())
    assert t.means()["grad_g"] == pytest.approx(torch.stack(norms).mean().item(), rel=1e-5)
    assert 0 <= t.means()["d_accuracy"] <= 1
    assert "skipped" not in t.means()


def test_fp16_counts_skipped_updates():
    t = toy_trainer(mode="fp16")
    small = {**t.d.scaler.state_dict(), "scale": 256.0}
    t.d.scaler.load_state_dict(small)
    t.g.scaler.load_state_dict(small)
    toy_steps(t)
    assert t.means()["skipped"] == 0
    t.clear_means()
    t.d.scaler.load_state_dict({**small, "scale": 2.0**127})  # any gradient overflows
    before = [p.clone() for p in t.discriminator.parameters()]
    toy_steps(t)
    assert t.means()["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, t.discriminator.parameters(), strict=True))
    assert all(math.isfinite(value) for value in t.means().values())


def test_cuda_graphs_are_off_with_a_reason():
    assert toy_trainer().no_graphs_reason == "they need an NVIDIA GPU, and the device is cpu"
    assert toy_trainer(graphs=False).no_graphs_reason == "--no-graphs"
    nets = make_generator(spec_of(toy_config(), 32, 3))
    cases: list[tuple[str, precision.Precision, bool]] = [
        ("rmsprop", "fp16", False),
        ("rmsprop", "bf16", True),
        ("adam", "fp16", True),
    ]
    for name, mode, capturable in cases:
        assert NetOptimizer(nets, 1e-4, toy_config(optimizer=name), mode).can_be_captured == capturable
        nets.zero_grad(set_to_none=True)
