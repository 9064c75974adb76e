"""What a run's folder holds, for rooms that know nothing of training: names of its files, and what is told in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORD, CHECKPOINTS, STATE = "run.json", "checkpoints", "state.json"  # a state is in each checkpoint
EVALUATION, NEIGHBOURS = "eval.json", "neighbours.png"


def newest_images(run: Path) -> int | None:
    """The images of a run's newest checkpoint, with which the run's generator was written."""
    folders = (run / CHECKPOINTS).glob("*")
    return max((int(path.name) for path in folders if path.name.isdecimal() and path.is_dir()), default=None)


def read_told(path: Path) -> dict[str, Any]:
    """A JSON object that is told further as it is: empty where it is missing or damaged."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
