"""Whether settings, nets, faces, device and run go together: every check that needs no training."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from facegan.config import TrainConfig
from facegan.config.train import PER_SAMPLE
from facegan.errors import SettingsError
from facegan.nets import NetSpec, find_pair, make_discriminator
from facegan.nets.registry import freeze_layers, smoke_test
from facegan.plugins import is_import_path
from facegan.system import choose_device
from facegan.training.distributed import World, local_device, world_size
from facegan.training.losses import find_loss, try_loss
from facegan.training.precision import Precision, choose_precision
from facegan.training.run_record import TrainRequest, about_labels, at_recorded_length, read_record, require_same_run
from facegan.training.trackers import require_tracker
from facegan.training.trainer import Faces, condition_of, epoch_of, spec_of


@dataclass(frozen=True)
class RunPlan:
    """How the run will be trained."""

    config: TrainConfig  # the request's; if that has a time, with the number of images that an earlier start measured
    device: torch.device
    precision: Precision
    record: dict[str, Any] | None  # run.json of the run to resume
    cautions: list[str]  # what works but is doubtful, as sentences
    spec: NetSpec  # of the generator
    labels: Tensor | None  # of the faces, as `Trainer` has them
    about_labels: dict[str, str]  # for run.json


def validate_run(request: TrainRequest, try_code: bool = True) -> RunPlan:
    """Raises the error of whatever does not go together. ``try_code``: import and try the user's own nets and loss."""
    config, faces = request.config, request.faces
    if request.resume not in ("auto", "never"):
        raise SettingsError(f"--resume {request.resume} is not available. Choose auto or never.")
    require_tracker(request.log)
    device = choose_device(local_device(request.device))
    _check_batch(config, faces)
    if config.sync_batchnorm and world_size() > 1 and device.type != "cuda":
        raise SettingsError(f"train.sync_batchnorm needs CUDA GPUs, and this device is {device}. Leave it out.")
    cautions = [config.caution] if config.caution else []
    epoch = epoch_of(config, faces)
    condition, labels = condition_of(config, faces, epoch)
    about = about_labels(labels, epoch)
    spec = spec_of(config, faces.size, faces.channels, condition)
    own_nets, own_loss = is_import_path(config.nets), is_import_path(config.loss)
    if try_code or not own_nets:
        autoencoder = find_pair(spec).autoencoder
        if (try_code or not own_loss) and autoencoder != find_loss(config.loss).autoencoder:
            change, keep = ("loss", "nets") if autoencoder else ("nets", "loss")
            raise SettingsError(
                f"train.loss = {config.loss} cannot be used with the nets '{config.nets}'.\n"
                "The loss began and a discriminator that is an autoencoder need each other.\n"
                f"Set train.{change}=began, or choose another train.{keep}."
            )
    if try_code and own_loss:
        _try_plugin_loss(config)
    if try_code and own_nets:
        cautions += _try_plugin_nets(config, spec)
    record = read_record(request.run) if request.resume == "auto" else None
    # "auto" is resolved once; a resumed run keeps the result, on any device that has it.
    wanted = record["precision"] if record and config.precision == "auto" else config.precision
    precision = choose_precision(wanted, device)
    if config.freeze_d:
        if not (request.init or (record or {}).get("init")):
            raise SettingsError("train.freeze_d needs trained weights. Name a checkpoint or a run with --init.")
        if try_code or not own_nets:
            freeze_layers(make_discriminator(replace(spec, width=config.width_d or spec.width), 0), config.freeze_d)
    if record:
        require_same_run(record, request, precision, about)
        config = at_recorded_length(config, record)
    return RunPlan(config, device, precision, record, cautions, spec, labels, about)


def _check_batch(config: TrainConfig, faces: Faces) -> None:
    processes = world_size()
    share = World(size=processes).share(config.batch)
    if share % config.grad_accum_steps:
        raise SettingsError(
            f"--batch {config.batch} gives each of {processes} processes {share} images, which cannot be split into "
            f"train.grad_accum_steps = {config.grad_accum_steps}.\n"
            f"Choose a multiple of {processes * config.grad_accum_steps}."
        )
    if config.batch > len(faces):
        raise SettingsError(
            f"--batch {config.batch} is larger than the dataset ({len(faces):,} faces). Choose {len(faces)} or less."
        )


def _try_plugin_loss(config: TrainConfig) -> None:
    """Raises SettingsError if it is not a `Loss`, fails, or makes other settings idle or impossible."""
    loss = find_loss(config.loss)
    try_loss(config.loss, loss)
    if loss.pairs and config.g_warmup_images:
        raise SettingsError(
            f"train.g_warmup_images cannot be used with the loss {config.loss}: it pairs fake images with real ones."
        )
    idle = [] if loss.smooths else ["label_smoothing"]
    idle += [] if loss.autoencoder else ["began_gamma", "began_rate"]
    for name in idle:
        if getattr(config, name) != config.default(name):
            more = ", or pass smooths=True to your Loss" if name == "label_smoothing" else ""
            raise SettingsError(f"train.{name} changes nothing with the loss {config.loss}. Leave it out{more}.")


def _try_plugin_nets(config: TrainConfig, spec: NetSpec) -> list[str]:
    """Returns what is doubtful about them, as sentences."""
    if not smoke_test(spec, replace(spec, width=config.width_d or spec.width)):
        return []
    mixes = f"discriminator of train.nets = {config.nets} mixes the images of a batch,"
    per_sample = [name for name in config.regularisers if name in PER_SAMPLE]
    if per_sample:
        raise SettingsError(
            f"The {mixes} as batch norm does, but the penalty\n{per_sample[0]} is per sample "
            "(Gulrajani et al. 2017, section 4). Remove that layer or the penalty."
        )
    if "dragan" not in config.regularisers:
        return []
    published = "It was published like this (Kodali et al. 2017) and is cleaner without such a layer."
    return [f"the {mixes} but the penalty dragan is per sample. {published}"]
