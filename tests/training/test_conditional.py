"""Trainings with a condition: which conditions nets see, and that everything else is as without."""

import json
from typing import Any

import pytest
import torch
from toy import (
    ToyAttributes,
    ToyFaces,
    ToyOnDevice,
    assert_equal_states,
    copy_state,
    stop_after,
    toy_config,
    toy_run,
    toy_steps,
    toy_trainer,
    weights,
    without_times,
)

from facegan.errors import CheckpointError, DatasetError, Interrupted, SettingsError
from facegan.nets import load_generator
from facegan.sample.generate import images_of
from facegan.sample.latents import sample_inputs
from facegan.training import plan_train
from facegan.training.losses import gradient_penalty, squared_gradient

TWO = {"condition": "Red,Light"}


def conditions_of(net: Any) -> list[torch.Tensor]:
    """Fills up with a copy of each condition that the net is called with."""
    seen: list[torch.Tensor] = []
    net.register_forward_pre_hook(lambda net, inputs: seen.append(inputs[1].detach().clone()))
    return seen


def test_nets_see_conditions_of_their_images():
    trainer = toy_trainer(**TWO, d_steps=2)
    in_g, in_d = conditions_of(trainer.generator), conditions_of(trainer.discriminator)
    faces = ToyAttributes()
    reals = faces.batches(16)
    trainer.train_step(reals)
    again = faces.batches(16)
    for i in range(2):
        next(again)
        expected = [[1 if faces.table[name][n] else -1 for name in ("Red", "Light")] for n in again.indices.tolist()]
        assert in_d[2 * i].tolist() == expected  # of the real images
        assert torch.equal(in_d[2 * i + 1], in_g[i])  # of the fakes that they are
    assert torch.equal(in_d[4], in_g[2])
    assert [len(in_g), len(in_d)] == [3, 5]
    assert not torch.equal(in_g[0], in_g[1])


def test_fakes_have_the_joint_distribution_of_faces():
    trainer = toy_trainer(**TWO)
    condition = trainer.spec.condition
    assert condition is not None
    (drawn,) = trainer.gan_step._fake_condition("latents", torch.arange(20_000))
    for row, count in zip(condition.table, condition.counts, strict=True):
        found = (drawn == torch.tensor(row)).all(1).double().mean().item()
        assert found == pytest.approx(count / 200, abs=0.015)


@pytest.mark.parametrize("condition", ["Red,Light", "band"])
@pytest.mark.parametrize("nets", ["dcgan", "dcgan-fc", "resnet", "r3gan"])
def test_every_conditional_pair_trains(nets, condition):
    trainer = toy_trainer(nets=nets, width=4, condition=condition)
    before = {name: tensor.clone() for name, tensor in trainer.tensors().items()}
    after = toy_steps(trainer, 2).tensors()
    same = [name for name, tensor in after.items() if torch.equal(tensor, before[name])]
    assert [name for name in same if "embed" in name] == []
    assert all(torch.tensor(list(trainer.means().values())).isfinite())


@pytest.mark.parametrize(
    "given",
    [
        {"method": "wgan-gp"},
        {"regulariser": "r1,r2", "norm": "none", "loss": "relativistic", "random_flip": True},
        {"regulariser": "dragan", "norm": "none", "loss": "hinge", "augment": "color"},
        {"loss": "lsgan", "g_steps": 2, "grad_accum_steps": 2},
        *({"loss": loss} for loss in ("minimax", "max-likelihood", "wgan")),
        {"mode": "bf16", "regulariser": "gp", "norm": "none"},
    ],
    ids=lambda given: " ".join(map(str, given.values())),
)
def test_losses_and_penalties_take_conditions(given):
    trainer = toy_steps(toy_trainer(**TWO, **given), 2)
    assert all(torch.tensor(list(trainer.means().values())).isfinite())


def test_penalties_use_the_conditions_of_their_points(monkeypatch):
    seen: list[tuple[str, torch.Tensor]] = []
    trainer = toy_trainer(**TWO, regulariser="gp,r1,r2", norm="none")
    conditions = conditions_of(trainer.discriminator)

    def noted(name, function):
        def call(*given):
            value = function(*given)
            seen.append((name, given[-1]))
            return value

        return call

    monkeypatch.setattr("facegan.training.step.gradient_penalty", noted("gp", gradient_penalty))
    monkeypatch.setattr("facegan.training.step.squared_gradient", noted("r", squared_gradient))
    trainer.train_step(ToyAttributes().batches(16))
    assert [name for name, _ in seen] == ["gp", "r", "r"]
    real, fake, between, at_real, at_fake, _ = conditions
    epsilon = seen[0][1][:, :, 0, 0]
    assert torch.allclose(between, epsilon * real + (1 - epsilon) * fake)
    assert torch.equal(at_real, real)
    assert torch.equal(at_fake, fake)


def test_batches_on_the_device_are_the_same():
    plain = toy_steps(toy_trainer(**TWO), 4)
    gathered = toy_trainer(**TWO)
    faces = ToyAttributes()
    reals = ToyOnDevice(faces.images, 16, 0, faces.fingerprint, given_batches=2)
    for _ in range(4):
        gathered.train_step(reals)
    assert_equal_states(plain, gathered)


def test_conditional_states_continue():
    whole, first, second = toy_steps(toy_trainer(**TWO), 4), toy_steps(toy_trainer(**TWO), 2), toy_trainer(**TWO)
    copy_state(first, second)
    reals = ToyAttributes().batches(16)
    reals.position = 2
    for _ in range(2):
        second.train_step(reals)
    assert_equal_states(whole, second)


def test_conditional_run_is_recorded_and_resumes(tmp_path):
    config = toy_config(**TWO, images=96, save_every=48, sample_every=48)
    toy_run(tmp_path / "whole", config, ToyAttributes())
    with pytest.raises(Interrupted):
        toy_run(tmp_path / "stopped", config, ToyAttributes(), stop=stop_after(4))
    toy_run(tmp_path / "stopped", config, ToyAttributes())
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    assert without_times(tmp_path / "whole") == without_times(tmp_path / "stopped")
    grids = [sorted((tmp_path / run / "samples").glob("*.png")) for run in ("whole", "stopped")]
    assert [path.read_bytes() for path in grids[0]] == [path.read_bytes() for path in grids[1]]
    record = json.loads((tmp_path / "whole/run.json").read_text())
    assert record["settings"]["condition"] == "Red,Light"
    assert record["nets"]["condition"]["names"] == ["Red", "Light"]
    assert sum(record["nets"]["condition"]["counts"]) == 200
    assert (
        "Rows of the sample grids: with Red, without Red, with Light, without Light."
        in (tmp_path / "whole/log.txt").read_text()
    )
    generator = load_generator(tmp_path / "whole")
    assert generator.spec.condition is not None
    assert generator.spec.condition.names == ("Red", "Light")

    other = ToyAttributes()
    other.table["Light"] = ~other.table["Light"]
    with pytest.raises(DatasetError, match=r"was started when its faces had other values of Red,Light\.\nRestore them"):
        toy_run(tmp_path / "whole", config, other)
    with pytest.raises(
        SettingsError, match=r"was started with condition = Red,Light; this command asks for condition = \."
    ):
        toy_run(tmp_path / "whole", toy_config(images=96, save_every=48, sample_every=48), ToyFaces())


def test_init_needs_the_same_condition(tmp_path):
    short = {"images": 16, "log_every": 16}
    toy_run(tmp_path / "plain", toy_config(**short), ToyAttributes())
    toy_run(tmp_path / "first", toy_config(**TWO, **short), ToyAttributes())
    for config, of, message in [
        (toy_config(**TWO, **short), "plain", "its generator has condition none, not Red,Light"),
        (
            toy_config(**short),
            "first",
            r"its generator has condition Red,Light \(4 combinations in 200 faces\), not none",
        ),
        (
            toy_config(condition="Light,Red", **short),
            "first",
            "its generator has condition Red,Light .*, not Light,Red",
        ),
    ]:
        for init in (tmp_path / of, tmp_path / of / "generator.safetensors"):
            with pytest.raises(CheckpointError, match=message):
                plan_train(config, ToyAttributes(), tmp_path / "new", device="cpu", init=init)
    others = ToyAttributes(150)  # the same attributes of other faces
    toy_run(tmp_path / "again", toy_config(**TWO, **short), others, init=tmp_path / "first")


@pytest.mark.parametrize(
    ("given", "faces", "message"),
    [
        (
            {"condition": "Red"},
            ToyFaces,
            "--condition Red needs faces with attributes: a dataset of facegan prep --attr",
        ),
        ({"condition": "weight"}, ToyAttributes, "weight is a number with decimals"),
        ({"condition": "Red,band"}, ToyAttributes, "these do not go together"),
    ],
)
def test_faces_that_lack_the_condition_are_refused(tmp_path, given, faces, message):
    with pytest.raises(SettingsError, match=message):
        plan_train(toy_config(**given), faces(), tmp_path / "run", device="cpu")


@pytest.mark.parametrize("nets", ["mlp", "began", "dcgan-pool", "mine:NETS"])
def test_nets_without_conditions_are_refused(nets):
    loss = {"loss": "began"} if nets == "began" else {}
    with pytest.raises(
        SettingsError, match=f"--condition Red cannot be used with the nets '{nets}'. Leave it out, or set"
    ):
        toy_config(nets=nets, norm="none", condition="Red", **loss)


def test_condition_is_a_list_of_names():
    assert toy_config(condition=" Red, Light ,Red,").condition == "Red,Light"
    assert toy_config(condition="").condition == ""


def test_too_large_batches_name_one_that_fits(tmp_path, monkeypatch):
    from facegan.training import estimate
    from facegan.training.trainer import Trainer

    step = Trainer.train_step

    def fail_above(self, reals):
        if self.config.batch > 4:
            raise MemoryError
        step(self, reals)

    monkeypatch.setattr(Trainer, "train_step", fail_above)
    with pytest.raises(SettingsError, match="4 images at once do"), estimate.explain_out_of_memory(toy_trainer(**TWO)):
        raise MemoryError


def seen_in(name: str, images: torch.Tensor) -> torch.Tensor:
    """The attribute's value by the pixels of toy faces, uint8 (N, 3, 32, 32)."""
    images = images.float()
    if name == "Red":
        return torch.where(images[:, 1:, 8:24, 8:24].mean((1, 2, 3)) < 90, 1, -1)
    if name == "Light":
        return torch.where(images[:, :, :8, :8].mean((1, 2, 3)) > 128, 1, -1)
    colour = images[:, :, :, -8:].mean((2, 3))
    return torch.where(colour.amax(1) > 128, colour.argmax(1) + 1, 0)


def test_pixels_show_the_attributes() -> None:
    faces = ToyAttributes()
    for name in ("Red", "Light", "band"):
        labels = torch.from_numpy(faces.table[name]).long()
        assert torch.equal(seen_in(name, faces.images), labels if name == "band" else 2 * labels - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "given"),
    [
        ("Red,Light", {}),
        ("band", {}),
        ("Red,Light", {"nets": "dcgan-fc", "norm": "none"}),
        ("Red,Light", {"method": "wgan-gp"}),
    ],
    ids=str,
)
def test_conditions_are_obeyed(condition: str, given: dict[str, Any]) -> None:
    """After some hundred steps of a tiny net, or 1,500 with a penalty."""
    rates = {"lr_g": 1e-3, "lr_d": 1e-3, "ema_images": 500}
    trainer = toy_steps(toy_trainer(**rates, **given, condition=condition), 1500 if "method" in given else 400)
    generator = trainer.ema.generator(0)
    conditions = generator.spec.condition
    assert conditions is not None
    inputs = sample_inputs(generator.spec, 200, 5)
    images = images_of(generator, inputs)
    for name, values in conditions.values_of(inputs[:, generator.spec.latent :]).items():
        agreement = (seen_in(name, images) == torch.tensor(values)).double().mean().item()
        assert agreement >= 0.95, (name, agreement)
