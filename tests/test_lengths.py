"""Lengths, and settings that cannot be used together."""

import re

import pytest

from facegan.config import TrainConfig
from facegan.config.base import images_of
from facegan.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "images"),
    [
        *[("200_000", 200_000), ("200k", 200_000), ("1.5M", 1_500_000), (" 7 ", 7)],
        *[("2000st", 256_000), ("50ep", 5_000), ("0.5ep", 50), ("1.255ep", 126)],
    ],
)
def test_lengths_in_images(text, images):
    assert images_of(text, "--images", 128, 100) == images


@pytest.mark.parametrize("text", ["", "5x", "ep", "-3", "1e6", "5 M 3", "five", "2.5st", "1.5", "٣"])
def test_invalid_lengths_are_refused(text):
    with pytest.raises(ValueError, match=rf"--images {re.escape(text)}:? (is not a length|must be a whole number)"):
        images_of(text, "--images", 128, 100)


def test_settings_accept_lengths():
    config = TrainConfig.for_method(
        "dcgan",
        1000,
        batch="64",
        d_steps=5,
        images="3ep",
        save_every="2st",
        ema_images="1k",
        milestones="20k, 3st,2ep, 7",
    )
    assert (config.images, config.save_every, config.ema_images) == (3000, 640, 1000)
    assert config.milestones == (20_000, 960, 2000, 7)
    assert TrainConfig.of(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"augment": "colour"}, r"augment = colour: there is no 'colour'. Choose color, .*\. Did you mean 'color'\?"),
        ({"batch": 10, "grad_accum_steps": 4}, "--batch 10 cannot be split into 4 equal parts"),
        ({"d_warmup_images": 10, "g_warmup_images": 10}, "cannot be used together"),
        ({"momentum": 0.9}, r"train.momentum has no effect with adam, whose momentum is train.beta1\. Leave it out"),
        ({"augment": "color,ada"}, "train.augment = color,ada: ada is used alone"),
        ({"ada_target": 0.5}, r"train\.ada_target has no effect without train\.augment=ada"),
        ({"stop_after": 3}, r"train\.stop_after has no effect without train\.eval_every"),
        ({"images": "1 hour"}, "--images 1 hour is not a length"),
        ({"save_every": "10min"}, r"--save-every 10min is not a length\. .* epochs \(50ep\)\.$"),
        ({"gp_weight": 1}, "gp_weight has no effect with the loss non-saturating, which has no penalty"),
        ({"optimizer": "rmsprop", "beta1": 0.1}, "beta1 has no effect with rmsprop, whose momentum is train.momentum"),
        ({"loss": "wgan-gp"}, "norm = batch cannot be used with the loss wgan-gp"),
        ({"regulariser": "r1"}, "norm = batch cannot be used with the regulariser r1: its penalty is per sample"),
        ({"regulariser": "r3"}, r"train.regulariser = r3: there is no 'r3'. Choose gp, dragan, r1 or r2\."),
        ({"loss": "wgan-gp", "norm": "none", "regulariser": "gp"}, "regulariser = gp is part of the loss wgan-gp"),
        ({"r1_gamma": 1}, "r1_gamma has no effect without the regulariser r1 or r2"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing has no effect with the loss hinge"),
        ({"loss": "relativistic", "g_warmup_images": 10}, "g_warmup_images cannot be used with the loss relativistic"),
        ({"optimizer": "adamw"}, r"Choose adam, rmsprop or sgd\. Did you mean 'adam'\?"),
        ({"image_range": 0}, "train.image_range = 0 must be greater than 0"),
        ({"images": "5ep"}, "--images 5ep: the length of an epoch is unknown without a dataset"),
        ({"milestones": "20k,5x"}, r"train.milestones 5x is not a length"),
    ],
)
def test_settings_that_exclude_each_other(given, message):
    with pytest.raises(SettingsError, match=message):
        TrainConfig.of(given)


def test_values_that_follow_from_others():
    assert TrainConfig.for_method("wgan-gp", optimizer="sgd").beta2 == 0.9
    assert TrainConfig.of({"augment": "cutout, color"}).augment == "color,cutout"
    assert "images" in TrainConfig().free_on_resume
    assert "images" not in TrainConfig(schedule="cosine").free_on_resume
