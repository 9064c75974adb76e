"""A dataset that exists and whose files are partly written again: what `forget` and `annotate` share."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from facegan.errors import DatasetError
from facegan.files import disk_errors, make_folder
from facegan.prep.commit import REPAIRS
from facegan.prep.remote_store import open_read_only, open_store
from facegan.prep.request import StrPath
from facegan.prep.reuse import KEPT
from facegan.prep.storage import FINAL, UNPACKED, OutputStore
from facegan.prep.suppression import Suppression
from facegan.remote import is_url
from facegan.shards.checksums import check_detections, check_photos, check_shard
from facegan.shards.dataset import DatasetWriter
from facegan.shards.format import DatasetInfo


@contextlib.contextmanager
def opened(out: StrPath, dry_run: bool) -> Iterator[OutputStore]:
    """The store of a dataset; what a killed run had decided is carried out first, unless it is for reading alone."""
    where = os.fspath(out)
    if not is_url(where) and not Path(where).is_dir():
        DatasetInfo.read(Path(where))  # its error
    with open_read_only(where) if dry_run else open_store(where, force=False) as store, disk_errors(store.folder):
        if not dry_run:
            store.replay()
        yield store


class Rewrite:
    """Raises DatasetError if the dataset is damaged or generated."""

    def __init__(self, store: OutputStore) -> None:
        self._store, self._out, self._final = store, store.folder, store.state / FINAL
        self._info, self._suppression = DatasetInfo.read(self._out), Suppression.read(self._out)
        if self._info.is_generated:
            raise DatasetError(f"{store.where} contains faces from facegan sample, not photographs.")
        check_photos(self._out, self._info)
        check_detections(self._out, self._info)

    def _begin(self) -> DatasetWriter:
        for name in (FINAL, REPAIRS, UNPACKED, KEPT):  # killed runs may have left photographs there
            shutil.rmtree(self._store.state / name, ignore_errors=True)
        return DatasetWriter(make_folder(self._final))

    @contextlib.contextmanager
    def _checked(self, path: Path) -> Iterator[Path]:
        """The file of a shard; one of the dataset is compared with its checksum."""
        with self._store.open_shard(path) as file:
            for entry in self._info.shards if path.parent == self._out else ():
                if entry.name == path.name:
                    check_shard(self._out, entry, file)
            yield file
