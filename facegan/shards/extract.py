"""Faces as a plain folder of images, for programs that read no shards."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from facegan.console import Console, shown
from facegan.errors import DatasetError
from facegan.files import new_folder
from facegan.shards.checksums import check_shard
from facegan.shards.layout import DatasetInfo
from facegan.shards.samples import Found, read_samples

_SAFE_NAME = re.compile(r"[A-Za-z0-9_=-]{1,230}\.(png|jpg|webp)")


def extract(folder: Path, target: Path, console: Console | None = None) -> int:
    """Writes every face of a dataset into ``target`` as KEY.png (or .jpg, .webp), its bytes as they are in the shards.

    In a folder ``SPLIT`` where there are several splits, and in one ``LABEL`` where there are labels but 0. Nothing
    lies under ``target`` until all of it does.

    Returns:
        how many there are.

    Raises:
        FaceganError: ``target`` is not empty.
        DatasetError: the dataset is damaged.
        DiskError: the disk is full, or may not be written.
    """
    info = DatasetInfo.read(folder)
    written, labels = 0, set[int]()
    bar = (console or Console(quiet=True)).progress(info.totals.faces, "faces")
    with new_folder(target) as whole, bar as progress:
        for entry in info.shards:
            check_shard(folder, entry)
            for sample in read_samples(folder, entry):
                _write(whole / sample.split / str(sample.meta.label), sample)
                labels.add(sample.meta.label)
                written += 1
            progress.advance(entry.samples)
        if labels <= {0}:
            for split in info.splits:
                _lift(whole / split, "0")
        if len(info.splits) == 1:
            _lift(whole, info.splits[0])
    return written


def _write(folder: Path, sample: Found) -> None:
    if not _SAFE_NAME.fullmatch(sample.name):  # of a dataset from elsewhere: it might lead out of the folder
        raise DatasetError(f"{shown(sample.name)} in {sample.shard} is no name that facegan gives a face.")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / sample.name
    with path.open("xb") as file:
        file.write(sample.image)


def _lift(folder: Path, inner: str) -> None:
    """Puts a folder's only folder in its place."""
    aside = folder.with_name(f"{folder.name}.lifted")
    (folder / inner).rename(aside)
    shutil.rmtree(folder)
    aside.rename(folder)
