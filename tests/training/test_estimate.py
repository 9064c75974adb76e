"""A batch that does not fit into memory: a process that may take only so much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy import toy_config

from facegan.config import TrainConfig
from facegan.errors import SettingsError
from facegan.training.estimate import explain_out_of_memory
from facegan.training.trainer import Trainer, spec_of

PROGRAM = """
import json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from toy import ToyFaces, toy_train
from facegan.errors import SettingsError

torch.set_num_threads(1)
given = json.loads(sys.argv[3])
faces = ToyFaces(2048)
# What the process uses now, and as much again as a step of some hundred images takes.
now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 700_000_000,) * 2)
try:
    toy_train(Path(sys.argv[2]), faces=faces, **given)
except SettingsError as error:
    sys.stdout.write(str(error))
"""


def output(tmp_path: Path, **given: object) -> str:
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path / "run"), json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process as Linux does")
def test_too_large_batch_names_one_that_fits(tmp_path):
    text = output(tmp_path, batch=2048, width=32)
    assert text.startswith("--batch 2048 does not fit into the memory of cpu (")
    fits = int(text.split("with --batch ")[1].split(",")[0])
    assert fits in {2**n for n in range(11)}
    parts = int(text.split("train.grad_accum_steps=")[1].split()[0])
    assert 2048 // parts <= fits
    settings = {"batch": 2048, "grad_accum_steps": parts, "width": 32, "images": 2048}
    assert TrainConfig.of(settings).batch == 2048
    assert output(tmp_path / "another", **settings) == ""  # in these parts it trains


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: out of memory",
    ],
)
def test_libraries_out_of_memory_errors(words):
    config = toy_config(batch=16)
    trainer = Trainer(config, spec_of(config, 32, 3), torch.device("cpu"), "fp32")
    with (
        pytest.raises(SettingsError, match=r"--batch 16 does not fit .*; 8 images at once do"),
        explain_out_of_memory(trainer),
    ):
        raise RuntimeError(words)
    with pytest.raises(RuntimeError, match="another"), explain_out_of_memory(trainer):
        raise RuntimeError("another")
