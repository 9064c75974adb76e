"""Small sources, and what a photo index of a source holds."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path

from facegan.prep.photo_index import PhotoIndex
from facegan.prep.sources import open_source
from facegan.prep.sources.base import Entry, source_errors

FILES = {
    b"a/1.jpg": b"one",
    b"a/b/2.PNG": b"two!",
    b"a/caf\xe9.webp": b"three",
    b"a/notes.txt": b"x",
    b"a/._1.jpg": b"y",
}
PHOTOS = [b"a/1.jpg", b"a/b/2.PNG", b"a/caf\xe9.webp"]


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_members() -> list[tuple[str, bytes]]:
    return [(os.fsdecode(name), data) for name, data in FILES.items()]


class Listing:
    """The entries that a photo index of a source holds, sorted by name."""

    def __init__(self, where: Path | str, leave_out: Path | None = None) -> None:
        self.source = open_source(str(where), leave_out)
        index = PhotoIndex(self.source)
        index.split_by(lambda path, part: "train")
        self.entries: list[Entry] = [photo.entry for photo in index.photos("train")]
        self.ignored = index.ignored

    def read(self) -> dict[bytes, bytes]:
        with tempfile.TemporaryDirectory() as folder:
            with source_errors(self.source.where):
                readable = self.source.unpacked(Path(folder))
            with contextlib.closing(readable.reader()) as reader:
                return {entry.name: reader.read(entry) for entry in self.entries}


def read_all(where: Path | str) -> dict[bytes, bytes]:
    return Listing(where).read()
