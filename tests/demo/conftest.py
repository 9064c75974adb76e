"""The detector model, where this machine has one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

MODEL_FILE = "face_detection_short_range.tflite"


@pytest.fixture(scope="session")
def short_range_model() -> Path:
    """MediaPipe's short-range model, from $FACEGAN_MODELS or ../shared/models beside the repository."""
    beside = Path(__file__).resolve().parents[2].parent / "shared" / "models"
    folders = [Path(os.environ["FACEGAN_MODELS"])] if os.environ.get("FACEGAN_MODELS") else []
    for folder in [*folders, beside]:
        if (folder / MODEL_FILE).is_file():
            return folder / MODEL_FILE
    pytest.skip(f"no {MODEL_FILE} in $FACEGAN_MODELS or {beside}")
