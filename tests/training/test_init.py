"""Runs that start from trained weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy import ToyFaces, stop_after, toy_config, toy_run, toy_train, weights

from facegan.errors import CheckpointError, Interrupted, SettingsError
from facegan.nets import load_generator
from facegan.training import TrainResult, plan_train
from tests.damage.cases import seal_tensors


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_train(tmp_path_factory.mktemp("trained") / "run").run


def start(run: Path, init: Path | None, **given: Any) -> TrainResult:
    config = toy_config(**{"images": 32, "seed": 9, **given})
    return toy_run(run, config, init=init)


def first_checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints/000000000/state.safetensors")


@pytest.mark.parametrize("part", ["", "checkpoints/000000160"])
def test_run_or_checkpoint_gives_all_nets(trained, tmp_path, part):
    run = start(tmp_path / "new", trained / part).run
    source = trained / (part or "checkpoints/000000320")
    before, after = load_file(source / "state.safetensors"), first_checkpoint(run)
    for name in after:
        net = name.split(".")[0]
        if net in ("generator", "discriminator", "ema"):
            assert torch.equal(before[name], after[name]), name
        elif net.startswith("optim"):
            assert not after[name].any(), name
    init = json.loads((run / "run.json").read_text())["init"]
    assert init == {
        "path": str(trained / part),
        "file": str(source / "state.safetensors"),
        "sha256": hashlib.sha256((source / "state.safetensors").read_bytes()).hexdigest(),
        "images": int(source.name),
    }


def test_generator_leaves_a_new_discriminator(trained, tmp_path):
    file = trained / "generator.safetensors"
    after = first_checkpoint(start(tmp_path / "new", file).run)
    fresh = first_checkpoint(start(tmp_path / "fresh", None).run)
    for name, tensor in load_generator(file).state_dict().items():
        assert torch.equal(after[f"generator.{name}"], tensor)
        assert torch.equal(after[f"ema.{name}"], tensor)
    for name, tensor in fresh.items():
        if name.startswith("discriminator."):
            assert torch.equal(after[name], tensor)
    assert json.loads((tmp_path / "new/run.json").read_text())["init"]["images"] is None


def test_resume_does_not_apply_init_again(trained, tmp_path):
    source = Path(shutil.copytree(trained, tmp_path / "source"))
    whole = start(tmp_path / "whole", source, images=64).generator.read_bytes()
    run = tmp_path / "run"
    config = toy_config(images=64, seed=9)
    with pytest.raises(Interrupted):
        toy_run(run, config, init=source, stop=lambda: True)
    shutil.rmtree(source)
    again = start(run, source, images=64)  # the same command: its weights are gone, and not needed
    assert again.generator.read_bytes() == whole
    assert start(run, None, images=64).images == 64
    assert json.loads((run / "run.json").read_text())["init"]["path"] == str(source)
    with pytest.raises(SettingsError, match=r"started with --init .*source; .* --init .*trained"):
        start(run, trained, images=96)
    with pytest.raises(SettingsError, match=r"started with no --init; .* --init"):
        start(start(tmp_path / "plain", None).run, trained)


def test_start_without_checkpoint_applies_init(trained, tmp_path):
    run = start(tmp_path / "run", trained).run
    first = first_checkpoint(run)
    shutil.rmtree(run / "checkpoints")
    start(run, None)
    assert all(torch.equal(first[name], tensor) for name, tensor in first_checkpoint(run).items())


def test_different_nets_are_named(trained, tmp_path):
    with pytest.raises(CheckpointError, match="architecture: its generator has width 8, not 4"):
        start(tmp_path / "run", trained, width=4)
    alone = trained / "checkpoints/000000320/generator.safetensors"
    with pytest.raises(CheckpointError, match=rf"discriminator has norm batch, not none\.\n.*--init {alone}"):
        start(tmp_path / "run", trained, norm="none")
    assert start(tmp_path / "other", alone, norm="none").images == 32
    with pytest.raises(CheckpointError, match=r"normal latents, .*\nSet train.latent_distribution=normal"):
        start(tmp_path / "run", alone, latent_distribution="uniform")
    config = toy_config(width=4)
    with pytest.raises(CheckpointError, match="width 8, not 4"):
        plan_train(config, ToyFaces(), tmp_path / "run", device="cpu", init=trained)
    assert not (tmp_path / "run/run.json").exists()


def test_unusable_weights_are_refused(trained, tmp_path):
    file = tmp_path / "generator.safetensors"
    with safe_open(trained / "generator.safetensors", "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(trained / "generator.safetensors")
    name = next(name for name in tensors if name.endswith("weight"))
    tensors[name][0].fill_(float("inf"))
    save_file(tensors, file, metadata)
    with pytest.raises(CheckpointError, match=rf"{file} cannot be used: its tensor {name} has values"):
        start(tmp_path / "run", file)
    with pytest.raises(CheckpointError, match=r"There is no .*nothing"):
        start(tmp_path / "run", tmp_path / "nothing")
    damaged = Path(shutil.copytree(trained / "checkpoints/000000320", tmp_path / "damaged"))
    (damaged / "state.safetensors").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"damaged is damaged \(state\.safetensors has another size"):
        start(tmp_path / "run", damaged)
    assert not (tmp_path / "run/run.json").exists()


def test_forged_checkpoint_with_nan_is_refused(trained, tmp_path):
    """Its checksums are right, so only the values can tell."""
    folder = shutil.copytree(trained / "checkpoints/000000160", tmp_path / "forged")
    tensors = load_file(folder / "state.safetensors")
    next(t for name, t in tensors.items() if name.startswith("discriminator.") and t.is_floating_point())[:1] = (
        torch.nan
    )
    save_file(tensors, folder / "state.safetensors")
    seal_tensors(folder / "state.safetensors")
    with pytest.raises(CheckpointError, match="its discriminator has values that are not finite"):
        start(tmp_path / "new", folder)


def last_checkpoint(run: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run / "checkpoints").iterdir()) / "state.safetensors")


@pytest.mark.parametrize("given", [{}, {"weight_clip": 0.001}, {"optimizer": "rmsprop", "d_steps": 2}])
def test_frozen_layers_keep_their_weights(trained: Path, tmp_path: Path, given: dict[str, Any]) -> None:
    run = start(tmp_path / "new", trained, images=96, freeze_d=2, **given).run
    before, after = (last_checkpoint(each) for each in (trained, run))
    changed = {
        name for name in after if name.startswith("discriminator.") and not torch.equal(before[name], after[name])
    }
    layers = [name for name in after if name.startswith("discriminator.") and after[name].ndim == 4]
    layers.sort(key=lambda name: int(name.split(".")[2]))
    assert [name in changed for name in layers] == [False, False, *[True] * (len(layers) - 2)]
    norms = [name for name in changed if "running" not in name and "batches" not in name and after[name].ndim == 1]
    assert all(int(name.split(".")[2]) > int(layers[2].split(".")[2]) for name in norms)


def test_frozen_run_resumes_to_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    config = toy_config(images=96, freeze_d=1, augment="color")
    toy_run(tmp_path / "whole", config, init=trained)
    with pytest.raises(Interrupted):
        toy_run(tmp_path / "stopped", config, init=trained, stop=stop_after(2))
    toy_run(tmp_path / "stopped", config)
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")


def test_layers_that_cannot_be_frozen(trained: Path, tmp_path: Path) -> None:
    layers = sum(tensor.ndim == 4 for name, tensor in last_checkpoint(trained).items() if name.startswith("discr"))
    with pytest.raises(
        SettingsError, match=rf"train\.freeze_d = 9: the discriminator has {layers} layers.*\n.* {layers - 1} or"
    ):
        start(tmp_path / "new", trained, freeze_d=9)
    with pytest.raises(SettingsError, match=r"train\.freeze_d needs trained weights\. Name a checkpoint or a run with"):
        start(tmp_path / "new", None, freeze_d=1)
    assert not (tmp_path / "new").exists()
    with pytest.raises(CheckpointError, match="has no discriminator, whose layers"):
        start(tmp_path / "new", trained / "generator.safetensors", freeze_d=1)
