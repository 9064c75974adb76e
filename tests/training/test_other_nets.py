"""Every pair of nets learns and resumes."""

import pytest
import torch
from toy import ToyFaces, assert_equal_states, copy_state, toy_config, toy_steps, toy_trainer

from facegan.errors import SettingsError
from facegan.nets import PAIRS
from facegan.training import plan_train
from facegan.training.precision import Precision
from facegan.training.trainer import Trainer

WIDTHS = {"r3gan": 8, "resnet": 2}


def trainer(name: str, mode: Precision = "fp32", **given: object) -> Trainer:
    return toy_trainer("dcgan", mode, nets=name, **{"width": WIDTHS.get(name, 4), **given})


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_learns_and_resumes(name):
    one, other = trainer(name), trainer(name)
    toy_steps(one)
    for net, fresh in ((one.generator, other.generator), (one.discriminator, other.discriminator)):
        assert any(not torch.equal(a, b) for a, b in zip(net.parameters(), fresh.parameters(), strict=True))
    copy_state(one, other)
    for t in (one, other):
        toy_steps(t)
    assert all(tensor.isfinite().all() for tensor in one.tensors().values())
    assert_equal_states(one, other)


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if not pair.autoencoder])
def test_every_critic_takes_the_penalty(name):
    t = toy_steps(trainer(name, norm="none", loss="wgan-gp", d_steps=1, batch=8))
    assert t.means()["gp"] > 0
    assert all(tensor.isfinite().all() for tensor in t.tensors().values())


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nets": "began", "loss": "hinge"}, r"loss = hinge cannot be used with the nets 'began'(.|\n)*train\.loss"),
        ({"nets": "mlp", "loss": "began"}, r"loss = began cannot be used with the nets 'mlp'(.|\n)*train\.nets=began"),
        ({"nets": "mlp", "norm": "layer"}, "'mlp' support the norm none, not 'layer'"),
        ({"loss": "hinje"}, r"train\.loss = hinje is not available(.|\n)*'hinge'"),
    ],
)
def test_unfit_nets_are_refused(tmp_path, given, sentence):
    with pytest.raises(SettingsError, match=sentence):
        plan_train(toy_config(**given), ToyFaces(), tmp_path / "run", device="cpu")
    assert plan_train(toy_config(nets="began"), ToyFaces(), tmp_path / "run", device="cpu")["loss"] == "began"


@pytest.mark.parametrize("norm", ["spectral", "layer"])
def test_norms_stay_float32_in_bf16(norm):
    t = toy_steps(trainer("resnet", "bf16", norm=norm))
    assert all(tensor.isfinite().all() for tensor in t.tensors().values())
    assert all(buffer.dtype == torch.float32 for buffer in t.discriminator.buffers())


def test_dropout_masks_differ_by_pass():
    t, masks = trainer("mlp"), []
    for layer in t.discriminator.modules():
        layer.register_forward_hook(
            lambda layer, inputs, output: (
                masks.append((output == 0).clone()) if type(layer).__name__ == "Dropout" else None
            )
        )
    toy_steps(t, 2)
    assert len(masks) == 2 * 3 * 3  # steps; reals, fakes and fakes of G; layers
    shares = [mask.float().mean().item() for mask in masks]
    assert sum(shares) / len(shares) == pytest.approx(0.3, abs=0.03)
    same_layer = masks[::3]
    assert all(not torch.equal(a, b) for i, a in enumerate(same_layer) for b in same_layer[:i])
