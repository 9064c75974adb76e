import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.config import TrainConfig
from facegan.config.base import images_of, in_epochs
from facegan.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("200000", 200_000),
        ("200_000", 200_000),
        ("200k", 200_000),
        ("5M", 5_000_000),
        ("1.5M", 1_500_000),
        ("2000st", 256_000),
        ("50ep", 5_000),
        ("0.5ep", 50),
        (" 7 ", 7),
        ("1.255ep", 126),
    ],
)
def test_what_lengths_come_to(text, images):
    assert images_of(text, "--images", 128, 100) == images


@pytest.mark.parametrize("text", ["", "5x", "ep", "-3", "1e6", "5 M 3", "five", "2.5st", "1.5", "٣"])
def test_what_is_no_length(text):
    with pytest.raises(ValueError, match=f"--images {text}: (write a length|it has to be a whole number)"):
        images_of(text, "--images", 128, 100)


@given(st.integers(1, 10**12), st.integers(1, 10**6), st.integers(1, 10**6))
def test_units_agree(count, step_images, faces):
    assert images_of(str(count), "x", step_images, faces) == count
    assert images_of(f"{count % 1000}st", "x", step_images, faces) == count % 1000 * step_images
    assert images_of(f"{count % 1000}ep", "x", step_images, faces) == count % 1000 * faces


def test_settings_take_lengths():
    config = TrainConfig.for_method(
        "wgan-gp", 1000, batch=64, d_steps=5, images="3ep", save_every="2st", ema_images="1k", sample_every="500"
    )
    assert (config.images, config.save_every, config.ema_images, config.sample_every) == (3000, 640, 1000, 500)
    assert TrainConfig.of({"images": "10st", "batch": "32", "d_steps": 2}).images == 640
    assert TrainConfig.of(config.model_dump()) == config


def test_lengths_that_cannot_be():
    with pytest.raises(SettingsError, match="--images 5ep: an epoch is as long as the dataset, and here none is known"):
        TrainConfig.of({"images": "5ep"})
    with pytest.raises(SettingsError, match="--save-every 5x: write a length in images"):
        TrainConfig.of({"save_every": "5x"})
    with pytest.raises(SettingsError, match="--images 0: it has to be greater than 0"):
        TrainConfig.of({"images": "0ep"} | {"images": "0"})


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"augment": "colour"}, r"augment = colour: there is no 'colour', only color, .*\. Did you mean 'color'\?"),
        ({"batch": 10, "grad_accum_steps": 4}, "--batch 10 can't be computed in 4 equal parts"),
        ({"d_warmup_images": 10, "g_warmup_images": 10}, "only one net can have a warm-up"),
        ({"momentum": 0.9}, r"train.momentum changes nothing with adam, whose momentum is train.beta1\. Leave it out"),
        ({"penalty_every": 4}, "penalty_every changes nothing with the loss non-saturating"),
        ({"gp_weight": 1}, "gp_weight changes nothing with the loss non-saturating, which has no penalty"),
        (
            {"optimizer": "rmsprop", "beta1": 0.1},
            "beta1 changes nothing with rmsprop, whose momentum is train.momentum",
        ),
        ({"optimizer": "sgd", "beta2": 0.9}, "beta2 changes nothing with sgd"),
        ({"loss": "wgan-gp"}, "norm = batch does not go with the loss wgan-gp"),
        ({"regulariser": "r1"}, "norm = batch does not go with the regulariser r1: its penalty is per sample"),
        ({"regulariser": "r3"}, r"train.regulariser = r3: there is no 'r3', only gp, dragan, r1 or r2\."),
        ({"loss": "wgan-gp", "norm": "none", "regulariser": "gp"}, "regulariser = gp is part of the loss wgan-gp"),
        ({"r1_gamma": 1}, "r1_gamma changes nothing without the regulariser r1 or r2"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing changes nothing with the loss hinge"),
        ({"began_gamma": 0.3}, "began_gamma changes nothing with the loss non-saturating"),
        ({"loss": "relativistic", "g_warmup_images": 10}, "g_warmup_images does not go with the loss relativistic"),
        ({"optimizer": "adamw"}, r"choose adam, rmsprop or sgd\. Did you mean 'adam'\?"),
        ({"latent_distribution": "gauss"}, "--latent-distribution gauss is not offered"),
        ({"image_range": 0}, "--image-range 0: it has to be greater than 0"),
    ],
)
def test_settings_that_do_not_go_together(given, sentence):
    with pytest.raises(SettingsError, match=sentence):
        TrainConfig.of(given)


def test_a_methods_own_values_may_be_idle():
    assert TrainConfig.for_method("wgan-gp", optimizer="sgd").beta2 == 0.9


def test_milestones_are_lengths():
    config = TrainConfig.for_method("dcgan", faces=100, batch=10, milestones="20k, 3st,2ep, 7")
    assert config.milestones == (20_000, 30, 200, 7)
    assert TrainConfig.of(config.model_dump()) == config
    assert TrainConfig.of(config.model_dump(mode="json")) == config
    assert in_epochs("20k,2ep,7")
    with pytest.raises(SettingsError, match=r"train.milestones 5x: write a length"):
        TrainConfig.of({"milestones": "20k,5x"})
    with pytest.raises(SettingsError, match=r"milestones 5ep: an epoch is as long as the dataset"):
        TrainConfig.of({"milestones": ["5ep"]})


def test_augmentations_have_one_spelling():
    assert TrainConfig.of({"augment": "cutout, color"}).augment == "color,cutout"
    assert TrainConfig.of({"augment": "none"}).augmentations == ()


def test_a_schedule_ties_the_length():
    assert "images" in TrainConfig().free_on_resume
    assert "images" not in TrainConfig(schedule="cosine").free_on_resume
