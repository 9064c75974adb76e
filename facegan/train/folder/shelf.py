"""The folder of checkpoints: which is taken up, which is gone back to, and which are kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from facegan.errors import CheckpointError
from facegan.files import disk_errors, make_folder, remove_partials
from facegan.nets import Generator
from facegan.train.folder.checkpoint import (
    REPLACED,
    Checkpoint,
    Damaged,
    read_checkpoint,
    read_state,
    replace_folder,
    write_checkpoint,
)


@dataclass(frozen=True)
class Shelf:
    """``checkpoints/`` of a run."""

    folder: Path

    def path(self, images: int) -> Path:
        return self.folder / f"{images:09d}"

    def paths(self) -> list[Path]:
        """Folders of checkpoints, the newest first."""
        folders = [path for path in self.folder.glob("*") if path.name.isdecimal() and path.is_dir()]
        return sorted(folders, key=lambda path: int(path.name), reverse=True)

    def put(self, images: int, tensors: dict[str, Tensor], state: dict[str, Any], generator: Generator) -> None:
        """
        Raises:
            DiskError: it can't be written; the ones before stand.
        """
        remove_partials(make_folder(self.folder))
        write_checkpoint(self.path(images), tensors, {"images": images, **state}, generator)

    def thin_out(self, keep: int, milestones: Collection[int]) -> None:
        """Deletes all but the newest, the ``keep`` newest scheduled ones, and those at ``milestones``."""
        paths = self.paths()
        scheduled = [path for path in paths if _is_scheduled(path)]
        kept = {*paths[:1], *scheduled[:keep], *(self.path(images) for images in milestones)}
        with disk_errors(self.folder):
            for path in paths:
                if path not in kept:
                    shutil.rmtree(path)

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """The newest whole checkpoint. Damaged ones after it are renamed to ``*.damaged`` with a warning.

        Raises:
            CheckpointError: there are checkpoints, but none is whole, or one is of a format unknown here.
        """
        self._finish_replacing()
        damaged: dict[Path, Damaged] = {}
        for path in self.paths():
            try:
                checkpoint = read_checkpoint(path)
            except Damaged as problem:
                damaged[path] = problem
                continue
            for bad, problem in damaged.items():
                warn(f"the checkpoint {bad} is damaged ({problem}): taking the one before.")
                _put_aside(bad)
            return checkpoint
        if damaged:
            first, problem = next(iter(damaged.items()))
            raise CheckpointError(
                f"None of the checkpoints in {self.folder} is whole ({first.name}: {problem}).\n"
                "Start again with --resume never, or put an undamaged copy there."
            )
        return None

    def newest_scheduled(self) -> Checkpoint | None:
        """Where a roll-back goes: it may not depend on when somebody pressed Ctrl-C."""
        for path in self.paths():
            try:
                if _is_scheduled(path):
                    return read_checkpoint(path)
            except Damaged:
                continue
        return None

    def drop_after(self, images: int) -> None:
        """Deletes checkpoints of a future that will not be."""
        with disk_errors(self.folder):
            for path in self.paths():
                if int(path.name) > images:
                    shutil.rmtree(path)

    def _finish_replacing(self) -> None:
        """After a process that was killed between the two renames of `replace_folder`."""
        for old in self.folder.glob(f"*{REPLACED}"):
            path = old.with_name(old.name.removesuffix(REPLACED))
            with disk_errors(self.folder):
                if path.exists():
                    shutil.rmtree(old)
                else:
                    replace_folder(old, path)


def _is_scheduled(path: Path) -> bool:
    try:
        return read_state(path)["scheduled"]
    except Damaged:
        return False


def _put_aside(path: Path) -> None:
    aside = path.with_name(f"{path.name}.damaged")
    with disk_errors(path.parent):
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
