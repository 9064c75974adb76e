"""Settings of ``facegan eval``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from facegan.config.base import Positive, Settings
from facegan.config.metrics import METRIC_TABLE
from facegan.errors import one_of, suggest


def _metrics(text: str) -> str:
    """Names by comma, each once, in the order given; or ``auto``."""
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if names == ["auto"]:
        return "auto"
    for name in names:
        if name not in METRIC_TABLE:
            raise ValueError(
                f"--metrics {text}: there is no '{name}', only auto, {one_of(METRIC_TABLE)}."
                f"{suggest(name, METRIC_TABLE)}"
            )
    if not names:
        raise ValueError("--metrics: name one at least, or auto.")
    return ",".join(names)


class EvalConfig(Settings):
    """Everything that decides what ``facegan eval`` measures."""

    section: ClassVar[str] = "eval"

    n: Positive = Field(
        default=10_000, description="samples, and real faces, that are compared; all where there are fewer"
    )
    split: Literal["auto", "train", "val", "test"] = Field(
        default="auto", description="real faces; auto: test where the dataset has it, else train"
    )
    metrics: Annotated[str, AfterValidator(_metrics)] = Field(
        default="auto", description="names by comma, as the table has them; auto: all that can be had here"
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=0, description="of latents, of which real faces, and of random places, directions and pairs"
    )
    kid_subsets: Positive = Field(default=100, description="subsets that KID is the mean of, of 1,000 images at most")
    neighbours: Annotated[int, Field(ge=0, le=256)] = Field(
        default=32, description="samples in the picture with the faces of the training nearest to them; 0: no picture"
    )

    @property
    def asked(self) -> tuple[str, ...]:
        """The metrics that are asked for, in the table's order."""
        names = METRIC_TABLE if self.metrics == "auto" else self.metrics.split(",")
        return tuple(name for name in METRIC_TABLE if name in names)

    @property
    def by_name(self) -> bool:
        """Somebody has named the metrics: one that can't be is an error then, and not absent."""
        return self.metrics != "auto"
