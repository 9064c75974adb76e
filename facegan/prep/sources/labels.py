"""StyleGAN's dataset.json: class labels of the photographs beside it."""

from __future__ import annotations

import json

LABELS_FILE = "dataset.json"


def read_labels(data: bytes) -> dict[bytes, int]:
    """Name → label from ``{"labels": [["00000/img00000000.png", 6], …]}`` (NVlabs, dataset_tool.py).

    Empty where the file is something else, or its labels are null or vectors.
    """
    try:
        pairs = json.loads(data)["labels"] or []
        return {str(name).encode("utf-8", "surrogateescape"): int(label) for name, label in pairs}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
