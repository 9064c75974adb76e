"""Faces from tar shards that facegan did not make, and from the output of commands, by webdataset's pipeline.

Such a stream has neither an index nor checksums: its order is webdataset's (shards in a random order, and a buffer of
faces that is drawn from at random), it is decoded in every epoch, and going on with a run does not find the same place.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import lzma
import re
import tarfile
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

import torch

from facegan.console import Console, shown
from facegan.errors import DatasetError, FaceganError, SettingsError
from facegan.files import TEMPORARY, human_bytes, make_folder, user_cache
from facegan.machine import usable_cpus
from facegan.own import PIPE
from facegan.remote import filesystem, is_url, patiently, without_query
from facegan.shards.images import decode_image
from facegan.stream.choice import check_cache
from facegan.stream.counts import file_marks, keep_count, kept_count
from facegan.stream.download import download
from facegan.stream.pipe import Pipe
from facegan.unpack import MAX_PHOTO_BYTES, BoundedFile, Bounds

if TYPE_CHECKING:
    from facegan.stream.foreign_batches import ForeignBatches

_TAR = re.compile(r"\.(tar|tgz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
_META = re.compile(r"__[^/]*__($|/)")  # webdataset's notes
_IMAGES = ("png", "jpg", "jpeg", "webp")


def is_foreign(shards: str) -> bool:
    """Whether this names tar files or a command, rather than a dataset that facegan made."""
    return shards.startswith(PIPE) or bool(_TAR.search(without_query(shards)))


class Closed(FaceganError):
    """Nobody reads any more."""


class ForeignShards:
    """Square images of one size from ``pipe:COMMAND``, or from tar files and URLs of such, ``{000..009}`` for several.

    They are read as RGB, whatever they are: among colours a grey one is no mistake.

    Args:
        shards: a command is run by the shell: it has to come from the user.
        cache: ``off`` and ``auto`` alone can be.
        skip_broken: images that can't be decoded and shards that can't be read are counted, warned of and left out.

    Raises:
        DatasetError: a shard can't be read or holds no images, or its images are no squares.
    """

    channels = 3

    def __init__(
        self,
        shards: str,
        *,
        skip_broken: bool = False,
        cache: str = "auto",
        workers: int | None = None,
        console: Console | None = None,
    ) -> None:
        from braceexpand import braceexpand

        check_cache(cache)
        if cache not in ("auto", "off"):
            raise SettingsError(f"--cache {cache}: faces of {shards} have no numbers to keep them under; choose off.")
        self.shards, self.workers = shards, workers or usable_cpus()
        self.console, self.skip_broken = console or Console(quiet=True), skip_broken
        try:
            self.urls = [shards] if shards.startswith(PIPE) else list(braceexpand(shards))
        except ValueError as error:
            raise SettingsError(f"{shards}: {error}") from None
        self.fingerprint = hashlib.sha256("\n".join(self.urls).encode()).hexdigest()
        self.skipped = 0
        self.size = self._first_size()
        self._count: int | None = None
        self.console.note(
            f"{shards} is read by webdataset's pipeline: its order is random, but not exact, and a run that is taken "
            "up does not see the same faces as one that never stopped."
        )

    def _first_size(self) -> int:
        with contextlib.closing(self.samples(self.urls)) as samples:
            name, data = next(samples, ("", b""))
        if not name:
            raise DatasetError(f"{self.shards} holds no images ({', '.join(_IMAGES)}).")
        rgb = decode_image(data)
        if rgb is None:
            raise DatasetError(f"{name} can't be decoded: it is no whole image.")
        if rgb.shape[0] != rgb.shape[1]:
            raise DatasetError(
                f"{name} has {rgb.shape[1]}×{rgb.shape[0]} pixels, and faces have to be squares of one size.\n"
                f"Make them so with: facegan prep … --crop aligned"
            )
        return rgb.shape[0]

    def __len__(self) -> int:
        """Counted by reading all shards once, without decoding; of files that stay as they are, in the first run."""
        if self._count is None:
            self._count = self._counted()
        return self._count

    def _counted(self) -> int:
        marks = file_marks(self.urls)
        count = kept_count(self.urls, marks)
        if count is None:
            self.console.note(f"Counting the faces of {self.shards} …")
            skipped = self.skipped
            count = sum(1 for _ in self.samples(self.urls))
            if marks and self.skipped == skipped and marks == file_marks(self.urls):
                keep_count(self.urls, marks, count)
        return count

    def samples(
        self, urls: list[str], stop: Callable[[], None] = lambda: None
    ) -> Generator[tuple[str, bytes], None, None]:
        """Name and bytes of each image, as the shards hold them.

        Args:
            stop: is called now and then while nothing comes, and raises `Closed` to end it.

        Raises:
            DatasetError: a shard can't be read.
        """
        from webdataset.tariterators import group_by_keys

        for url in urls:
            try:
                with _opened(url, stop) as stream:
                    for sample in group_by_keys(_images(stream, url)):
                        suffix = next(suffix for suffix in sample if not suffix.startswith("__"))
                        yield shown(f"{sample['__key__']}.{suffix} in {url}"), sample[suffix]
            except Closed:
                raise
            except Exception as error:  # tarfile's and every protocol's own
                if not self.skip_broken:
                    raise DatasetError(
                        f"{url} can't be read: {str(error.args[0]) if error.args else error!r}"
                    ) from None
                self.skip(f"{url} can't be read further: {error}")

    def skip(self, why: str) -> None:
        self.skipped += 1
        self.console.warn(f"{why.splitlines()[0]} It is left out (--skip-broken).")

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        rank: int = 0,
        world_size: int = 1,
    ) -> ForeignBatches:
        """An endless iterator of uint8 (batch_size / world_size, 3, size, size) tensors on ``device``."""
        from facegan.stream.foreign_batches import ForeignBatches

        return ForeignBatches(self, batch_size, seed, torch.device(device), rank, world_size)

    def close(self) -> None:
        pass


def _images(stream: Any, url: str) -> Iterator[dict[str, Any]]:
    """The images of a shard as webdataset's `group_by_keys` takes them. tarfile would unpack a block of bzip2, which
    may be gigabytes, at once."""
    packed = _Counted(stream)
    opened = next((opened for magic, opened in _PACKED.items() if packed.start.startswith(magic)), None)
    plain = BoundedFile(
        opened(packed) if opened else packed,
        lambda at: Bounds(url, packed.count, remedy="Unpack it yourself if you trust it.").check_bytes(at),
    )
    with tarfile.open(fileobj=cast(BinaryIO, plain), mode="r|") as archive:
        for member in archive:
            if member.isreg() and not member.issparse() and _is_image(member.name) and not _META.match(member.name):
                if member.size > MAX_PHOTO_BYTES:
                    raise ValueError(f"{member.name} has {human_bytes(member.size)}")
                data = cast(IO[bytes], archive.extractfile(member)).read()
                yield {"fname": member.name, "data": data, "__url__": url}
            cast(Any, archive).members = []  # else tarfile keeps them all
    yield {}  # faces of different shards are not put together


class _Counted:
    """A stream, and how many of its bytes were read."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.start = self._waiting = stream.read(tarfile.BLOCKSIZE)
        self.count = 0

    def read(self, size: int) -> bytes:
        data = self._waiting[:size] or self._stream.read(size)
        self._waiting = self._waiting[size:]
        self.count += len(data)
        return data

    def tell(self) -> int:
        return self.count


_PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in _IMAGES


@contextlib.contextmanager
def _opened(url: str, stop: Callable[[], None]) -> Iterator[Any]:
    """A shard's bytes. One behind a URL is fetched whole first: so it can be asked for again when it breaks off."""
    if url.startswith(PIPE):
        with contextlib.closing(Pipe(url.removeprefix(PIPE), stop)) as stream:
            yield stream
    elif is_url(url):
        fs, path = filesystem(url)
        with tempfile.NamedTemporaryFile(dir=make_folder(user_cache("shards")), suffix=TEMPORARY) as file:
            patiently(lambda: download(fs, path, Path(file.name), None, stop))
            with Path(file.name).open("rb") as stream:
                yield stream
    else:
        with Path(url).open("rb") as stream:
            yield stream
