"""Where a dataset is made: work is done in a folder of this machine, and a `Home` carries it on from there."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from facegan.files import sha256_file
from facegan.prep.engines.worker import Done
from facegan.prep.out.commit import Committed, commit

_FLUSHES = 4  # at once: a disk takes its time, and workers go on meanwhile


class Home(Protocol):
    """
    Attributes:
        where: as the user knows it.
        folder: the dataset's folder here.
    """

    @property
    def where(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def ready(self) -> None:
        """What has been cleared away in the folder shall be gone."""
        ...

    def kept(self, chunks: Iterator[Done], folder: Path) -> Iterator[Done]:
        """Chunks that were left in ``folder``, each as it is committed. Their shards need not stay there."""
        ...

    def whole(self, shard: Path) -> AbstractContextManager[Path]:
        """A shard of the folder with all its bytes, for a while."""
        ...

    def sha256(self, shard: Path) -> str: ...

    def publish(self, files: Collection[Path], shards: Mapping[str, Path], remove: Collection[str], clear: str) -> None:
        """The folder is about to become the dataset that these make up.

        Args:
            files: all but the shards.
            shards: by their names from now on, where they lie until now.
            remove: names of the dataset until now that are none of its files any more.
            clear: the folder of chunks that it is made of.
        """
        ...


class LocalHome:
    """A folder, and that is all."""

    def __init__(self, folder: Path) -> None:
        self.where, self.folder = str(folder), folder

    def ready(self) -> None:
        pass

    def kept(self, chunks: Iterator[Done], folder: Path) -> Iterator[Done]:
        return in_background(chunks, lambda chunk: commit(folder, chunk), _FLUSHES)

    def whole(self, shard: Path) -> AbstractContextManager[Path]:
        return contextlib.nullcontext(shard)

    def sha256(self, shard: Path) -> str:
        return sha256_file(shard)

    def publish(self, files: Collection[Path], shards: Mapping[str, Path], remove: Collection[str], clear: str) -> None:
        pass


def in_background(
    chunks: Iterator[Done], keep: Callable[[Committed], None], at_once: int, stop: Callable[[], None] = lambda: None
) -> Iterator[Done]:
    """Each chunk when ``keep`` is done with it. Nothing is kept any more when the iterator ends, however it ends."""
    under_way: dict[concurrent.futures.Future[None], Done] = {}
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        try:
            for done in chunks:
                under_way[pool.submit(keep, done.chunk)] = done
                seconds = 0 if len(under_way) < at_once else None
                for kept in concurrent.futures.wait(under_way, seconds, concurrent.futures.FIRST_COMPLETED).done:
                    kept.result()
                    yield under_way.pop(kept)
            for kept in concurrent.futures.as_completed(under_way):
                kept.result()
                yield under_way[kept]
        finally:
            stop()
            pool.shutdown(cancel_futures=True)
