"""Where photographs come from. Listing opens no photograph; each is opened by its place."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import SourceError, suggest
from facegan.prep.sources.arrays import is_idx, open_arrays, open_idx_folder
from facegan.prep.sources.base import MultiSource, Source, is_photo, sound
from facegan.prep.sources.folder import Folder
from facegan.prep.sources.parquet import Table
from facegan.prep.sources.remote import RemoteFolder, SourceFile
from facegan.prep.sources.tar import PackedTar, Tar
from facegan.prep.sources.zip import Zip
from facegan.remote import filesystem, is_http, is_url, without_query
from facegan.shards.format import PHOTOS_FILE
from facegan.unpack import MAX_RATIO

_KINDS = "a folder, .tar, .tar.gz, .zip, .parquet, .npz, .npy, MNIST's idx files, or torchvision:NAME"
_MANY, _MANY_HTTP = re.compile(r"[{*?\[]"), re.compile(r"[{*\[]")  # a web address may have a query, with its ``?``


@dataclass(frozen=True)
class _Options:
    leave_out: Path | None
    download: bool
    follow_links: bool
    max_ratio: int

    def blob(self, where: str) -> SourceFile:
        return SourceFile(where, self.max_ratio)


def open_source(
    text: str,
    leave_out: Path | None = None,
    download: bool = False,
    follow_links: bool = True,
    max_unpacked_ratio: int = MAX_RATIO,
) -> Source:
    """The source that a text names: a path, an fsspec URL, a pattern of several files, or ``torchvision:NAME``.

    Args:
        leave_out: a folder inside the source that holds no photographs (the dataset being written).
        download: torchvision may fetch what is missing.
        follow_links: in a folder.
        max_unpacked_ratio: of an archive's, an array's or a table's unpacked bytes to its own.

    Raises:
        SourceError: there is nothing, or nothing that facegan reads.
    """
    with sound(text):
        return _open_source(text, _Options(leave_out, download, follow_links, max_unpacked_ratio))


def _open_source(text: str, options: _Options) -> Source:
    if text.startswith("torchvision:"):
        from facegan.prep.sources.torchvision import open_torchvision

        return open_torchvision(text, options.download)
    if _names_many(text):
        return _open_many(text, options)
    if is_url(text):
        return _open_file(options.blob(text)) or RemoteFolder(text)
    path = Path(text)
    if path.is_dir():
        return _open_folder(path, options)
    if not path.exists():
        near = suggest(path.name, [beside.name for beside in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise SourceError(f"There is no {path}.{near} Name {_KINDS}.")
    found = _open_file(options.blob(text)) if path.is_file() else None  # a pipe would be waited for
    if found is None:
        raise SourceError(f"{path} is no source that facegan reads. Name {_KINDS}.")
    return found


def _names_many(text: str) -> bool:
    if is_http(text):
        return _MANY_HTTP.search(without_query(text)) is not None
    return _MANY.search(text) is not None and (is_url(text) or not Path(text).exists())


def _open_folder(path: Path, options: _Options) -> Source:
    """A folder of photographs; where there are none at its top, but idx files or tables, those."""
    others = []
    with os.scandir(path) as found:
        for entry in found:
            if is_photo(os.fsencode(entry.name)):
                return Folder(path, options.leave_out, options.follow_links)
            others.append(entry.name)
    if any(map(is_idx, others)):
        return open_idx_folder(path, options.max_ratio)
    tables = sorted(name for name in others if name.endswith(".parquet") and name != PHOTOS_FILE)
    if tables:
        return Table(str(path), tuple(options.blob(str(path / name)) for name in tables))
    return Folder(path, options.leave_out, options.follow_links)


def _open_file(blob: SourceFile) -> Source | None:
    blob.forget()
    name = blob.name.lower()
    if name.endswith(".tar"):
        return Tar(blob)
    if name.endswith((".tar.gz", ".tgz")):
        return PackedTar(blob)
    if name.endswith(".zip"):
        return Zip(blob)
    if name.endswith(".parquet"):
        return Table(blob.where, (blob,))
    if name.endswith((".npz", ".npy")) or is_idx(blob.name):
        return open_arrays(blob)
    return None


def _open_many(pattern: str, options: _Options) -> Source:
    """``{00000..00099}`` and ``{a,b}`` are written out; ``*`` and ``?`` find what is there."""
    from braceexpand import braceexpand

    try:
        written = list(braceexpand(pattern))
    except ValueError:
        raise SourceError(f"{pattern}: a brace without its other half.") from None
    wheres = [where for text in written for where in _found(text)]
    missing = [where for where in wheres if not is_url(where) and not Path(where).is_file()]
    if missing or not wheres:
        what = f"There is no {missing[0]}" if missing else "Nothing fits"
        raise SourceError(f"{what} ({pattern}). Name archives that are there.")
    blobs = tuple(map(options.blob, wheres))
    if all(blob.name.lower().endswith(".parquet") for blob in blobs):
        return Table(pattern, blobs)
    sources = list(map(_open_file, blobs))
    if None in sources:
        raise SourceError(f"{wheres[sources.index(None)]} is no source that facegan reads. Name {_KINDS}.")
    return MultiSource(pattern, tuple(source for source in sources if source))


def _found(text: str) -> list[str]:
    if not re.search(r"[*\[]" if is_http(text) else r"[*?\[]", without_query(text)):
        return [text]
    fs, path = filesystem(text)
    return sorted(fs.unstrip_protocol(found) if is_url(text) else found for found in fs.glob(path))
