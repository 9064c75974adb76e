"""`facegan eval`, and the stage ``[eval]``: where train, which samples, and evaluate, which measures, are joined."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from facegan.config import EvalConfig
from facegan.config.resources import EvalResources
from facegan.console import Console
from facegan.plugins import Trust, is_import_path
from facegan.run_dir import EVALUATION, NEIGHBOURS

if TYPE_CHECKING:
    from torch import Tensor

    from facegan.evaluate import Evaluation
    from facegan.evaluate.target import SampleFn
    from facegan.nets import Generator

_BLOCK = 256  # samples between two steps of the progress


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
    """Measures a run, a checkpoint, a generator's file or a folder of images, and writes what came of it.

    Args:
        out: the folder of eval.json and neighbours.png; None: a run's own, and nothing is written of other targets.
        trust_code: of the generator, as `facegan.load_generator` has it.

    Returns:
        What eval.json has, and the same as an object.

    Raises:
        DiskError: ``out`` can't be written; told before anything is computed.
        FaceganError: what `facegan.evaluate.evaluate` raises.
    """
    from facegan.evaluate import evaluate, find_target
    from facegan.files import make_folder, write_json
    from facegan.sample.generate import save_png

    subject = find_target(target)
    folder = out or (target if subject.kind == "run" else None)
    if folder:
        _refuse_unwritable(make_folder(folder))
    found = evaluate(
        subject,
        shards,
        config if folder else config.model_copy(update={"neighbours": 0}),  # a picture needs a place
        _drawing(console),
        resources=resources,
        trust_code=trust_code,
        console=console,
    )
    picture = folder / NEIGHBOURS if folder and found.picture is not None else None
    told = found.to_json(picture)
    if folder:
        if picture and found.picture is not None:
            save_png(picture, found.picture)
        write_json(folder / EVALUATION, told)
    return told, found


def _refuse_unwritable(folder: Path) -> None:
    """
    Raises:
        DiskError: no file can be written there. Told before hours of work.
    """
    import tempfile

    from facegan.files import TEMPORARY, disk_errors

    with disk_errors(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=TEMPORARY):
        pass


def _drawing(console: Console) -> SampleFn:
    """`facegan.training.sample_images` with progress."""

    def draw(generator: Generator, n: int, seed: int) -> Tensor:
        import torch

        from facegan.sample.generate import channels_last, sample_images

        spec = generator.spec
        channels_last(generator)
        images = torch.empty((n, spec.channels, spec.size, spec.size), dtype=torch.uint8)
        with console.progress(n, "samples") as progress:
            for first in range(0, n, _BLOCK):
                block = sample_images(generator, min(_BLOCK, n - first), seed, first)
                images[first : first + len(block)] = block
                progress.advance(len(block))
        return images

    return draw


def plan(target: Path, shards: str, config: EvalConfig) -> dict[str, Any]:
    """What `evaluate_run` would measure. Touches nothing; raises what is known before anything is computed.

    No module is imported that the generator names: it is in ``not_tried``.
    """
    from facegan.evaluate import find_target
    from facegan.evaluate.reference import open_split
    from facegan.nets.weights import read_generator

    subject, faces = find_target(target), open_split(shards, config.split)
    nets = "" if subject.kind == "folder" else read_generator(subject.path)[2].name
    return {
        "measured": subject.to_json(),
        "shards": shards,
        "split": faces.split,
        "faces": min(config.n, len(faces)),
        "samples": min(config.n, subject.about.get("images", config.n)),
        "metrics": list(config.asked),
        "not_tried": [nets] if is_import_path(nets) else [],
    }
