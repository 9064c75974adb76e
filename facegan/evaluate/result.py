"""What came of measuring."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Evaluation:
    """What came of it.

    Attributes:
        metrics: name → value; parts of a metric begin with its name.
        floors: name → what real faces come to beside other real ones.
        absent: metric → why it could not be had. A metric is in one of both.
        picture: uint8 (H, W, 3): samples and the training's faces nearest to them.
    """

    measured: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    floors: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    picture: NDArray[np.uint8] | None = None

    def to_json(self, neighbours: Path | None = None) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("measured", "metrics", "floors", "absent", "protocol")}
        told["warnings"] = self.warnings
        if neighbours:
            told["neighbours"] = str(neighbours)
        return {**told, "seconds": self.seconds}
