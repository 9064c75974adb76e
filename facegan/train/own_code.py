"""A user's own nets and loss, tried out at the start: what facegan's own settings check by name is known only then."""

from __future__ import annotations

from dataclasses import replace

from facegan.config import TrainConfig
from facegan.config.train import PER_SAMPLE
from facegan.errors import SettingsError
from facegan.nets import NetSpec
from facegan.nets.first_pass import first_pass
from facegan.train.rounds.find_loss import find_loss, try_loss


def try_own_nets(config: TrainConfig, spec: NetSpec) -> list[str]:
    """What is doubtful about them, as sentences.

    Raises:
        SettingsError: they can't be built, give what they should not, or mix images beside a penalty per sample.
    """
    mixes = first_pass(spec, replace(spec, width=config.width_d or spec.width))
    if not mixes:
        return []
    per_sample = [name for name in config.regularisers if name in PER_SAMPLE]
    if per_sample:
        raise SettingsError(
            f"The discriminator of train.nets = {config.nets} mixes the images of a batch, as batch normalisation "
            f"does, and the penalty\n{per_sample[0]} is per sample (Gulrajani et al. 2017, section 4). "
            "Leave that layer out of it, or the penalty."
        )
    if "dragan" in config.regularisers:
        return [
            f"the discriminator of train.nets = {config.nets} mixes the images of a batch, and the penalty dragan is "
            "per sample: it was published so (Kodali et al. 2017), and is cleaner without."
        ]
    return []


def try_own_loss(config: TrainConfig) -> None:
    """
    Raises:
        SettingsError: it is no loss, fails, or makes other settings idle or impossible.
    """
    loss = find_loss(config.loss)
    try_loss(config.loss, loss)
    if config.label_smoothing and not loss.smooths:
        raise SettingsError(
            f"train.label_smoothing changes nothing with the loss {config.loss}. Leave it out, or give its Loss "
            "smooths=True."
        )
    if loss.pairs and config.g_head_start:
        raise SettingsError(
            f"train.g_head_start does not go with the loss {config.loss}: G's compares with real images (pairs=True)."
        )
    if loss.autoencoder:
        return
    for name in ("began_gamma", "began_rate"):
        if getattr(config, name) != config.default(name):
            raise SettingsError(f"train.{name} changes nothing with the loss {config.loss}. Leave it out.")
    if config.schedule == "plateau":
        raise SettingsError(
            "train.schedule = plateau follows BEGAN's measure of convergence: set train.loss=began, or give your "
            "Loss\nautoencoder=True."
        )
