"""Sources of photographs: `open_source` finds the right one for a path, a URL or a name."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from facegan.errors import DatasetError, SourceError, suggest
from facegan.prep.sources.arrays import is_idx, open_arrays, open_idx_folder
from facegan.prep.sources.base import MultiSource, Source, is_photo, source_errors
from facegan.prep.sources.folder import Folder, RemoteFolder
from facegan.prep.sources.parquet import Table
from facegan.prep.sources.remote import SourceFile
from facegan.prep.sources.tar import Tar
from facegan.prep.sources.zip import Zip
from facegan.remote import filesystem, is_url, without_query
from facegan.shards.checksums import check_shard
from facegan.shards.format import DATASET_FILE, PHOTOS_FILE, DatasetInfo
from facegan.unpack import MAX_RATIO

_KINDS = "a folder, .tar, .tar.gz, .zip, .parquet, .npz, .npy, MNIST's idx files, or torchvision:NAME"


def open_source(
    text: str,
    leave_out: Path | None = None,
    download: bool = False,
    follow_links: bool = True,
    max_unpacked_ratio: int = MAX_RATIO,
) -> Source:
    """The source at a path, an fsspec URL, a pattern of several files, or ``torchvision:NAME``. ``leave_out`` is a
    folder inside it that holds no photographs, ``max_unpacked_ratio`` that of a file's unpacked bytes to its own.

    Raises:
        SourceError: there is none, it cannot be read, or it is a dataset that facegan wrote.
        DatasetError: it is a damaged shard of such a dataset.
    """
    with source_errors(text):
        if text.startswith("torchvision:"):
            from facegan.prep.sources.torchvision import open_torchvision

            return open_torchvision(text, download)
        find = partial(SourceFile.find, max_ratio=max_unpacked_ratio)
        if _has_any("{*?[", text) and (is_url(text) or not Path(text).exists()):
            return _open_pattern(text, find)
        if is_url(text):
            return _open_file(text, find, RemoteFolder(text))
        path = Path(text)
        if path.is_dir():
            if _dataset(path):
                how = f"To choose faces from it: facegan select {path} NEW --where CONDITION"
                raise SourceError(f"{path} is a dataset that facegan wrote, not photographs.\n{how}")
            return _open_folder(path, find, Folder(str(path), leave_out, follow_links))
        if not path.exists():
            near = suggest(path.name, [other.name for other in path.parent.iterdir()]) if path.parent.is_dir() else ""
            raise SourceError(f"{path} does not exist.{near} Name {_KINDS}.")
        if not path.is_file():  # opening a pipe would block
            raise SourceError(f"{path} has an unknown format. Name {_KINDS}.")
        _check_shards([text])
        return _open_file(text, find)


def _has_any(letters: str, text: str) -> bool:
    """Queries of web addresses do not count."""
    return not set(letters).isdisjoint(without_query(text))


def _dataset(folder: Path) -> DatasetInfo | None:
    """What a folder's dataset.json says, if facegan wrote it."""
    with suppress(DatasetError):
        return DatasetInfo.read(folder) if (folder / DATASET_FILE).is_file() else None
    return None


def _check_shards(files: list[str]) -> None:
    """Compares those of a dataset with its dataset.json: else their damage would get valid checksums in the new one."""
    paths = {Path(file) for file in files if not is_url(file)}
    for folder in sorted({path.parent for path in paths}):
        info = _dataset(folder)
        for entry in info.shards if info else ():
            if folder / entry.name in paths:
                check_shard(folder, entry)


def _open_folder(path: Path, find: Callable[[str], SourceFile], folder: Folder) -> Source:
    """A folder of photographs; if there are none at its top but idx files or tables, those."""
    others = []
    with os.scandir(path) as found:
        for entry in found:
            if is_photo(os.fsencode(entry.name)):
                return folder
            others.append(entry.name)
    if any(map(is_idx, others)):
        return open_idx_folder(path, find)
    tables = sorted(name for name in others if name.endswith(".parquet") and name != PHOTOS_FILE)
    return Table(str(path), tuple(find(str(path / name)) for name in tables)) if tables else folder


def _open_file(where: str, find: Callable[[str], SourceFile], otherwise: Source | None = None) -> Source:
    """By its suffix; ``otherwise`` if that is unknown."""
    name = SourceFile(where).name
    suffix = name.lower()
    if suffix.endswith((".tar", ".tar.gz", ".tgz")):
        return Tar(where, find(where), is_gzipped=not suffix.endswith(".tar"))
    if suffix.endswith(".zip"):
        return Zip(where, find(where))
    if suffix.endswith(".parquet"):
        return Table(where, (find(where),))
    if suffix.endswith((".npz", ".npy")) or is_idx(name):
        return open_arrays(find(where))
    if otherwise is None:
        raise SourceError(f"{where} has an unknown format. Name {_KINDS}.")
    return otherwise


def _open_pattern(pattern: str, find: Callable[[str], SourceFile]) -> Source:
    """``{00000..00099}`` and ``{a,b}`` are expanded; ``*`` and ``?`` match existing files."""
    from braceexpand import braceexpand

    try:
        expanded = list(braceexpand(pattern))
    except ValueError:
        raise SourceError(f"{pattern} has unbalanced braces.") from None
    files = [file for text in expanded for file in _glob(text)]
    missing = [file for file in files if not is_url(file) and not Path(file).is_file()]
    if missing or not files:
        raise SourceError(f"{missing[0] if missing else pattern} does not exist ({pattern}). Name existing archives.")
    _check_shards(files)
    if all(SourceFile(file).name.lower().endswith(".parquet") for file in files):
        return Table(pattern, tuple(map(find, files)))
    return MultiSource(pattern, tuple(_open_file(file, find) for file in files))


def _glob(text: str) -> list[str]:
    if not _has_any("*?[", text):
        return [text]
    fs, path = filesystem(text)
    return sorted(fs.unstrip_protocol(found) if is_url(text) else found for found in fs.glob(path))
