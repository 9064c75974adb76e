"""Adaptive augmentation within a training: p follows D, is logged, and is part of the state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy import ToyFaces, stop_after, toy_config, toy_run, toy_trainer, weights, without_times

from facegan.errors import Interrupted
from facegan.training.augment import adapted
from facegan.training.losses import LOSSES, real_signs
from facegan.training.trainer import Trainer

ADA = {"augment": "ada", "ada_images": 640, "ada_target": 0.0}  # in 64 images p moves by a tenth


def p_of(trainer: Trainer) -> float:
    return trainer.tensors()["ada.p"].item()


@pytest.mark.parametrize(
    ("method", "given"), [("dcgan", {}), ("wgan-gp", {"d_steps": 2}), ("dcgan", {"loss": "lsgan"})]
)
def test_p_follows_the_signs(method: str, given: dict[str, object]) -> None:
    trainer = toy_trainer(method, lr_d=2e-3, **ADA, **given)
    reals = ToyFaces().batches(16)
    p, excess = torch.tensor(0.0), torch.tensor(0.0)
    for number in range(10):
        trainer.train_step(reals)
        row = trainer.means()
        assert row["ada_p"] == pytest.approx(p.item())  # that of the step
        excess += row["ada_r"]
        step = 4 * trainer.config.step_images / 640
        p, excess = adapted(p, excess, torch.tensor(number % 4 == 3), step)
        assert p_of(trainer) == pytest.approx(p.item())
        trainer.clear_means()


def test_signs_of_losses() -> None:
    real, fake = torch.tensor([2.0, -1.0, 0.7, 0.2]), torch.tensor([1.0, 1.0, 1.0, 0.0])
    found = {name: real_signs(LOSSES[name], real, fake).item() for name in ("hinge", "lsgan", "wgan")}
    assert found == {"hinge": 0.5, "lsgan": 0.0, "wgan": 0.0}


def test_resumes_to_the_bit(tmp_path: Path) -> None:
    config = toy_config(**{**ADA, "ada_target": -0.9})
    toy_run(tmp_path / "whole", config)
    with pytest.raises(Interrupted):
        toy_run(tmp_path / "stopped", config, stop=stop_after(7))  # between two changes of p
    toy_run(tmp_path / "stopped", config)
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")
    rows = [row for row in without_times(tmp_path / "whole") if "loss_g" in row]
    assert rows == [row for row in without_times(tmp_path / "stopped") if "loss_g" in row]
    assert rows[0]["ada_p"] == 0 < rows[4]["ada_p"] < rows[-1]["ada_p"] <= 0.5


@pytest.mark.parametrize("method", ["dcgan", "fast"])
def test_changes_weights_above_the_target_only(tmp_path: Path, method: str) -> None:
    still = {"lr_d": 1e-9}  # D does not learn
    toy_run(tmp_path / "plain", toy_config(method, augment="none", **still))
    toy_run(tmp_path / "adaptive", toy_config(method, augment="ada", ada_target=0.99, **still))
    rows = [row for row in without_times(tmp_path / "adaptive") if "ada_p" in row]
    assert {row["ada_p"] for row in rows} == {0}
    assert weights(tmp_path / "plain") == weights(tmp_path / "adaptive")
    toy_run(tmp_path / "above", toy_config(method, **{**ADA, "ada_target": -0.99}, **still))
    assert weights(tmp_path / "plain") != weights(tmp_path / "above")
