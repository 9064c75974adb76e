"""The stages from nothing or photographs to faces: ``portraits:N`` and ``[prep]``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.config import PrepConfig
from facegan.console import Console, human_seconds
from facegan.files import human_bytes
from facegan.recipes.seen import look
from facegan.recipes.settings import PhotosConfig
from facegan.recipes.stage import number_or_auto
from facegan.shards.layout import DATASET_FILE


@dataclass
class Draw:
    """``portraits:N``: drawn portraits as the source of an experiment."""

    folder: Path
    count: int
    seed: int
    dataset: Path
    name: str = "draw"

    @property
    def where(self) -> str:
        return str(self.folder)

    def inputs(self) -> dict[str, Any]:
        return {"portraits": self.count, "seed": self.seed}

    def outputs(self) -> list[Path]:
        """Once the dataset stands, nobody needs the portraits."""
        return [] if (self.dataset / DATASET_FILE).is_file() else [self._path(self.count)]

    def title(self) -> str:
        return f"drawing {self.count:,} portraits into {self.folder}"

    def plan(self) -> str:
        return f"{self.count:,} portraits are drawn"

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.demo import write_portraits

        write_portraits(self.folder, self.count, self.seed)
        return {"portraits": self.count}

    def tell(self, result: dict[str, Any]) -> str:
        return f"{result['portraits']:,} portraits"

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jpg"


@dataclass
class Prep:
    """``[prep]``: photographs to faces."""

    source: str
    drawn: str  # "portraits:500" where the source is one
    out: Path
    photos: PhotosConfig
    config: PrepConfig
    name: str = "prep"

    @property
    def where(self) -> str:
        return str(self.out)

    def inputs(self) -> dict[str, Any]:
        """Photographs that were all deleted are no change: as with those that are gone one by one, their faces stay."""
        told: dict[str, Any] = {"source": self.drawn or self.source, "limit": self.photos.limit}
        told["photographs"] = self.drawn or look(self.source, leave_out=self.out)
        for name in ("model", "attributes"):
            path = getattr(self.photos, name)
            told[name] = f"{path} ({look(path)})" if path else ""
        return told | self.config.model_dump(mode="json")

    def outputs(self) -> list[Path]:
        return [self.out / DATASET_FILE]

    def title(self) -> str:
        return f"facegan prep {self.source} {self.out}"

    def plan(self) -> str:
        if self.drawn and not Path(self.source).is_dir():
            return f"the portraits become faces of {self.config.size}×{self.config.size}"
        if self.photos.download and self.source.startswith("torchvision:"):
            name, size = self.source.split(":")[1], self.config.size
            return f"{name} is fetched where it is missing, and becomes faces of {size}×{size}"
        from facegan.prep.prepare import plan_prepare

        plan = plan_prepare(
            self.source,
            self.out,
            self.config,
            model=_path(self.photos.model),
            workers=number_or_auto(self.photos.workers),
            limit=self.photos.limit,
            attributes=_path(self.photos.attributes),
            follow_links=self.photos.follow_links,
            max_unpacked_ratio=self.photos.max_unpacked_ratio,
        )
        return (
            f"{plan.photos:,} photographs, {plan.new:,} of them new: about {human_seconds(plan.about_seconds)}, "
            f"about {human_bytes(plan.about_bytes)}"
        )

    def do(self, console: Console, command: list[str]) -> dict[str, Any]:
        from facegan.prep.prepare import prepare

        return prepare(
            self.source,
            self.out,
            self.config,
            model=_path(self.photos.model),
            workers=number_or_auto(self.photos.workers),
            limit=self.photos.limit,
            download=self.photos.download,
            attributes=_path(self.photos.attributes),
            fetch_ahead=self.photos.fetch_ahead,
            follow_links=self.photos.follow_links,
            max_unpacked_ratio=self.photos.max_unpacked_ratio,
            console=console,
        ).to_json()

    def tell(self, result: dict[str, Any]) -> str:
        kept, photos, faces = result["kept"], result["photos"], result["faces"]
        return f"{kept:,} of {photos:,} photographs kept, {faces:,} faces, {human_bytes(result['bytes'])}"


def _path(text: str) -> Path | None:
    return Path(text) if text else None
