"""`FaceShards`: a dataset of faces, by number or in batches."""

from __future__ import annotations

import hashlib
import mmap
import os
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from facegan.console import Console
from facegan.errors import DatasetError, one_of
from facegan.files import parse_json
from facegan.remote import is_url
from facegan.shards.checksums import Mark, are_verified, check_shard, mark_of, save_verified, size_error
from facegan.shards.images import decode_into
from facegan.shards.layout import DatasetInfo, ShardEntry
from facegan.shards.stored import StoredPNGs
from facegan.stream.batches import Batches
from facegan.stream.broken import Broken, StandIns
from facegan.stream.choice import check_cache
from facegan.stream.claims import refuse_too_many, size_of_faces
from facegan.stream.fetch import FetchedShards, read_info
from facegan.stream.maps import Maps
from facegan.stream.places import COLUMNS, dataset_places, shard_marks, shard_places
from facegan.stream.process import renew_in_forks

_TRIES = 20  # at opening a fetched shard that other runs keep pushing out of the cache


class FaceShards(Dataset[tuple[np.ndarray, dict[str, Any]]]):
    """The faces of one split of a dataset, a map-style dataset that any ``DataLoader`` takes.

    ``faces[i]`` is (uint8 (size, size, channels) array, the sample's JSON as a dict), in the order of the shards. An
    image is RGB, or grey where the dataset was made with one channel.

    Args:
        path: a folder that ``facegan prep`` wrote, or the URL of one (``s3://``, ``https://``, ``gs://``, ``hf://``),
            whose shards are fetched as they are needed.
        split: ``train``, ``val`` or ``test``.
        verify: compares the SHA-256 of every shard first. Those of fetched shards are always compared.
        skip_broken: a shard or image that can't be had or read does not end the run: it is counted and warned of, and
            batches take a face of the next whole shard in the place of each of its faces.
        cache, workers: of `batches`, where that is not told otherwise.
        console: is told what was chosen, and what is left out.

    Raises:
        DatasetError: the dataset, the split or a shard is missing, cut short or altered.
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
        check_cache(cache)
        self.path, self.split = os.fspath(path), split
        self._cache, self._workers, self.console = cache, workers, console or Console(quiet=True)
        self.skip_broken = skip_broken
        self._remote = is_url(self.path)
        info = read_info(self.path) if self._remote else DatasetInfo.read(Path(path))
        self.splits = info.splits
        self._entries = info.split_shards(split)
        if not self._entries:
            has = f"it has {one_of(info.splits)}" if info.splits else "it holds no faces at all"
            raise DatasetError(f"{self.path} has no split '{split}': {has}.")
        self.size, self.format = size_of_faces(info, self.path), str(info.settings.get("format"))
        self.channels = info.channels
        self.fingerprint = _fingerprint(self._entries, self.channels)
        self.counts = np.array([entry.samples for entry in self._entries], np.int64)
        self._ends = np.cumsum(self.counts)
        self._stand_ins = StandIns(self.counts, self.console)
        self._lock = threading.Lock()
        self._maps = Maps(self._open)
        self._stored = StoredPNGs(self.size, self.channels)
        if self._remote:
            refuse_too_many(self._entries, self.path)
            self._fetched = FetchedShards(self.path, self._entries, self.console)
            self._places = np.zeros((len(self), COLUMNS), np.int64)
            self._known = np.zeros(len(self._entries), bool)
        else:
            self._open_local()
        renew_in_forks(self)
        if verify:
            self._verify()
        elif not (self._remote or self.console.quiet or are_verified(Path(self.path), self._entries)):
            self.console.note(
                f"The shards of {self.path} have not been checked since they were written: "
                f"run facegan verify {self.path}, or add --verify-shards."
            )

    def renew(self) -> None:
        """In a forked process, such as a loader's worker: threads are not there, and may have held locks."""
        self._lock = threading.Lock()
        self._maps.renew()
        self._stand_ins.renew()
        if self._remote:
            self._fetched.renew()

    def _open_local(self) -> None:
        folder = Path(self.path)
        wrong = {number: error for number, entry in enumerate(self._entries) if (error := size_error(folder, entry))}
        whole = [number for number in range(len(self._entries)) if number not in wrong]
        if not wrong or self.skip_broken:
            self._places, altered = dataset_places(folder, self._entries, whole, self.fingerprint, self.console)
            wrong |= altered
        for number in sorted(wrong):
            self._leave_out(Broken(str(wrong[number]), shard=number))
        self._known = np.ones(len(self._entries), bool)

    def _verify(self) -> None:
        folder, marks = Path(self.path), dict[str, Mark | None]()
        try:
            with self.console.progress(len(self._entries), "shards verified") as progress:
                for number, entry in enumerate(self._entries):
                    if not self._stand_ins.has(number):
                        try:
                            if self._remote:
                                self._path(number)  # compared when it was fetched
                            else:
                                mark, marks[entry.name] = mark_of(folder, entry), None
                                check_shard(folder, entry)
                                marks[entry.name] = mark
                        except DatasetError as error:
                            self._leave_out(Broken(str(error), shard=number))
                    progress.advance(1)
        finally:
            if marks:
                save_verified(folder, marks)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, Any]]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"face {index} of {len(self)}")
        index %= len(self)
        pixels = self.pixels(index)
        at, size = self._places[index, 2:].tolist()
        data = self._maps.get(int(np.searchsorted(self._ends, index, "right")))
        return pixels, parse_json(bytes(data[at : at + size]), f"{self.path}: face {index}") if size else {}

    def pixels(self, index: int) -> np.ndarray:
        """The image alone: uint8 (size, size, channels). Threads may decode side by side."""
        out = np.empty((1, self.size, self.size, self.channels), np.uint8)
        self._read(np.array([index], np.int64), out, np.zeros(1, np.int64))
        return out[0]

    def read(self, indices: np.ndarray, out: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Decodes images into ``out``, with stand-ins for what is broken where that is to be skipped.

        Args:
            indices: int64 (n,), each 0 … len − 1.
            out: uint8 (N, size, size, channels), contiguous.
            rows: int64 (n,), where in ``out`` each image goes; 0 … n − 1 if None.

        Raises:
            DatasetError: a shard can't be had, or an image can't be decoded; with ``skip_broken`` none can.
        """
        while True:
            try:
                self._read(self._stand_ins.instead_of(indices), out, np.arange(len(indices)) if rows is None else rows)
                return
            except Broken as broken:
                self._leave_out(broken)

    def _read(self, indices: np.ndarray, out: np.ndarray, rows: np.ndarray) -> None:
        shards = np.searchsorted(self._ends, indices, "right")
        order = np.argsort(shards, kind="stable")
        indices, shards, rows = indices[order], shards[order], rows[order]
        numbers, counts = np.unique(shards, return_counts=True)
        for number in numbers[~self._known[numbers]].tolist():
            self._maps.get(number)  # which makes its places known
        tars = (
            (self._maps.get(number), count) for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
        )
        done = self._stored.decode(tars, self._places[indices, :2], out, rows)
        for left in np.flatnonzero(~done).tolist():
            self._read_one(int(indices[left]), int(shards[left]), out[rows[left]])

    def _read_one(self, index: int, shard: int, out: np.ndarray) -> None:
        """What is no PNG as prep writes them, or a broken one."""
        at, size = self._places[index, :2].tolist()
        if not decode_into(self._maps.get(shard)[at : at + size], out):
            number = index - int(self._ends[shard] - self.counts[shard])
            grey = "grey " if self.channels == 1 else ""
            raise Broken(
                f"Sample {number} of {self._where(shard)} is no whole {grey}image of {self.size}×{self.size} pixels.\n"
                f"See what else is wrong: facegan verify {self.path} --deep",
                shard=shard,
                index=index,
            )

    def _open(self, number: int) -> mmap.mmap:
        """A shard in memory, with its places known."""
        for _ in range(_TRIES):
            path = self._path(number)
            try:
                with path.open("rb") as file:
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self._learn_places(number, path)
                return data
            except (FileNotFoundError, ValueError):  # ValueError: it has no bytes
                if not self._remote:
                    break
                # It was fetched, and given up for others before it was opened: once more.
        raise Broken(
            f"The shard {self._where(number)} is missing. It was there when the dataset was opened.", shard=number
        )

    def _path(self, number: int) -> Path:
        if not self._remote:
            return Path(self.path) / self._entries[number].name
        try:
            return self._fetched.path(number)
        except DatasetError as error:
            raise Broken(str(error), shard=number) from None

    def _learn_places(self, number: int, path: Path) -> None:
        with self._lock:
            if self._known[number]:
                return
            end = int(self._ends[number])
            try:
                self._places[end - int(self.counts[number]) : end] = shard_places(path, self._entries[number])
            except DatasetError as error:
                if not path.exists():
                    raise FileNotFoundError(path) from None
                raise Broken(str(error), shard=number) from None
            self._known[number] = True

    def _leave_out(self, broken: Broken) -> None:
        if not self.skip_broken:
            raise DatasetError(str(broken)) from None
        self._stand_ins.add(broken)

    def _where(self, number: int) -> str:
        return self._fetched.where(number) if self._remote else str(Path(self.path) / self._entries[number].name)

    @property
    def block_shards(self) -> int:
        """How many shards a block of the order has; 0 where the order goes through all of them at once."""
        return self._fetched.block_shards if self._remote else 0

    @property
    def decoded_key(self) -> str:
        """What decoded faces are kept under. Shards that were altered without a word in dataset.json have another."""
        if self._remote:  # each was compared with its sum
            return self.fingerprint
        marks = shard_marks(Path(self.path), self._entries, range(len(self._entries)))
        return hashlib.sha256(self.fingerprint.encode() + marks.tobytes()).hexdigest()

    @property
    def skipped(self) -> int:
        """Faces that others stand in for."""
        return self._stand_ins.count

    @property
    def remote(self) -> bool:
        return self._remote

    def ahead(self, numbers: Iterable[int]) -> None:
        """These shards are needed soon; others, where there are blocks, not any more."""
        if self._remote:
            wanted = list(numbers)
            self._fetched.ahead(wanted)
            if self.block_shards:
                self._maps.keep_only(wanted)

    def rest(self) -> None:
        """Lets go of the shards' memory: they are not needed for now."""
        self._maps.keep_only(())

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device = "cpu",
        cache: str | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int | None = None,
    ) -> Batches:
        """An endless iterator of uint8 (batch_size / world_size, channels, size, size) tensors on ``device``.

        What it gives is a pure function of (dataset, seed, position): see `Batches`. ``state_dict`` and
        ``load_state_dict`` tell and set the position.

        Args:
            batch_size: images of all processes together.
            seed: of the order: each epoch is one permutation of all faces.
            cache: where decoded faces stay: ``auto``, ``gpu``, ``ram``, ``disk``, ``off``; None: as the dataset has.
            rank, world_size: this process, from 0, and how many share each batch evenly.
            workers: threads that decode; None: as the dataset has it.

        Raises:
            SettingsError: a batch that ranks can't share evenly; a cache that is unknown or can't be on the device.
        """
        return Batches(
            self,
            batch_size,
            seed,
            torch.device(device),
            cache=cache or self._cache,
            rank=rank,
            world_size=world_size,
            workers=workers or self._workers,
            console=self.console,
        )

    def close(self) -> None:
        """Ends fetching. What was read stays readable."""
        if self._remote:
            self._fetched.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.split, self.skip_broken, self._cache, self._workers)


def _fingerprint(entries: Sequence[ShardEntry], channels: int) -> str:
    """Of the shards' bytes, and of channels where they are not three: a WebP that is grey does not tell how many."""
    told = "".join(entry.sha256 for entry in entries) + ("" if channels == 3 else f" {channels}")
    return hashlib.sha256(told.encode()).hexdigest()


def _reopen(path: str, split: str, skip_broken: bool, cache: str, workers: int | None) -> FaceShards:
    """In a loader's worker process, which maps the shards anew."""
    return FaceShards(path, split, skip_broken=skip_broken, cache=cache, workers=workers)
