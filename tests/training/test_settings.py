"""Each setting of a training does what it says: seen on the trainer, in closed form or beside a second way."""

import itertools
import math
from typing import Any

import pytest
import torch
from toy import ToyFaces, ToyOnDevice, toy_config

from facegan.errors import DatasetError, SettingsError
from facegan.nets import count_parameters, make_generator
from facegan.training import precision
from facegan.training.cuda_graphs import Snapshot
from facegan.training.optim import NetOptimizer, schedule_factor
from facegan.training.step import StepVariant
from facegan.training.trainer import Trainer, spec_of

CPU = torch.device("cpu")


def trainer(method: str = "dcgan", **given: Any) -> Trainer:
    config = toy_config(method, **given)
    return Trainer(config, spec_of(config, 32, 3), CPU, "fp32")


def trained(method: str = "dcgan", rounds: int = 3, **given: Any) -> Trainer:
    t = trainer(method, **given)
    reals = ToyFaces().batches(t.config.batch)
    for _ in range(rounds):
        t.round(reals)
    return t


def assert_same_nets(one: Trainer, other: Trainer, rtol: float, atol: float) -> None:
    for name, tensor in one.tensors().items():
        if name.startswith(("generator", "discriminator")) and "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(tensor, other.tensors()[name], rtol=rtol, atol=atol, msg=name)


def differ(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.generator.parameters(), other.generator.parameters(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "given", [{}, {"random_flip": True, "augment": "color,translation,cutout"}, {"g_steps": 2}, {"nets": "mlp"}]
)
def test_a_batch_in_parts_is_the_batch(given):
    """The critic has no batch statistics, and G's are frozen out by comparing the critic's step and G's gradient."""
    whole, parts = (trainer("wgan-gp", batch=12, grad_accum_steps=n, **given) for n in (1, 3))
    batches = list(itertools.islice(ToyFaces().batches(12), whole.config.d_steps))
    for t in (whole, parts):
        t.generator.eval()  # no batch statistics in G either
        t.round(iter(batches))
    assert_same_nets(whole, parts, rtol=1e-4, atol=2e-6)
    for name, value in whole.means().items():
        assert parts.means()[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


@pytest.mark.parametrize(
    ("method", "given"),
    [("dcgan", {"grad_accum_steps": 2}), ("wgan-gp", {"batch": 8, "random_flip": True, "augment": "cutout"})],
)
def test_rounds_that_gather_their_batches_are_the_rounds(method, given):
    plain, gathering = (trainer(method, **given) for _ in range(2))
    batch = plain.config.batch
    faces = ToyFaces()
    reals = ToyOnDevice(faces.images, batch, 0, "", given_batches=plain.config.d_steps)
    theirs = faces.batches(batch)
    for _ in range(3):
        plain.round(theirs)
        gathering.round(reals)
        assert (gathering.work.faces is None) == (reals.position == plain.config.d_steps)
    assert reals.position == theirs.position
    for name, tensor in plain.tensors().items():
        assert torch.equal(tensor, gathering.tensors()[name]), name


def test_several_generator_steps_have_fresh_latents():
    t = trainer(g_steps=2)
    seen = []
    t.generator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].clone()))
    t.round(ToyFaces().batches(16))
    t.round(ToyFaces().batches(16))
    assert len(seen) == 6  # one for D and two for G
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(seen, 2))
    assert t.counts == {"d": 2, "g": 4, "gp": 0}


def test_one_step_each_shares_the_fakes():
    t = trainer()
    passes = []
    t.generator.register_forward_pre_hook(lambda net, inputs: passes.append(1))
    t.round(ToyFaces().batches(16))
    assert len(passes) == 1


def test_in_parts_the_generator_learns_from_the_fakes_that_the_discriminator_saw():
    t = trainer(grad_accum_steps=2, batch=8)
    seen = []
    t.generator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].clone()))
    t.round(ToyFaces().batches(8))
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))


@pytest.mark.parametrize(("net", "other"), [("d", "g"), ("g", "d")])
def test_warmup_trains_one_net_alone(net, other):
    warmup: dict[str, Any] = {f"{net}_warmup_images": 40}  # three rounds of 16
    t = trainer(**warmup)
    still = [p.clone() for p in getattr(t, other).net.parameters()]
    reals = ToyFaces().batches(16)
    for _ in range(3):
        t.round(reals)
    assert t.counts[net] == 3
    assert t.counts[other] == 0
    assert all(torch.equal(a, b) for a, b in zip(still, getattr(t, other).net.parameters(), strict=True))
    assert reals.position == (3 if net == "d" else 0)
    t.round(reals)
    assert t.counts[other] == 1


def test_a_lazy_penalty_comes_every_few_steps_and_weighs_more():
    kinds = [StepVariant.of(toy_config("wgan-gp", d_steps=2, penalty_every=3), number) for number in range(4)]
    assert [kind.penalties for kind in kinds] == [(True, False), (False, True), (False, False), (True, False)]
    lazy, eager = (trainer("wgan-gp", d_steps=1, penalty_every=k, gp_weight=w) for k, w in ((2, 10), (1, 20)))
    for t in (lazy, eager):
        t.round(ToyFaces().batches(16))
    assert_same_nets(lazy, eager, rtol=0, atol=0)
    assert lazy.means() == eager.means()
    for t in (lazy, eager):
        t.round(ToyFaces().batches(16))
    assert (lazy.counts["gp"], eager.counts["gp"]) == (1, 2)
    assert differ(lazy, eager)


@pytest.mark.parametrize(
    ("given", "weight", "kind"),
    [
        ({"regulariser": "r1", "r1_gamma": 4.0}, 2, "real"),
        ({"regulariser": "r2", "r1_gamma": 3.0, "penalty_every": 2}, 3, "fake"),
    ],
)
def test_a_penalty_adds_its_gradient_by_its_weight(given, weight, kind):
    t = trainer("dcgan", loss="hinge", norm="none", **given)
    t.work.reals[0].copy_(next(ToyFaces().batches(16)))
    seen = []
    t.discriminator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].detach().clone()))
    t.work.discriminator_step(penalised=True)
    real, fake = seen[:2]
    other = trainer("dcgan", loss="hinge", norm="none", **given)
    where = (real if kind == "real" else fake).requires_grad_(True)
    loss = torch.relu(1 - other.discriminator(real)).mean() + torch.relu(1 + other.discriminator(fake)).mean()
    (slope,) = torch.autograd.grad(other.discriminator(where).sum(), where, create_graph=True)
    loss = loss + weight * slope.square().sum(dim=(1, 2, 3)).mean()
    expected = torch.autograd.grad(loss, list(other.discriminator.parameters()))
    for parameter, gradient in zip(t.discriminator.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_clipped_weights_stay_within_their_bound():
    t = trainer("dcgan", loss="wgan", weight_clip=0.01, optimizer="rmsprop", lr_d=0.01)
    t.round(ToyFaces().batches(16))
    assert max(parameter.abs().max().item() for parameter in t.discriminator.parameters()) == pytest.approx(0.01)
    assert max(parameter.abs().max().item() for parameter in t.generator.parameters()) > 0.01


def test_a_relativistic_generator_compares_with_the_real_images_that_d_saw():
    t = trainer("dcgan", loss="relativistic", g_steps=2, norm="none", random_flip=True)
    seen = []
    t.discriminator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].detach().clone()))
    t.round(ToyFaces().batches(16))
    assert len(seen) == 2 + 2 * 2
    assert all(torch.equal(seen[0], seen[i]) for i in (3, 5))
    assert not torch.equal(seen[2], seen[4])


@pytest.mark.parametrize(
    "given",
    [
        {"loss": "minimax", "label_smoothing": 0.1},
        {"loss": "max-likelihood"},
        {"loss": "lsgan"},
        {"loss": "hinge", "regulariser": "r1,r2", "norm": "none"},
        {"loss": "wgan-gp", "regulariser": "r1", "norm": "none"},
        {"loss": "relativistic", "grad_accum_steps": 2},
        {"regulariser": "dragan"},
    ],
)
def test_any_loss_goes_on_alike(given):
    whole, first, second = (trainer("dcgan", lr_g=1e-3, lr_d=1e-3, **given) for _ in range(3))
    reals = ToyFaces().batches(16)
    for _ in range(4):
        whole.round(reals)
    reals = ToyFaces().batches(16)
    for t in (first, second):
        if t is second:
            t.load("x", {name: tensor.clone() for name, tensor in first.tensors().items()}, first.numbers())
        for _ in range(2):
            t.round(reals)
    assert all(torch.equal(tensor, second.tensors()[name]) for name, tensor in whole.tensors().items())
    row = second.means()
    assert all(math.isfinite(value) for value in row.values())
    assert ("gp" in row) == ("regulariser" in given)


def test_learning_rates_follow_their_schedule():
    for done, cosine, linear in [(0, 1, 1), (500, 0.5, 0.5), (250, (1 + math.sqrt(0.5)) / 2, 0.75), (1000, 0, 0)]:
        assert schedule_factor("cosine", done, 1000) == pytest.approx(cosine)
        assert schedule_factor("linear", done, 1000) == pytest.approx(linear)
        assert schedule_factor("constant", done, 1000) == 1
    t = trained(rounds=2, schedule="linear", images=64, lr_g=0.1, lr_d=0.2)
    assert t.g.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.75)
    assert t.d.optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * 0.75)


@pytest.mark.parametrize(
    ("given", "make"),
    [
        ({"optimizer": "rmsprop"}, lambda p: torch.optim.RMSprop(p, 2e-4, alpha=0.999, foreach=False)),
        (
            {"optimizer": "rmsprop", "momentum": 0.5, "beta2": 0.9},
            lambda p: torch.optim.RMSprop(p, 2e-4, alpha=0.9, momentum=0.5, foreach=False),
        ),
        ({"optimizer": "sgd"}, lambda p: torch.optim.SGD(p, 2e-4, foreach=False)),
        ({"optimizer": "sgd", "momentum": 0.9}, lambda p: torch.optim.SGD(p, 2e-4, momentum=0.9, foreach=False)),
        ({}, lambda p: torch.optim.Adam(p, 2e-4, (0.5, 0.999), foreach=False)),
    ],
)
def test_optimizers_are_those_of_torch(given, make):
    t = trainer(**given)
    weight = t.discriminator.get_parameter("layers.2.weight")
    plain = torch.nn.Parameter(weight.detach().clone().contiguous())
    optimizer = make([plain])
    reals = ToyFaces().batches(16)
    for _ in range(3):
        t.round(reals)
        assert weight.grad is not None
        plain.grad = weight.grad.detach().clone().contiguous()
        optimizer.step()
    torch.testing.assert_close(weight.detach(), plain.detach().contiguous(), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("given", [{"optimizer": "rmsprop", "momentum": 0.5}, {"optimizer": "sgd", "momentum": 0.9}])
def test_any_optimizer_goes_on_alike(given):
    one, other = trained(rounds=2, **given), trainer(**given)
    other.load("x", {name: tensor.clone() for name, tensor in one.tensors().items()}, one.numbers())
    real = next(ToyFaces().batches(16))
    for t in (one, other):
        t.round(iter([real]))
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_the_discriminator_may_have_another_width():
    t = trainer(width=8, width_d=4)
    assert count_parameters(t.discriminator) == count_parameters(trainer(width=4).discriminator)
    assert count_parameters(t.generator) == count_parameters(trainer(width=8).generator)


def test_the_discriminator_sees_the_image_range():
    t = trainer(image_range=0.5)
    seen = []
    t.discriminator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].detach()))
    real = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
    real[:8] = 255
    t.round(iter([real]))
    assert (seen[0].min().item(), seen[0].max().item()) == (-0.5, 0.5)
    assert 0 < seen[1].abs().max() <= 0.5


@pytest.mark.parametrize("law", ["uniform", "uniform01", "sphere"])
def test_laws_of_latents_reach_training_and_samples(law):
    t = trainer(latent_distribution=law)
    seen = []
    t.generator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0]))
    t.round(ToyFaces().batches(16))
    z = seen[0]
    if law == "sphere":
        torch.testing.assert_close(z.norm(dim=1), torch.full((16,), 4.0))
    else:
        assert z.min() >= (0 if law == "uniform01" else -1)
        assert z.max() < 1
    assert t.ema.generator(0).spec.law == law
    assert differ(t, trained(rounds=1))


def test_flips_mirror_about_half_of_the_reals():
    t = trainer(random_flip=True)
    seen = []
    t.discriminator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].detach()))
    real = torch.zeros(16, 3, 32, 32, dtype=torch.uint8)
    real[..., 0] = 255
    for _ in range(8):
        t.round(iter([real]))
    mirrored = torch.cat([images[:, 0, 0, 31] > 0 for images in seen[::3]])
    assert 40 < mirrored.sum() < 88  # of 128


def test_augmentation_reaches_reals_and_fakes_of_both_nets():
    t = trainer(augment="cutout")
    seen = []
    t.discriminator.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[0].detach()))
    t.round(ToyFaces().batches(16))
    holes = [(images == 0).all(dim=1) for images in seen]
    assert all((hole.sum(dim=(1, 2)) >= 64).all() for hole in holes)
    assert not torch.equal(holes[1], holes[2])


def test_the_seed_changes_everything():
    assert differ(trained(rounds=1), trained(rounds=1, seed=1))


@pytest.mark.parametrize(
    ("batch", "sentence"),
    [
        (torch.zeros(16, 3, 32, 32), "come as float32: they have to be uint8"),
        (torch.full((16, 3, 32, 32), math.nan), "come as float32, some NaN: they have to be uint8"),
        (torch.zeros(16, 3, 16, 16, dtype=torch.uint8), r"shape \(16, 3, 16, 16\), and \(16, 3, 32, 32\) was expected"),
    ],
)
def test_batches_that_are_no_faces(batch, sentence):
    with pytest.raises(DatasetError, match=sentence):
        trainer().round(iter([batch]))


def test_graphs_are_left_where_they_cannot_be():
    assert trainer().not_recorded == "they need an NVIDIA GPU, and the device is cpu"
    assert trainer(graphs=False).not_recorded == "--no-graphs"


def test_an_optimizer_that_waits_in_fp16_cannot_be_recorded():
    nets = make_generator(spec_of(toy_config(), 32, 3))
    cases: list[tuple[str, precision.Precision, bool]] = [
        ("rmsprop", "fp16", False),
        ("rmsprop", "bf16", True),
        ("adam", "fp16", True),
    ]
    for name, mode, records in cases:
        learner = NetOptimizer(nets, 1e-4, toy_config(optimizer=name), mode)
        assert learner.records == records
        nets.zero_grad(set_to_none=True)


@pytest.mark.parametrize("mode", ["fp32", "fp16"])
def test_rounds_before_a_recording_leave_no_trace(mode):
    config = toy_config("wgan-gp", batch=8)
    t, same = (Trainer(config, spec_of(config, 32, 3), CPU, mode) for _ in range(2))
    reals = list(itertools.islice(ToyFaces().batches(8), 10))
    for one in (t, same):
        one.round(iter(reals))
    places = {name: tensor.data_ptr() for name, tensor in t.tensors().items()}
    before = Snapshot(t.work, t.tensors())
    for _ in range(3):
        t.work(StepVariant.of(config, 1))
    before.restore()
    assert {name: tensor.data_ptr() for name, tensor in t.tensors().items()} == places
    for one in (t, same):
        one.round(iter(reals[5:]))
    assert all(torch.equal(tensor, same.tensors()[name]) for name, tensor in t.tensors().items())
    assert t.numbers() == same.numbers()


def test_bf16_on_a_gpu_without_it(monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16", lambda device: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    with pytest.raises(SettingsError, match="--precision bf16 is not offered by Tesla T4"):
        precision.choose_precision("bf16", torch.device("cuda"))
