import pytest
import torch

from facegan.errors import SettingsError
from facegan.nets import NetSpec, count_parameters, make_discriminator, make_generator
from facegan.nets.random import latents, named_generator


@pytest.mark.parametrize(
    ("size", "generator", "discriminator", "critic"),
    [(32, 1_068_928, 663_296, 662_912), (64, 3_576_704, 2_765_568, 2_764_672), (128, 12_786_560, 11_164_416, None)],
)
def test_parameter_counts_are_those_of_the_docstrings(size, generator, discriminator, critic):
    assert count_parameters(make_generator(NetSpec(size=size))) == generator
    assert count_parameters(make_discriminator(NetSpec(size=size))) == discriminator
    if critic:
        assert count_parameters(make_discriminator(NetSpec(size=size, norm="none"))) == critic


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize(("channels", "norm"), [(3, "batch"), (1, "none")])
def test_shapes_and_range(size, channels, norm):
    spec = NetSpec(size=size, channels=channels, latent=7, width=4, norm=norm)
    images = make_generator(spec)(torch.randn(2, 7))
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    assert make_discriminator(spec)(images).shape == (2,)


def test_weights_follow_from_the_seed_and_leave_the_global_state_alone():
    before = torch.get_rng_state()
    one, same, other = (make_generator(NetSpec(width=8), seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    first, again, else_ = (next(net.parameters()) for net in (one, same, other))
    assert torch.equal(first, again)
    assert not torch.equal(first, else_)


def test_initialisation_is_that_of_the_example():
    state = make_generator(NetSpec()).state_dict()
    assert state["layers.3.weight"].std().item() == pytest.approx(0.02, rel=0.01)
    assert state["layers.4.weight"].mean().item() == pytest.approx(1, abs=0.01)
    assert state["layers.4.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert state["layers.4.bias"].abs().max() == 0
    assert state["layers.4.running_mean"].abs().max() == 0
    assert state["layers.4.running_var"].unique().tolist() == [1]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            NetSpec(name="dcgam"),
            "There are no nets 'dcgam': choose dcgan, dcgan-fc, dcgan-pool, mnist-conv, mlp, resnet, "
            "began or r3gan. Did you mean 'dcgan'?",
        ),
        (NetSpec(size=28), "The nets 'dcgan' make 32, 64 or 128 pixels, not 28."),
        (NetSpec(norm="bach"), "have the normalisations batch or none, not 'bach'. Did you mean 'batch'?"),
    ],
)
def test_specs_that_cannot_be_made(spec, sentence):
    with pytest.raises(SettingsError) as caught:
        make_discriminator(spec)
    assert sentence in str(caught.value)


def test_noise_follows_from_its_key_alone():
    draw = latents(4, 8, 1, "a", 2, "cpu")
    torch.randn(100)
    assert torch.equal(draw, latents(4, 8, 1, "a", 2, "cpu"))
    for seed, purpose, counter in [(2, "a", 2), (1, "b", 2), (1, "a", 3)]:
        assert not torch.equal(draw, latents(4, 8, seed, purpose, counter, "cpu"))
    assert torch.rand((), generator=named_generator(2**63 - 1, "x")) >= 0
