"""Whether settings, nets, faces, device and run go together: all that can be known before anything is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from facegan.config import TrainConfig
from facegan.errors import SettingsError, one_of
from facegan.nets import PAIRS, Autoencoder, Pair, find_pair
from facegan.own import is_own
from facegan.train.faces import Faces
from facegan.train.folder.record import read_record, refuse_other_init, refuse_other_run, resumed_precision
from facegan.train.own_code import try_own_loss, try_own_nets
from facegan.train.rounds.find_loss import find_loss
from facegan.train.rounds.precision import Precision, choose_device
from facegan.train.rounds.ranks import Ranks, asked_size, own_device
from facegan.train.rounds.step import spec_of

Resume = Literal["auto", "never"]


def checked(
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
    spec = spec_of(config, faces.size, faces.channels)
    if try_code or not (is_own(config.nets) or is_own(config.loss)):
        _refuse_unfit_loss(config, find_pair(spec))
    elif not is_own(config.nets):
        find_pair(spec)
    cautions = [config.caution] if config.caution else []
    if try_code and is_own(config.loss):
        try_own_loss(config)
    if try_code and is_own(config.nets):
        cautions += try_own_nets(config, spec)
    record = read_record(run) if resume == "auto" else None
    precision = resumed_precision(record, config.precision, place)
    if record:
        refuse_other_run(record, config, precision, faces, run)
        refuse_other_init(record, init, run)
    return place, precision, record, cautions


def _refuse_unfit_loss(config: TrainConfig, pair: Pair) -> None:
    encodes = isinstance(pair.discriminator, type) and issubclass(pair.discriminator, Autoencoder)
    if config.pull_away and (is_own(config.nets) or not encodes):
        raise SettingsError(
            f"train.pull_away keeps codes apart, and the discriminator of '{config.nets}' tells none. Leave it out, or "
            "set train.nets=began."
        )
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
    share = Ranks(size=asked_size()).share(config.batch)
    if share % config.accumulate:
        raise SettingsError(
            f"Each of {asked_size()} processes has {share} images of --batch {config.batch}, and they can't be "
            f"computed in {config.accumulate} equal parts:\nchoose a multiple of {asked_size() * config.accumulate}."
        )
    if config.pull_away and share // config.accumulate < 2:
        raise SettingsError(
            "train.pull_away keeps the codes of images apart that are computed together, and here each is computed "
            "alone.\nRaise --batch, or leave it out."
        )
    if config.batch > len(faces):
        raise SettingsError(
            f"--batch {config.batch} is larger than the dataset ({len(faces):,} faces): choose {len(faces)} or less."
        )
