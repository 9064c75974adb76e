"""Which generators a run has."""

from __future__ import annotations

from pathlib import Path

from facegan.errors import CheckpointError
from facegan.nets.weights import FILE_NAME
from facegan.train.best import read_best
from facegan.train.folder.shelf import Shelf


def best_of(run: Path) -> Path:
    """The checkpoint that is the best of a run so far, which all that draws takes for a generator.

    Raises:
        CheckpointError: nothing was measured there, or the checkpoint is gone.
    """
    best = read_best(run)
    if best is None:
        raise CheckpointError(
            f"{run} names no best checkpoint: nothing was measured there. Train it with --eval-every 50k, say,\n"
            "or leave --best out for the newest."
        )
    path = Shelf(run / "checkpoints").path(best.images)
    if not path.is_dir():
        raise CheckpointError(f"{path}, the best checkpoint of {run}, is gone. Leave --best out for the newest.")
    return path


def generator_file(run: Path) -> Path:
    """The file that a run's folder, a checkpoint's or a file stands for; it need not be there."""
    return run / FILE_NAME if run.is_dir() else run


def checkpoints_of(run: Path) -> list[tuple[int, Path]]:
    """Images seen and folder of every checkpoint that has a generator, the oldest first.

    Raises:
        CheckpointError: there are not two of them.
    """
    paths = [path for path in reversed(Shelf(run / "checkpoints").paths()) if (path / FILE_NAME).is_file()]
    if len(paths) < 2:
        many = "one checkpoint alone" if paths else "no checkpoints"
        raise CheckpointError(
            f"{run} holds {many}, and --grow shows what came between two of them and more.\n"
            "Trainings keep the last --keep 3 and those at --set train.milestones=10k,50k,200k."
        )
    return [(int(path.name), path) for path in paths]
