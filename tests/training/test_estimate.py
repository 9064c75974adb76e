"""How long a training takes, and a batch that does not fit into memory."""

from __future__ import annotations

from typing import Any

import pytest
from toy import toy_train, toy_trainer

from facegan.config import TrainConfig
from facegan.errors import SettingsError
from facegan.training.estimate import explain_out_of_memory, measured_rate
from facegan.training.step import GanStep


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (MemoryError(), 5),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 5),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 16),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 1),
        (RuntimeError("CUDA error: out of memory"), 0),
    ],
)
def test_too_large_batch_names_one_that_fits(tmp_path, monkeypatch, error, fits):
    original = GanStep.__call__

    def limited(step: GanStep, variant: Any) -> None:
        if step.part > fits:
            raise error
        original(step, variant)

    monkeypatch.setattr(GanStep, "__call__", limited)
    given: dict[str, Any] = {"batch": 48, "images": 48, "width": 4}
    with pytest.raises(SettingsError, match="--batch 48 does not fit into the memory of cpu") as caught:
        toy_train(tmp_path / "run", **given)
    text = str(caught.value)
    if not fits:
        assert "nor does a single image" in text
        return
    batch = int(text.split("with --batch ")[1].split(",")[0])
    parts = int(text.split("train.grad_accum_steps=")[1].split()[0])
    assert fits / 2 < batch <= fits
    assert 48 // parts <= batch
    TrainConfig.of({**given, "grad_accum_steps": parts})
    if fits >= 16:  # so many images the estimate measures at once
        assert toy_train(tmp_path / "other", **{**given, "grad_accum_steps": parts}).images == 48


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="another"), explain_out_of_memory(toy_trainer()):
        raise RuntimeError("another")


@pytest.mark.parametrize("given", [{"loss": "hinge", "regulariser": "none"}, {"penalty_every": 1}, {}])
def test_rate_of_a_method_with_other_penalties(given):
    assert measured_rate(toy_trainer("fast", **given)) > 0
