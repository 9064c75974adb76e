"""Near-duplicates, whose perceptual hashes differ in few of 64 bits, and leaks between the splits of a dataset."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from facegan.config.prep import NEAR_BITS
from facegan.shards.detections import with_detections
from facegan.shards.format import PHOTOS_FILE, SPLITS, DatasetInfo
from facegan.shards.photos import read_batches

_BANDS, _BAND_BITS = 4, 16
_CANDIDATES = 1 << 20  # pairs compared at a time
_FIRST, _GROWTH = 256, 16  # sizes of blocks: see `first_within`


def first_within(hashes: np.ndarray, others: np.ndarray, bits: int) -> np.ndarray:
    """For each hash the first position in ``others`` of one that differs in at most ``bits`` bits; −1 without one.

    Blocks of ``others`` grow: where most hashes are alike, a small one has a match for nearly all of them. Both are
    uint64 (N,); the result is int64 (N,).
    """
    first, start, size = np.full(len(hashes), -1), 0, _FIRST
    while start < len(others):
        left = np.flatnonzero(first < 0)
        found = _search(hashes[left], others[start : start + size], bits)
        first[left] = np.where(found >= 0, found + start, -1)
        start, size = start + size, size * _GROWTH
    return first


def _search(hashes: np.ndarray, others: np.ndarray, bits: int) -> np.ndarray:
    """Multi-index hashing (Norouzi, Punjani & Fleet 2012, "Fast search in Hamming space with multi-index hashing").

    If 4r + a of 64 bits differ, then at most r of one of the first a + 1 bands of 16 bits, or at most r − 1 of another.
    So it suffices to compare a hash with those in the buckets around its own, for each band.
    """
    first = np.full(len(hashes), len(others))
    for band in range(_BANDS):
        radius = bits // _BANDS - (band > bits % _BANDS)
        keys, wanted = _band(others, band), _band(hashes, band)
        order = np.argsort(keys, kind="stable")
        ends = np.concatenate([[0], np.bincount(keys, minlength=1 << _BAND_BITS).cumsum()])
        for mask in _masks(radius):
            starts = ends[wanted ^ mask]
            counts = ends[(wanted ^ mask) + 1] - starts
            rows = np.flatnonzero(counts)
            for some in _pieces(rows, counts[rows]):
                of_row = counts[some]
                row = np.repeat(some, of_row)
                at = np.arange(len(row)) + np.repeat(starts[some] - of_row.cumsum() + of_row, of_row)
                is_near = np.bitwise_count(hashes[row] ^ others[order[at]]) <= bits
                np.minimum.at(first, row[is_near], order[at[is_near]])
    return np.where(first < len(others), first, -1)


def _band(hashes: np.ndarray, band: int) -> np.ndarray:
    return (hashes >> np.uint64(band * _BAND_BITS) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.int64)


def _masks(radius: int) -> list[int]:
    """All numbers of 16 bits with at most so many ones."""
    sets = (itertools.combinations(range(_BAND_BITS), ones) for ones in range(radius + 1))
    return [sum(1 << bit for bit in bits) for bits in itertools.chain.from_iterable(sets)]


def _pieces(rows: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """The rows in pieces with about `_CANDIDATES` candidates each."""
    return np.split(rows, np.flatnonzero(np.diff(counts.cumsum() // _CANDIDATES)) + 1)


def kept_among(hashes: np.ndarray, bits: int) -> np.ndarray:
    """One after the other is kept unless an earlier one that was kept differs in at most ``bits`` bits.

    Returns:
        For each hash the position of the first kept one within ``bits``, int64 (N,): its own where it is kept.
    """
    unique, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    order = np.argsort(firsts)  # of the unique ones, by their first position
    ordered, place = unique[order], np.argsort(order)
    undecided, is_kept = np.arange(len(ordered)), np.zeros(len(ordered), bool)
    while len(undecided):
        # Those without an earlier neighbour are kept, those with a kept neighbour are not; the rest depends on these.
        first = first_within(ordered[undecided], ordered[undecided], bits)
        is_first = first == np.arange(len(undecided))
        kept, rest = undecided[is_first], undecided[~is_first]
        is_kept[kept] = True
        undecided = rest[first_within(ordered[rest], ordered[kept], bits) < 0]
    kept, others = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
    of = np.arange(len(ordered))
    of[others] = kept[first_within(ordered[others], ordered[kept], bits)]
    return firsts[order][of[place[inverse]]]


# Leaks: what is both in one split and in another.


@dataclass(frozen=True)
class Leak:
    """What splits share: photographs with equal ``bytes``, ``near``-duplicates, or faces of one ``identity``."""

    kind: str
    count: int  # of files, faces or people
    first: tuple[str, str]  # paths of an example, in different splits
    text: str


def find_leaks(folder: Path, info: DatasetInfo) -> list[Leak]:
    """Leaks between the faces of a dataset's splits; near-duplicates by the bits of its --dedup, or by the default.

    Raises DatasetError if a table is unreadable.
    """
    setting = re.fullmatch(r"near:(\d)", str(info.settings.get("dedup")))
    bits, paths, start = int(setting[1]) if setting else NEAR_BITS, list[pa.Array](), 0
    photos, faces = [np.zeros((3, 0), np.int64)], [np.zeros((2, 0), np.uint64)]
    batches = read_batches(folder / PHOTOS_FILE, ["path", "shard", "split", "sha256", "identity"])
    for batch, of_batch in with_detections(folder, batches):
        columns = [column.to_pylist() for column in batch.columns]
        paths.append(batch.column("path"))
        row = {path: start + number for number, path in enumerate(columns[0])}
        start += len(batch)
        kept = [
            (SPLITS.index(part), hash(sha256), hash(person or 0)) if shard else (0, 0, 0)
            for _, shard, part, sha256, person in zip(*columns, strict=True)
        ]
        photos.append(np.array(kept, np.int64).reshape(-1, 3).T)
        measured = zip(*(of_batch[name].to_pylist() for name in ("path", "key", "hash")), strict=True)
        found = [(row[path], face_hash) for path, key, face_hash in measured if key and face_hash]
        faces.append(np.array(found, np.uint64).reshape(-1, 2).T)
    (split, files, people), (photo, hashes) = np.hstack(photos), np.hstack(faces)
    near = _near(split, files, photo.astype(np.int64), hashes, bits)
    found = (
        ("bytes", _equal(files, split), "the same file in several splits"),
        ("near", near, f"near-duplicates ({bits} bits) in several splits"),
        ("identity", _equal(people, split), "people in several splits"),
    )
    path = pa.chunked_array(paths, pa.string())
    return [
        Leak(kind, len(pairs), tuple(path[row].as_py() for row in pairs[pairs[:, 0].argmin()].tolist()), text)
        for kind, pairs, text in found
        if len(pairs)
    ]


def _equal(values: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Two rows of each value (but 0) that is in several splits, int64 (N, 2)."""
    order = np.lexsort((split, values))
    order = order[values[order] != 0]
    _, first, count = np.unique(values[order], return_index=True, return_counts=True)
    pairs = order[np.stack([first, first + count - 1], axis=1)]
    return pairs[split[pairs[:, 0]] < split[pairs[:, 1]]]


def _near(split: np.ndarray, files: np.ndarray, photo: np.ndarray, hashes: np.ndarray, bits: int) -> np.ndarray:
    """Photographs with a near-duplicate in a split before theirs, and that, int64 (N, 2). Equal files do not count."""
    pairs = [np.zeros((0, 2), np.int64)]
    for number in range(1, len(SPLITS)):
        mine, before = np.flatnonzero(split[photo] == number), np.flatnonzero(split[photo] < number)
        match = first_within(hashes[mine], hashes[before], bits)
        pairs.append(photo[np.stack([before[match[match >= 0]], mine[match >= 0]], axis=1)])
    found = np.concatenate(pairs)
    return found[files[found[:, 0]] != files[found[:, 1]]]
