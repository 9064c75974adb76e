"""`FaceShards`: a dataset of faces, by number or in batches."""

from __future__ import annotations

import errno
import functools
import hashlib
import mmap
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from facegan.console import Console, shown
from facegan.errors import DatasetError, SettingsError, one_of
from facegan.files import parse_json
from facegan.remote import is_url
from facegan.shards.attributes import read_attributes, read_measures, sample_attributes
from facegan.shards.checksums import are_verified, check_shard, file_stamp, save_verified, see_verify, size_error
from facegan.shards.format import DatasetInfo
from facegan.shards.images import StoredPNGs, decode_into
from facegan.stream.index import dataset_offsets, most_maps, shard_stats
from facegan.stream.loader import Batches, RankSlice, StreamOptions
from facegan.stream.remote import RemoteShards, read_info
from facegan.stream.sampler import BalancedSampler, Sampler, places_of

_ATTEMPTS = 10  # to open a shard while descriptors are short


class DamagedImage(DatasetError):
    """A shard that cannot be read, or one image of it: the one with number ``index`` in the dataset."""

    def __init__(self, message: str, *, shard: int, index: int | None = None) -> None:
        super().__init__(message)
        self.shard, self.index = shard, index


class FaceShards(Dataset[tuple[np.ndarray, dict[str, Any]]]):
    """The faces of one split of a dataset, a map-style dataset for any ``DataLoader``.

    ``faces[i]`` is (uint8 (size, size, channels) array, the sample's JSON as a dict), in the order of the shards. An
    image is RGB, or grey if the dataset has one channel.

    Args:
        path: a folder that ``facegan prep`` wrote, or its URL (``s3://``, ``https://``, ``gs://``, ``hf://``). A
            remote dataset is downloaded whole into the user cache and checked.
        split: ``train``, ``val`` or ``test``.
        verify, skip_broken, cache, workers: see `facegan.stream.StreamOptions`; `batches` may have another cache.
        console: for progress and warnings.

    Raises DatasetError if the dataset, the split or a shard is missing, cut short or altered; SettingsError if a remote
    dataset does not fit in the user cache.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str = "train",
        *,
        verify: bool = False,
        skip_broken: bool = False,
        cache: str = "auto",
        workers: int | None = None,
        console: Console | None = None,
    ) -> None:
        self.path, self.split = os.fspath(path), split
        self.options = StreamOptions(cache, workers, skip_broken, verify)
        self.console = console or Console(quiet=True)
        info = read_info(self.path) if is_url(self.path) else DatasetInfo.read(Path(path))
        self._photos_sha256 = info.photos_sha256
        self.splits = info.splits
        self._entries = info.split_shards(split)
        if not self._entries:
            has = f"it has {one_of(info.splits)}" if info.splits else "it has no faces at all"
            raise DatasetError(f"{self.path} has no split '{split}': {has}.")
        self.size, self.channels = info.size, info.channels
        self.fingerprint = info.faces_fingerprints(split)[-1]
        self._counts = np.array([entry.samples for entry in self._entries], np.int64)
        self._ends = np.cumsum(self._counts)
        self._remote = RemoteShards(self.path, self._entries, self.console) if is_url(self.path) else None
        self._replacements = Replacements(self._counts, self.console)
        self.remap = self._replacements.remap
        if self._remote:
            self._paths, index_name = self._remote.paths, self.fingerprint
            self._leave_out(self._remote.download())
        else:
            folder = Path(self.path)
            self._paths = [folder / entry.name for entry in self._entries]
            index_name = f"{self.fingerprint} {folder.resolve()}"
            self._leave_out({n: e for n, entry in enumerate(self._entries) if (e := size_error(folder, entry))})
        intact = [number for number in range(len(self._entries)) if not self._replacements.shards[number]]
        self._offsets, altered = dataset_offsets(self._paths, self._entries, intact, index_name, self.console)
        self._leave_out(altered)
        self._map = functools.lru_cache(most_maps())(self._open)
        self._stored = StoredPNGs(self.size, self.channels)
        if verify and not self._remote:
            self._verify()
        elif not (self._remote or self.console.quiet or are_verified(Path(self.path), self._entries)):
            self.console.note(
                f"The shards of {self.path} have not been checked since they were written: "
                f"run facegan verify {self.path}, or add --verify-shards."
            )

    def _verify(self) -> None:
        folder, stamps = Path(self.path), dict[str, Any]()
        try:
            with self.console.progress(len(self._entries), "shards verified") as progress:
                for number, entry in enumerate(self._entries):
                    if not self._replacements.shards[number]:
                        stamp, stamps[entry.name] = file_stamp(folder, entry), None
                        try:
                            check_shard(folder, entry)
                            stamps[entry.name] = stamp
                        except DatasetError as error:
                            self._leave_out({number: error})
                    progress.advance(1)
        finally:
            save_verified(folder, stamps)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"face {index} of {len(self)}")
        index %= len(self)
        pixels = self.pixels(index)
        at, size = self._offsets[index, 2:].tolist()
        data = self._map(int(np.searchsorted(self._ends, index, "right")))
        return pixels, parse_json(bytes(data[at : at + size]), f"{self.path}: face {index}") if size else {}

    def pixels(self, index: int) -> np.ndarray:
        """The image alone: uint8 (size, size, channels). Thread-safe."""
        out = np.empty((1, self.size, self.size, self.channels), np.uint8)
        self._read(np.array([index], np.int64), out, np.zeros(1, np.int64))
        return out[0]

    def attributes(self, names: Sequence[str] = ()) -> pa.Table:
        """Of all faces, in their order; see `facegan.shards.attributes.read_attributes`."""
        if self._remote:
            photos = self._remote.photos(self._photos_sha256)
            return sample_attributes(photos, self._entries, names, self.path)
        return read_attributes(Path(self.path), self._entries, names)

    def measures(self, names: Sequence[str]) -> pa.Table:
        """Columns of detections.parquet of all faces, in their order; none for a remote dataset."""
        return pa.table({}) if self._remote else read_measures(Path(self.path), self._entries, names)

    def read(self, indices: np.ndarray, out: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Decode images into ``out``, with replacements for damaged ones if ``skip_broken``.

        Args:
            indices: int64 (n,), each 0 … len − 1.
            out: uint8 (N, size, size, channels), contiguous.
            rows: int64 (n,), where in ``out`` each image goes; 0 … n − 1 if None.

        Raises DatasetError if a shard cannot be read or an image cannot be decoded; with ``skip_broken``, if none can.
        """
        while True:
            try:
                self._read(self._replacements.remap(indices), out, np.arange(len(indices)) if rows is None else rows)
                return
            except DamagedImage as damaged:
                self._replace(damaged)

    def _read(self, indices: np.ndarray, out: np.ndarray, rows: np.ndarray) -> None:
        shards = np.searchsorted(self._ends, indices, "right")
        order = np.argsort(shards, kind="stable")
        indices, shards, rows = indices[order], shards[order], rows[order]
        done = self._stored.decode(self._map, shards, self._offsets[indices, :2], out, rows)
        for left in np.flatnonzero(~done).tolist():  # not a PNG as prep writes it, or a damaged one
            index, shard = int(indices[left]), int(shards[left])
            at, size = self._offsets[index, :2].tolist()
            if not decode_into(self._map(shard)[at : at + size], out[rows[left]]):
                number = index - int(self._ends[shard] - self._counts[shard])
                grey = "grey " if self.channels == 1 else ""
                raise DamagedImage(
                    f"Sample {number} of {self._where(shard)} is not a complete {grey}image of {self.size}×{self.size} "
                    f"pixels.\n{see_verify(self.path, deep=True)}",
                    shard=shard,
                    index=index,
                )

    def _open(self, number: int, attempt: int = 0) -> memoryview:
        path = self._paths[number]
        if self._remote and not path.exists():  # another run needed its space in the user cache
            try:
                self._remote.restore(number)
            except DatasetError as error:
                raise DamagedImage(str(error), shard=number) from None
        try:
            with path.open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (FileNotFoundError, ValueError):  # ValueError: the file is empty
            raise DamagedImage(
                f"The shard {self._where(number)} is missing. It existed when the dataset was opened.", shard=number
            ) from None
        except OSError as error:
            if error.errno != errno.EMFILE or attempt == _ATTEMPTS:
                raise
            self.release()  # other code in this process needs more descriptors than we left to it
            time.sleep(0.01 * attempt)  # other threads still use maps that were released
            return self._open(number, attempt + 1)

    def _leave_out(self, damaged: Mapping[int, DatasetError]) -> None:
        for number, error in sorted(damaged.items()):
            self._replace(DamagedImage(str(error), shard=number))

    def _replace(self, damaged: DamagedImage) -> None:
        if not self.options.skip_broken:
            raise DatasetError(str(damaged)) from None
        self._replacements.add(damaged)

    def _where(self, number: int) -> str:
        return self._remote.where(number) if self._remote else str(self._paths[number])

    @property
    def content_key(self) -> str:
        """For caches of what is computed from the faces: it changes when a local shard was modified in any way."""
        if self._remote:  # each was compared with its checksum
            return self.fingerprint
        stats = shard_stats(self._paths, range(len(self._paths)))
        return hashlib.sha256(self.fingerprint.encode() + stats.tobytes()).hexdigest()

    @property
    def skipped(self) -> int:
        """Faces that others replace."""
        return int(self._replacements.faces.sum())

    def release(self) -> None:
        """Unmap the shards. Further reads map them again."""
        self._map.cache_clear()

    close = release

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        cache: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        balance: Mapping[str, float | None] | None = None,
    ) -> Batches:
        """An endless iterator of uint8 (batch_size / world_size, channels, size, size) tensors on ``device``.

        A batch is a pure function of (dataset, seed, position), see `Batches`.

        Args:
            batch_size: images of all processes together.
            seed: of the order; each epoch is one permutation of all faces.
            cache: see `StreamOptions`; None: the dataset's default, as for the workers.
            rank, world_size: this process, from 0, and how many divide each batch evenly.
            balance: shares of attributes in an epoch, see `order`.
        """
        options = StreamOptions(cache or self.options.cache, self.options.workers)
        ranks = RankSlice(rank, world_size)
        order = self.order(seed, balance)
        return Batches(self, batch_size, order, torch.device(device), ranks, options, self.console)

    def order(self, seed: int, balance: Mapping[str, float | None] | None = None) -> Sampler | BalancedSampler:
        """The endless sequence of faces: each epoch is one permutation of all.

        Args:
            balance: for each binary attribute its share in an epoch, for a class None: all classes the same share; the
                rest of the faces is shown as often as that allows.

        Raises SettingsError if the dataset lacks an attribute, or the shares cannot be reached.
        """
        if not balance:
            return Sampler(len(self), seed)
        table = self.attributes(list(balance))
        for name, share in balance.items():
            kind, wanted = table.schema.field(name).type, pa.int64() if share is None else pa.bool_()
            if kind != wanted:
                rule = "--balance-by takes one with classes" if share is None else "--balance takes true or false ones"
                raise SettingsError(f"The attribute {shown(name)} has values of type {kind}, and {rule}.")
        columns = {name: table[name].to_numpy() for name in balance}
        return BalancedSampler(*places_of(columns, balance), seed)

    def __reduce__(self) -> tuple[Any, ...]:
        """For a DataLoader's worker process, which opens the dataset again."""
        about = {"skip_broken": self.options.skip_broken, "cache": self.options.cache, "workers": self.options.workers}
        return functools.partial(FaceShards, **about), (self.path, self.split)


class Replacements:
    """Faces instead of damaged ones, the same whenever and in whatever order the damage is found.

    A face of a damaged shard is replaced by one of the next intact shard, a damaged face by the next intact one.
    """

    def __init__(self, counts: np.ndarray, console: Console) -> None:
        self._counts, self._console = counts, console
        self._starts = np.cumsum(counts) - counts
        self.shards, self.faces = np.zeros(len(counts), bool), np.zeros(counts.sum(), bool)  # which are damaged
        self._instead: np.ndarray | None = None  # the face to read instead of each
        self._lock = threading.Lock()  # taken by `add` alone

    def add(self, damaged: DamagedImage) -> None:
        """Raises DatasetError if nothing intact is left."""
        first, count = damaged.index, 1
        if first is None:
            first, count = int(self._starts[damaged.shard]), int(self._counts[damaged.shard])
        with self._lock:
            is_new = not self.faces[first : first + count].all()
            self.faces[first : first + count] = True
            self.shards[damaged.shard] |= damaged.index is None
            intact = np.flatnonzero(~self.faces)
            if not len(intact):
                raise DatasetError(f"Every face is damaged. The last one: {damaged}")
            wanted = np.arange(len(self.faces))
            for shard in np.flatnonzero(self.shards):
                other = next(s for s in np.roll(np.arange(len(self.shards)), -shard) if not self.shards[s])
                inside = np.arange(self._counts[shard])
                wanted[self._starts[shard] + inside] = self._starts[other] + inside % self._counts[other]
            self._instead = intact[np.searchsorted(intact, wanted) % len(intact)]
        if is_new:
            left_out = f"its {count:,} faces are" if damaged.index is None else "this face is"
            self._console.warn(f"{str(damaged).splitlines()[0]} With --skip-broken {left_out} left out.")

    def remap(self, indices: np.ndarray) -> np.ndarray:
        """The faces to read instead of these."""
        return indices if self._instead is None else self._instead[indices]
