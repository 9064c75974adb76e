"""`TrainRequest`: the arguments of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from facegan.config import TrainConfig
from facegan.console import Console
from facegan.plugins import Trust
from facegan.training.periodic_eval import Measure
from facegan.training.trainer import Faces

Resume = Literal["auto", "never"]


@dataclass(frozen=True)
class TrainRequest:
    """Settings, faces and run folder, and everything that changes no weight.

    Attributes:
        config: the settings; ``images`` is rounded up to whole steps.
        faces: square uint8 images, such as `facegan.FaceShards`.
        run: the run folder.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        resume: ``never`` renames an existing run folder and starts from scratch.
        init: trained weights to start a new run from: a generator's file, a checkpoint or a run.
        console: shows progress; silent if None.
        dataset, command: recorded in run.json.
        stop: called after each step; True stops as Ctrl-C does.
        measure: maps the generator (the moving average, in eval mode) to metrics. They become a row of stats.jsonl, and
            the best checkpoint is kept and named in best.json. A `periodic_eval.ReferenceMetric` also says what it
            compares with.
        eval_every: images between evaluations; None: the setting of ``config``, or 50,000 where that is 0.
        best: the metric whose smallest value is best; "": the first that ``measure`` returns.
        trust_code: the generator that ``init`` names may have a user's own nets (`facegan.load_generator`); nets that
            ``config`` names always may.
    """

    config: TrainConfig
    faces: Faces
    run: Path
    device: str = "auto"
    resume: Resume = "auto"
    init: str | Path | None = None
    console: Console | None = None
    dataset: str = ""
    command: Sequence[str] = ()
    stop: Callable[[], bool] | None = None
    measure: Measure | None = None
    eval_every: int | None = None
    best: str = ""
    trust_code: Trust = False
