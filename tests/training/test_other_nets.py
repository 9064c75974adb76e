"""Every pair of nets in the rounds of a training: it learns, it is taken up as it was, its pictures are measured."""

import pytest
import torch
from toy import ToyFaces, toy_config

from facegan.errors import SettingsError
from facegan.nets import PAIRS
from facegan.nets.random import latents
from facegan.training import plan_train
from facegan.training.trainer import Trainer, spec_of

CPU = torch.device("cpu")
WIDTHS = {"r3gan": 8, "resnet": 2}


def trainer(name: str, **given: object) -> Trainer:
    config = toy_config(nets=name, **{"width": WIDTHS.get(name, 4), **given})
    return Trainer(config, spec_of(config, 32, 3), CPU, "fp32")


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_learns_and_its_state_goes_on_alike(name):
    one, other = trainer(name), trainer(name)
    begun = {key: tensor.clone() for key, tensor in one.tensors().items()}
    reals = ToyFaces().batches(16)
    for _ in range(2):
        one.round(reals)
    tensors = {key: tensor.clone() for key, tensor in one.tensors().items()}
    for part in ("generator", "discriminator"):
        assert any(key.startswith(part) and not torch.equal(tensor, begun[key]) for key, tensor in tensors.items())
    other.load("x", tensors, one.numbers())
    real = next(reals)
    for t in (one, other):
        t.round(iter([real]))
    for key, tensor in one.tensors().items():
        assert tensor.isfinite().all(), key
        assert torch.equal(tensor, other.tensors()[key]), key


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if not pair.autoencoder])
def test_a_critic_of_every_pair_takes_the_penalty(name):
    t = trainer(name, norm="none", loss="wgan-gp")
    for _ in range(2):
        t.round(ToyFaces().batches(16))
    assert t.means()["gp"] > 0
    assert all(tensor.isfinite().all() for tensor in t.tensors().values())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nets": "began", "loss": "hinge"}, r"loss = hinge does not go with the nets 'began'.*\n.*train.loss=began"),
        ({"nets": "mlp", "loss": "began"}, r"loss = began needs .* 'mlp' is none\.\nSet train\.nets=began"),
        ({"nets": "mlp", "norm": "layer"}, "'mlp' have the normalisation none, not 'layer'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_made(tmp_path, given, sentence):
    with pytest.raises(SettingsError, match=sentence):
        plan_train(toy_config(**given), ToyFaces(), tmp_path / "run", device="cpu")
    assert plan_train(toy_config(nets="began"), ToyFaces(), tmp_path / "run", device="cpu")["loss"] == "began"


@pytest.mark.parametrize("norm", ["spectral", "layer"])
def test_bf16_rounds_are_finite_and_norms_stay_in_float32(norm):
    config = toy_config(nets="resnet", width=2, norm=norm)
    t = Trainer(config, spec_of(config, 32, 3), CPU, "bf16")
    t.round(ToyFaces().batches(16))
    assert all(tensor.isfinite().all() for tensor in t.tensors().values())
    assert all(buffer.dtype == torch.float32 for buffer in t.discriminator.buffers())


@pytest.mark.parametrize("name", ["mlp", "mnist-conv"])
def test_statistics_of_connected_layers_are_measured_anew(name):
    t = trainer(name)
    t.round(ToyFaces().batches(16))
    net = t.ema.generator(7)
    norm = net.get_submodule("layers.1")
    batches = [
        net.get_submodule("layers.0")(latents(64, 16, 7, "batch-norm statistics", batch, CPU, net.spec.law))
        for batch in range(8)
    ]
    assert isinstance(norm, torch.nn.BatchNorm1d)
    mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    variance = torch.stack([batch.var(0) for batch in batches]).mean(0)
    torch.testing.assert_close(norm.running_mean, mean, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(norm.running_var, variance, atol=1e-5, rtol=1e-4)


def test_each_pass_through_dropout_has_masks_of_its_own():
    t, masks = trainer("mlp"), []
    for layer in t.discriminator.modules():
        layer.register_forward_hook(
            lambda layer, inputs, output: (
                masks.append((output == 0).clone()) if type(layer).__name__ == "Dropout" else None
            )
        )
    reals = ToyFaces().batches(16)
    for _ in range(2):
        t.round(reals)
    assert len(masks) == 2 * 3 * 3  # rounds; reals, fakes and fakes of G; layers
    shares = [mask.float().mean().item() for mask in masks]
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.03)
    same_layer = masks[::3]
    assert all(not torch.equal(a, b) for i, a in enumerate(same_layer) for b in same_layer[:i])
