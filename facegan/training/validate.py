"""Whether settings, nets, faces, device and run go together: all that can be known before anything is touched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from facegan.config import TrainConfig
from facegan.config.train import PER_SAMPLE
from facegan.errors import SettingsError, one_of
from facegan.nets import PAIRS, NetSpec, Pair, find_pair
from facegan.nets.registry import smoke_test
from facegan.plugins import is_import_path
from facegan.system import choose_device
from facegan.training.distributed import World, asked_size, own_device, require_gpu_for_sync
from facegan.training.losses import find_loss, try_loss
from facegan.training.precision import Precision
from facegan.training.run_record import read_record, require_same_init, require_same_run, resumed_precision
from facegan.training.trainer import Faces, spec_of

# A user's own nets and loss, tried out at the start: what facegan's own settings check by name is known only then.


def try_plugin_nets(config: TrainConfig, spec: NetSpec) -> list[str]:
    """What is doubtful about them, as sentences.

    Raises:
        SettingsError: they can't be built, give what they should not, or mix images beside a penalty per sample.
    """
    mixes = smoke_test(spec, replace(spec, width=config.width_d or spec.width))
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


def try_plugin_loss(config: TrainConfig) -> None:
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
    if loss.pairs and config.g_warmup_images:
        raise SettingsError(
            f"train.g_warmup_images cannot be used with the loss {config.loss}: it pairs fake images with real ones."
        )
    if loss.autoencoder:
        return
    for name in ("began_gamma", "began_rate"):
        if getattr(config, name) != config.default(name):
            raise SettingsError(f"train.{name} changes nothing with the loss {config.loss}. Leave it out.")


Resume = Literal["auto", "never"]


def validate_run(
    config: TrainConfig,
    faces: Faces,
    run: Path,
    device: str,
    resume: Resume,
    init: str | Path | None,
    try_code: bool = True,
) -> tuple[torch.device, Precision, dict[str, Any] | None, list[str]]:
    """Device, precision, the record of the run that is to be taken up, if there is one, and what is doubtful.

    Args:
        try_code: import and try nets and a loss of the user's own.

    Raises:
        SettingsError, DeviceError: settings that do not go together, with these faces, or on this device.
        CheckpointError, DatasetError, SettingsError: the run that lies there is another training.
    """
    if resume not in ("auto", "never"):
        raise SettingsError(f"--resume {resume} is not offered: choose auto or never.")
    place = choose_device(own_device(device))
    _refuse_unfit_batch(config, faces)
    require_gpu_for_sync(config, place)
    spec = spec_of(config, faces.size, faces.channels)
    if try_code or not (is_import_path(config.nets) or is_import_path(config.loss)):
        _refuse_unfit_loss(config, find_pair(spec))
    elif not is_import_path(config.nets):
        find_pair(spec)
    cautions = [config.caution] if config.caution else []
    if try_code and is_import_path(config.loss):
        try_plugin_loss(config)
    if try_code and is_import_path(config.nets):
        cautions += try_plugin_nets(config, spec)
    record = read_record(run) if resume == "auto" else None
    precision = resumed_precision(record, config.precision, place)
    if record:
        require_same_run(record, config, precision, faces, run)
        require_same_init(record, init, run)
    return place, precision, record, cautions


def _refuse_unfit_loss(config: TrainConfig, pair: Pair) -> None:
    if pair.autoencoder == find_loss(config.loss).autoencoder:
        return
    if pair.autoencoder:
        raise SettingsError(
            f"train.loss = {config.loss} does not go with the nets '{config.nets}': their discriminator is an "
            "autoencoder, and what it\ngives is its error. Set train.loss=began, or other nets."
        )
    names = one_of(name for name, pair in PAIRS.items() if pair.autoencoder)
    raise SettingsError(
        f"train.loss = {config.loss} needs the error of an autoencoder, and the discriminator of '{config.nets}' is "
        f"none.\nSet train.nets={names}, or another train.loss."
    )


def _refuse_unfit_batch(config: TrainConfig, faces: Faces) -> None:
    share = World(size=asked_size()).share(config.batch)
    if share % config.grad_accum_steps:
        raise SettingsError(
            f"--batch {config.batch} gives each of {asked_size()} processes {share} images, which cannot be split into "
            f"train.grad_accum_steps = {config.grad_accum_steps}.\n"
            f"Choose a multiple of {asked_size() * config.grad_accum_steps}."
        )
    if config.batch > len(faces):
        raise SettingsError(
            f"--batch {config.batch} is larger than the dataset ({len(faces):,} faces): choose {len(faces)} or less."
        )
