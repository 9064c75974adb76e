"""Properties of every registered pair, and of the papers' layers."""

import itertools
import math
import typing

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from facegan.config import NETS, Nets, TrainConfig
from facegan.errors import SettingsError
from facegan.nets import (
    PAIRS,
    Discriminator,
    Dropout,
    NetSpec,
    count_parameters,
    drawn,
    load_generator,
    make_discriminator,
    make_generator,
    save_generator,
)
from facegan.nets.dcgan import BEGANDiscriminator
from facegan.nets.layers import SpectralConv2d, SpectralLinear, glorot
from facegan.nets.r3gan import Resampling
from facegan.nets.random import latents, named_generator

SMALL = {"began": 4, "dcgan": 4, "dcgan-fc": 4, "dcgan-pool": 2, "mlp": 4, "mnist-conv": 4, "r3gan": 16, "resnet": 2}
CASES = [
    (name, size, channels, norm)
    for name, pair in PAIRS.items()
    for (size, channels), norm in itertools.product([(s, 3 if s == 64 else 1) for s in pair.sizes], pair.norms)
]


def spec_of(name: str, size: int, channels: int = 3, **given: typing.Any) -> NetSpec:
    """With the pair's defaults."""
    config = TrainConfig.of({"nets": name, **given})
    return NetSpec(name, size, channels, config.latent, config.width, config.norm, config.latent_distribution)


def logits_of(net: Discriminator, images: Tensor) -> Tensor:
    masks = [torch.rand(4, 100_000, generator=named_generator(0, "masks", layer)) for layer in range(3)]
    with drawn(net, lambda layer, columns: masks[layer][: len(images), :columns]):
        return net(images)


def test_registry_and_settings_agree():
    assert set(PAIRS) == set(typing.get_args(Nets)) == set(NETS)
    for name, pair in PAIRS.items():
        config = TrainConfig(nets=name)
        assert config.norm in pair.norms
        assert TrainConfig.of(config.model_dump()) == config
        assert TrainConfig.for_method("wgan-gp", nets=name).norm == "none"  # supported by every pair


COUNTS = {  # of parameters, with three channels, at sizes 28, 32, 64 and 128
    "dcgan": [None, (1_068_928, 663_296), (3_576_704, 2_765_568), (12_786_560, 11_164_416)],
    "dcgan-fc": [(1_012_803, 216_065), (1_553_987, 1_033_345), (5_356_099, 4_314_753), (19_513_923, 17_431_169)],
    "dcgan-pool": [(180_403, 46_225), (176_179, 200_113), (485_555, 815_089), (1_513_907, 3_273_841)],
    "mnist-conv": [(2_308_672, 216_065), (2_700_352, 217_985), None, None],
    "mlp": [(3_115_568, 1_369_089), (3_853_568, 1_737_729), (13_299_968, 6_456_321), (51_085_568, 25_330_689)],
    "resnet": [(4_118_019, 1_053_825), (4_274_435, 1_053_825), (12_217_795, 10_141_441), (32_144_835, 29_017_857)],
    "began": [(427_139, 2_359_299), (489_539, 2_606_019), (563_395, 4_564_803), (637_251, 7_482_243)],
    "r3gan": [(15_590_400, 15_542_016), (20_732_160, 20_683_776), (22_429_824, 22_381_440), (22_910_016, 22_861_632)],
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_of_all_sizes(name):
    pair = PAIRS[name]
    for size, counts in zip((28, 32, 64, 128), COUNTS[name], strict=True):
        assert (counts is not None) == (size in pair.sizes)
        with torch.device("meta"):
            for build, count in zip((pair.generator, pair.discriminator), counts or (), strict=False):
                assert count_parameters(build(spec_of(name, size))) == count


@pytest.mark.parametrize(("name", "size", "channels", "norm"), CASES)
def test_shapes_range_and_gradients(name, size, channels, norm):
    spec = spec_of(name, size, channels, width=SMALL[name], latent=6, norm=norm)
    generator, discriminator = make_generator(spec, 1).train(), make_discriminator(spec, 1).train()
    with torch.no_grad():  # R3GAN's blocks start as the identity, which passes no gradient to their weights
        for number, weights in enumerate([*generator.parameters(), *discriminator.parameters()]):
            weights.add_(torch.randn(weights.shape, generator=named_generator(number, "nudge")), alpha=0.02)
    images = generator(latents(4, 6, 0, "z", 0, "cpu", spec.distribution))
    assert images.shape == (4, channels, size, size)
    assert images.abs().max() <= 1
    logits = logits_of(discriminator, images)
    assert logits.shape == (4,)
    (logits * torch.tensor([1.0, -2.0, 3.0, 1.0])).sum().backward()
    for net in (generator, discriminator):
        for label, weights in net.named_parameters():
            assert weights.grad is not None, label
            assert weights.grad.isfinite().all(), label
            assert weights.grad.abs().max() > 0, label


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("width", "latent"), [(1, 1), (7, 3), (69, 2)])
def test_any_width_and_latent_length(name, width, latent):
    spec = spec_of(name, 32, width=width, latent=latent)
    with torch.no_grad():
        images = make_generator(spec).eval()(torch.zeros(2, latent))
        assert images.shape == (2, 3, 32, 32)
        assert make_discriminator(spec).eval()(images).shape == (2,)


@pytest.mark.parametrize("name", PAIRS)
def test_weights_depend_on_seed_and_survive_a_file(name, tmp_path):
    spec = spec_of(name, PAIRS[name].sizes[-1], 1, width=SMALL[name], latent=6)
    before = torch.get_rng_state()
    for make in (make_generator, make_discriminator):
        one, same, other = (make(spec, seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(tensor, same[key]) for key, tensor in one.items())
        assert any(not torch.equal(tensor, other[key]) for key, tensor in one.items())
        assert all(tensor.isfinite().all() for tensor in one.values())
    assert torch.equal(before, torch.get_rng_state())
    generator = make_generator(spec, 3).eval()
    z = latents(3, 6, 0, "z", 0, "cpu", spec.distribution)
    save_generator(tmp_path / "generator.safetensors", generator)
    loaded = load_generator(tmp_path)
    assert loaded.spec == spec
    assert torch.equal(loaded(z), generator(z))


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if "none" in pair.norms])
def test_images_are_independent_without_batch_norm(name):
    spec = spec_of(name, PAIRS[name].sizes[0], 1, width=SMALL[name], norm="none")
    net = make_discriminator(spec).train()
    images = torch.rand(3, 1, spec.size, spec.size, generator=named_generator(0, "images")) * 2 - 1
    torch.testing.assert_close(logits_of(net, images)[0], logits_of(net, images[:1])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (NetSpec(name="dcgam"), "no nets 'dcgam': choose dcgan, dcgan-fc, .* or r3gan. Did you mean 'dcgan'?"),
        (NetSpec(size=28), "'dcgan' support 32, 64 or 128 pixels, not 28.\nPrepare the faces again with --size"),
        (NetSpec(norm="bach"), "support the norm batch, none or spectral, not 'bach'. Did you mean 'batch'"),
        (NetSpec(channels=4), "'dcgan' support 1 or 3 channels, not 4."),
    ],
)
def test_unsupported_specs_are_refused(spec, message):
    for make in (make_generator, make_discriminator):
        with pytest.raises(SettingsError, match=message):
            make(spec)


def test_initialisation_is_the_papers():
    state = make_generator(NetSpec()).state_dict()
    assert state["layers.3.weight"].std().item() == pytest.approx(0.02, rel=0.01)
    assert state["layers.4.weight"].mean().item() == pytest.approx(1, abs=0.01)
    assert state["layers.4.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert state["layers.4.bias"].abs().max() == state["layers.4.running_mean"].abs().max() == 0
    weight = make_generator(spec_of("dcgan-fc", 64)).get_parameter("layers.0.weight")  # Glorot
    fans = 128 + 4 * 4 * 512
    assert weight.var().item() == pytest.approx(2 / fans, rel=0.01)
    assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.001)


def test_dropout_keeps_values_and_mean():
    layer = Dropout(0.3).train()
    values = torch.ones(2, 2, 50, 50)
    uniform = torch.rand(2, 5000, generator=named_generator(0, "u"))
    with drawn(layer, lambda number, columns: uniform):
        dropped = layer(values)
    assert torch.equal(dropped, (uniform >= 0.3).view(values.shape) / 0.7)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(layer.eval()(values), values)


def test_dropout_layers_draw_separate_masks():
    net = make_discriminator(spec_of("mlp", 28, 1, width=4)).train()
    images, draws = torch.zeros(2, 1, 28, 28), []
    with drawn(net, lambda layer, columns: draws.append((layer, columns)) or torch.ones(2, columns)):
        net(images)
    assert draws == [(0, 16), (1, 8), (2, 4)]
    with pytest.raises(RuntimeError, match="has dropout"):
        net(images)
    net.eval()(images)  # draws nothing


def test_spectral_norm_converges_in_training_only():
    linear, conv = SpectralLinear(20, 30), SpectralConv2d(4, 8, 3, padding=1)
    for layer, shape in ((linear, (2, 20)), (conv, (2, 4, 6, 6))):
        glorot(layer, named_generator(1, "u"))
        torch.nn.init.normal_(layer.weight, generator=named_generator(1, "w"))
        assert layer.u.norm().item() == pytest.approx(1, abs=1e-6)
        inputs = torch.randn(shape, generator=named_generator(1, "x"))
        for _ in range(100):
            layer(inputs)
        largest = torch.linalg.svdvals(layer.weight.detach().flatten(1))[0]
        weight = layer.weight / largest
        plain = functional.linear(inputs, weight) if layer is linear else functional.conv2d(inputs, weight, padding=1)
        kept = layer.u.clone()
        torch.testing.assert_close(layer.eval()(inputs), plain, atol=1e-5, rtol=1e-4)
        assert torch.equal(layer.u, kept)


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if "spectral" in pair.norms])
def test_spectral_norm_of_every_weight(name):
    spec = spec_of(name, 32, width=SMALL[name], norm="spectral")
    net = make_discriminator(spec).eval()
    assert all(u.norm().item() == pytest.approx(1, abs=1e-6) for u in net.buffers())
    images = torch.rand(2, 3, 32, 32, generator=named_generator(0, "images")) * 2 - 1
    logits = net(images)
    for weight in net.parameters():
        if weight.ndim > 1:
            weight.data.mul_(3.0)
            torch.testing.assert_close(net(images), logits, atol=1e-6, rtol=1e-4)


def test_spectral_norm_gradient_is_equation_12():
    # Equation 12: ∂W̄/∂W_ij = (E_ij − (u vᵀ)_ij W̄) / σ. With f = Σ A ∘ W̄: ∂f/∂W = (A − ⟨A, W̄⟩ u vᵀ) / σ.
    layer = SpectralLinear(5, 3, bias=False).double()
    glorot(layer, named_generator(0, "u"))
    torch.nn.init.normal_(layer.weight, generator=named_generator(0, "w"))
    weight, before = layer.weight.detach(), layer.u.clone()
    inputs, outside = (torch.randn(2, n, dtype=torch.float64, generator=named_generator(0, f"{n}")) for n in (5, 3))
    (layer(inputs) * outside).sum().backward()
    right = functional.normalize(weight.T @ before, dim=0)  # of the pass's iteration
    left = layer.u
    sigma = left @ weight @ right
    a = outside.T @ inputs
    expected = (a - (a * weight / sigma).sum() * torch.outer(left, right)) / sigma
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, expected)


def test_began_logit_is_reconstruction_error():
    net = make_discriminator(spec_of("began", 28, width=2, latent=4))
    assert isinstance(net, BEGANDiscriminator)
    images = torch.rand(3, 3, 28, 28, generator=named_generator(0, "x")) * 2 - 1
    again = net.reconstruct(images)
    torch.testing.assert_close(net(images), -(images - again).abs().flatten(1).mean(1))


def test_resampling_is_bilinear_inside():
    images = torch.randn(2, 3, 8, 8, generator=named_generator(0, "x"))
    up, down = Resampling(3, 3, up=True), Resampling(3, 3, up=False)
    for layer in (up, down):
        layer.kernel.copy_(torch.outer(row := torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, row))
        assert not layer.state_dict()
    double = functional.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(up(images)[..., 1:-1, 1:-1], double[..., 1:-1, 1:-1])
    half = functional.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False, antialias=True)
    torch.testing.assert_close(down(images)[..., 1:-1, 1:-1], half[..., 1:-1, 1:-1])


def test_r3gan_blocks_start_as_identity():
    spec = spec_of("r3gan", 32, width=32)
    generator = make_generator(spec)
    state = generator.state_dict()
    contracts = [tensor for name, tensor in state.items() if "contract" in name]
    assert len(contracts) == 8
    assert all(tensor.abs().max() == 0 for tensor in contracts)
    gain = math.sqrt(2 / 1.04) * 8**-0.25
    assert state["layers.0.expand.weight"].std().item() == pytest.approx(gain / math.sqrt(64), rel=0.05)
    assert state["layers.0.mix.weight"].std().item() == pytest.approx(gain / math.sqrt(16 * 9), rel=0.05)
    assert state["basis"].std().item() == pytest.approx(1, rel=0.1)
