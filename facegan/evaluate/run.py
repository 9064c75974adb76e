"""`evaluate_run`: `facegan eval` and the stage ``[eval]`` of a recipe; writes eval.json and neighbours.png."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facegan.config import EvalConfig
from facegan.config.resources import EvalResources
from facegan.console import Console
from facegan.evaluate.evaluation import Evaluation, evaluate
from facegan.evaluate.reference import open_split
from facegan.evaluate.target import SampleFn, find_target
from facegan.files import TEMPORARY, disk_errors, make_folder, write_json
from facegan.nets import Generator
from facegan.nets.weights import read_generator
from facegan.plugins import Trust, is_import_path
from facegan.run_dir import EVALUATION, NEIGHBOURS
from facegan.sample.generate import channels_last, sample_images, save_png

_BLOCK = 256  # samples per step of the progress bar


def evaluate_run(
    target: Path,
    shards: str,
    config: EvalConfig,
    resources: EvalResources,
    *,
    console: Console,
    out: Path | None = None,
    trust_code: Trust = False,
) -> tuple[dict[str, Any], Evaluation]:
    """Evaluate a run, a checkpoint, a generator's file or a folder of images, and write the result.

    Args:
        out: the folder for eval.json and neighbours.png; None: a run's own folder, and nothing for other targets.
        trust_code: as in `facegan.load_generator`.

    Returns:
        The content of eval.json, and the evaluation.

    Raises:
        DiskError: ``out`` cannot be written; checked before anything is computed.
        FaceganError: as `facegan.evaluate.evaluate`.
    """
    found_target = find_target(target)
    folder = out or (target if found_target.kind == "run" else None)
    if folder:
        make_folder(folder)
        with disk_errors(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=TEMPORARY):
            pass  # a file can be written there
    else:
        config = config.model_copy(update={"neighbours": 0})  # the picture would not be written
    evaluation = evaluate(
        found_target, shards, config, _sampler(console), resources=resources, trust_code=trust_code, console=console
    )
    picture = folder / NEIGHBOURS if folder and evaluation.picture is not None else None
    content = evaluation.to_json(picture)
    if picture and evaluation.picture is not None:
        save_png(picture, evaluation.picture)
    if folder:
        write_json(folder / EVALUATION, content)
    return content, evaluation


def plan(target: Path, shards: str, config: EvalConfig) -> dict[str, Any]:
    """What `evaluate_run` would measure. Writes nothing, and imports no user code: that is listed in ``not_tried``."""
    found_target, faces = find_target(target), open_split(shards, config.split)
    nets = "" if found_target.kind == "folder" else read_generator(found_target.path)[2].name
    return {
        "measured": found_target.to_json(),
        "shards": shards,
        "split": faces.split,
        "faces": min(config.n, len(faces)),
        "samples": min(config.n, found_target.about.get("images", config.n)),
        "metrics": list(config.asked),
        "not_tried": [nets] if is_import_path(nets) else [],
    }


def _sampler(console: Console) -> SampleFn:
    """`facegan.sample.generate.sample_images` with a progress bar."""

    def sample(generator: Generator, n: int, seed: int) -> Tensor:
        spec = generator.spec
        channels_last(generator)
        images = torch.empty((n, spec.channels, spec.size, spec.size), dtype=torch.uint8)
        with console.progress(n, "samples") as progress:
            for first in range(0, n, _BLOCK):
                block = sample_images(generator, min(_BLOCK, n - first), seed, first)
                images[first : first + len(block)] = block
                progress.advance(len(block))
        return images

    return sample
