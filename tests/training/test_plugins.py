"""Nets and losses of a user's own, by MODULE:NAME: they learn, go on and sample as any; what is wrong is a sentence."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy import ToyFaces, stop_after, toy_config, toy_run, weights

from facegan.config import TrainConfig
from facegan.errors import CheckpointError, Interrupted, SettingsError
from facegan.nets import load_generator
from facegan.training import sample_images
from facegan.training.run_record import TrainRequest
from facegan.training.trainer import Trainer, spec_of
from facegan.training.validate import validate_run

GOOD = """\
import torch
from torch import nn
from torch.nn import functional
from facegan.nets import Dropout, Pair
from facegan.training import Loss

def generator(spec):
    shape = spec.channels, spec.size, spec.size
    layers = nn.Linear(spec.latent, spec.width), nn.BatchNorm1d(spec.width), nn.ReLU()
    end = nn.Linear(spec.width, spec.channels * spec.size**2), nn.Tanh(), nn.Unflatten(1, shape)
    return nn.Sequential(*layers, *end)

def discriminator(spec, *norm):
    layers = nn.Flatten(), nn.Linear(spec.channels * spec.size**2, spec.width), *norm, nn.LeakyReLU(0.2), Dropout(0.1)
    return nn.Sequential(*layers, nn.Linear(spec.width, 1), nn.Flatten(0))

class Autoencoder(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.inner = nn.Conv2d(spec.channels, spec.channels, 3, padding=1)

    def forward(self, images):
        return -(images - self.inner(images)).abs().mean((1, 2, 3))

def mixing(spec):
    return discriminator(spec, nn.BatchNorm1d(spec.width))

NETS = Pair(generator, discriminator)
MIXING = Pair(generator, mixing)
NARROW = Pair(generator, discriminator, sizes=(64,), norms=("layer",))
AUTOENCODER = Pair(generator, Autoencoder, autoencoder=True)
LOSS = Loss(
    lambda real, fake: functional.softplus(-real).mean() + functional.softplus(fake).mean(),
    lambda fake: functional.softplus(-fake).mean(),
)
RIVALS = Loss(lambda real, fake: (fake - real).exp().mean(), lambda fake, real: (real - fake).exp().mean(), pairs=True)
SMOOTH = Loss(lambda real, fake, s=0.0: fake.mean() - (1 - s) * real.mean(), lambda fake: -fake.mean(), smooths=True)
EQUAL = Loss(lambda real, fake, k: k * fake.mean() - real.mean(), lambda fake: -fake.mean(), autoencoder=True)

# What is wrong.
NOT_NETS = 5
NOT_MODULES = Pair(lambda spec: torch.zeros(3), discriminator)
NO_WEIGHTS = Pair(generator, lambda spec: nn.Flatten(0))
RAISING = Pair(lambda spec: generator(spec.sise), discriminator)
COLUMN = Pair(generator, lambda spec: nn.Sequential(*discriminator(spec)[:-1]))
LOUD = Pair(lambda spec: nn.Sequential(generator(spec), nn.Hardtanh(2, 9)), discriminator)
SCALARS = Loss(lambda real, fake: fake - real, lambda fake: -fake.mean())
WITHOUT = Loss(lambda real, fake: fake.detach().mean(), lambda fake: -fake.mean())
THREE = Loss(lambda real, fake, third: fake.mean(), lambda fake: -fake.mean())
INFINITE = Loss(lambda real, fake: fake.mean() / 0, lambda fake: -fake.mean())
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``mine.py`` in the current folder."""
    before = list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # of another test file
    (tmp_path / "mine.py").write_text(GOOD)
    yield tmp_path / "mine.py"
    sys.modules.pop("mine", None)
    sys.path[:] = before


def own(**given: object) -> TrainConfig:
    return toy_config(**{"nets": "mine:NETS", "loss": "mine:LOSS", "images": 64, **given})


def test_own_nets_and_loss_train_and_sample(tmp_path):
    result = toy_run(tmp_path / "run", own())
    assert math.isfinite(result.loss_d)
    generator = load_generator(tmp_path / "run", trust_code=True)
    assert generator.spec.name == "mine:NETS"
    assert sample_images(generator, 3).shape == (3, 3, 32, 32)
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["own_code"]["nets"]["file"] == record["own_code"]["loss"]["file"] == str(tmp_path / "mine.py")
    assert len(record["own_code"]["nets"]["sha256"]) == 64
    again = toy_run(tmp_path / "other", own(images=32), init=tmp_path / "run")
    assert again.images == 32


def test_resume_equals_uninterrupted(tmp_path):
    """And LOSS, which is written as the non-saturating one, gives the same weights."""
    toy_run(tmp_path / "whole", own(loss="non-saturating"))
    with pytest.raises(Interrupted):
        toy_run(tmp_path / "stopped", own(), stop=stop_after(3))
    toy_run(tmp_path / "stopped", own())
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_altered_file_is_reported_once(tmp_path, mine, capsys):
    toy_run(tmp_path / "run", own())
    mine.write_text(GOOD + "# a comment\n")
    for _ in range(2):
        toy_run(tmp_path / "run", own(images=128))
    printed = capsys.readouterr().err
    assert printed.count("mine.py has changed since this run was last started (train.nets = mine:NETS)") == 1
    assert printed.count("(train.loss = mine:LOSS)") == 1


@pytest.mark.parametrize(
    ("given", "logs"),
    [
        ({"loss": "mine:RIVALS", "d_steps": 2, "g_steps": 3}, "loss_g"),
        ({"loss": "mine:SMOOTH", "label_smoothing": 0.1}, "loss_d"),
        ({"nets": "mine:AUTOENCODER", "loss": "mine:EQUAL", "began_gamma": 0.7}, "convergence"),
        ({"nets": "mine:AUTOENCODER", "loss": "began"}, "k"),
        ({"loss": "wgan-gp", "regulariser": "r1"}, "gp"),
        ({"nets": "mine:MIXING", "regulariser": "dragan"}, "gp"),
        ({"nets": "mlp", "width": 4}, "loss_d"),
    ],
)
def test_plugins_combine_with_settings(tmp_path, given, logs):
    config = own(**given)
    validate_run(TrainRequest(config, ToyFaces(), tmp_path / "run", device="cpu"))
    trainer = Trainer(config, spec_of(config, 32, 3), torch.device("cpu"), "fp32")
    for _ in range(2):
        trainer.train_step(ToyFaces().batches(config.batch))
    assert math.isfinite(trainer.means()[logs])
    assert all(tensor.isfinite().all() for tensor in trainer.tensors().values())


def test_doubtful_pair_is_reported(tmp_path, capsys):
    config = own(nets="mine:MIXING", regulariser="dragan", images=16)
    toy_run(tmp_path / "run", config)
    assert "'mine:MIXING'" in capsys.readouterr().err.replace("= mine:MIXING mixes the images", "'mine:MIXING'")


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nets": "nobody:NETS"}, "train.nets = nobody:NETS cannot be imported: ModuleNotFoundError"),
        ({"nets": "mine:NOT_NETS"}, r"train.nets = mine:NOT_NETS is not a pair of nets.*Pair\(GENERATOR"),
        ({"nets": "mine:NOT_MODULES"}, "generator of train.nets = mine:NOT_MODULES is a Tensor"),
        ({"nets": "mine:NO_WEIGHTS"}, "discriminator of train.nets = mine:NO_WEIGHTS must have float32 weights"),
        ({"nets": "mine:RAISING"}, "generator of train.nets = mine:RAISING cannot be built: AttributeError: .*sise"),
        ({"nets": "mine:COLUMN"}, r"maps \(4, 3, 32, 32\) to \(4, 1\); it must return \(4,\), float\n.*Flatten"),
        ({"nets": "mine:LOUD"}, "generator of train.nets = mine:LOUD gives values up to 2.00"),
        ({"nets": "mine:NARROW"}, "'mine:NARROW' support 64 pixels, not 32"),
        ({"nets": "mine:MIXING", "loss": "wgan-gp"}, "mine:MIXING mixes the images of a batch.*gp is per sample"),
        ({"nets": "mine:AUTOENCODER"}, "loss = mine:LOSS cannot be used with the nets 'mine:AUTOENCODER'"),
        ({"loss": "mine:EQUAL"}, "The loss began and a discriminator that is an autoencoder need each other"),
        ({"loss": "mine:NETS"}, "train.loss = mine:NETS is a Pair. It must be a facegan.training.Loss"),
        ({"loss": "mine:SCALARS"}, r"its discriminator's function returns the shape \(4,\)"),
        ({"loss": "mine:WITHOUT"}, "its discriminator's function does not depend on the logits"),
        ({"loss": "mine:THREE"}, "its discriminator's function fails on 2 arguments: TypeError"),
        ({"loss": "mine:INFINITE"}, "its discriminator's function returns -inf. It must return one finite number"),
        ({"loss": "mine:LOSS", "label_smoothing": 0.1}, "label_smoothing changes nothing with the loss mine:LOSS"),
        ({"loss": "mine:LOSS", "began_gamma": 0.7}, "began_gamma changes nothing with the loss mine:LOSS"),
        ({"loss": "mine:RIVALS", "g_warmup_images": 16}, "g_warmup_images .* the loss mine:RIVALS"),
    ],
)
def test_broken_plugins_are_refused_early(tmp_path, given, sentence):
    with pytest.raises(SettingsError, match=f"(?s){sentence}") as caught:
        toy_run(tmp_path / "run", own(**given))
    assert str(caught.value).count("\n") < 3
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("import sys\nsys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("def generator(:", "cannot be imported: SyntaxError"),
    ],
)
def test_failing_module_is_a_sentence(tmp_path, code, sentence):
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(SettingsError, match=sentence):
        toy_run(tmp_path / "run", own(nets="broken:NETS"))


def test_generator_without_its_module(tmp_path, monkeypatch):
    toy_run(tmp_path / "run", own(images=16))
    sys.modules.pop("mine")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sys.path[:] = [path for path in sys.path if path != str(tmp_path)]
    with pytest.raises(CheckpointError, match=r"needs user-defined nets: .*mine:NETS cannot be imported"):
        load_generator(tmp_path / "run", trust_code=True)
