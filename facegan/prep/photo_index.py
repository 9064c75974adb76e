"""All photographs of a source, sorted by name, as Arrow columns: a million of them take about 100 MB."""

from __future__ import annotations

import itertools
import posixpath
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from facegan.console import shown
from facegan.errors import SourceError
from facegan.prep.attributes import AttributeList, json_values
from facegan.prep.sources.base import Entry, Ignored, MultiSource, Source, common_folder, listed
from facegan.shards.format import SPLITS, readable_path, sample_key
from facegan.shards.photos import Fingerprint, attribute_schema, int64_array

_BATCH = 5_000  # photographs that are Python objects at a time
_VOTERS = 1000  # photographs that vote for the folder below which paths are stored
_OF_ENTRY = {"locator": pa.list_(pa.int64()), "label": pa.int64(), "part": pa.string()}  # that few sources have
_OTHERS = (*_OF_ENTRY, "identity")


class IndexedPhoto(NamedTuple):
    """A photograph to prepare: its row in the index, its path in the dataset, and its entry in the source."""

    row: int
    path: bytes
    entry: Entry
    split: str
    attributes: tuple[int | float, ...]  # as KEY.json has them, in the order of the index's columns
    identity: str = ""  # the person, if known
    is_left_out: bool = False  # it keeps its place among the others, but is not prepared
    reason: str = ""  # ``duplicate``, or, in a repair, ``near_duplicate``
    duplicate_of: str = ""  # path in the dataset of the photograph that it repeats


class PhotoIndex:
    """All facts that a run needs about each photograph. Of a name that a source lists repeatedly the last entry counts.

    Photographs have no split until `split_by` gives them one.

    Attributes:
        ignored: files that are not photographs, by suffix.
        attributes: a typed column for each, with rows that the photographs share.
        root: the folder below which paths are stored: the deepest common one, or the one that an existing dataset has.
            It follows from the paths alone: an archive and a folder of the same photographs give the same dataset.
    """

    def __init__(self, source: Source) -> None:
        """Raises SourceError if the source cannot be listed, or a name is in two of its archives."""
        self.ignored = Ignored()
        self._entries = _sorted_entries(source, self.ignored)
        self._names: pa.LargeBinaryArray = self._entries["name"]
        count = len(self._names)
        self.root = common_folder(self._names[0].as_py(), self._names[-1].as_py()) if count else b""
        self._is_new = np.ones(count, bool)
        self._duplicate_of = np.full(count, -1)  # row here; from ``count`` on: ``count`` + row of the dataset's table
        self._is_left_out = np.zeros(count, bool)
        self._split = np.full(count, -1, np.int8)
        self.attributes = pa.table({})
        self._attributes_row = np.full(count, -1)
        self._known = pa.Table.from_batches([], pa.schema({"path": pa.string(), "bytes": pa.int64()}))
        self._known_row = np.full(count, -1, np.int64)  # of each photograph in the dataset's table

    def __len__(self) -> int:
        return len(self._names)

    def names(self) -> Iterator[bytes]:
        """All of them, sorted."""
        return itertools.chain.from_iterable(self._name_batches())

    def _name_batches(self, step: int = 1) -> Iterator[list[bytes]]:
        names = self._names.take(int64_array(np.arange(0, len(self), step))) if step > 1 else self._names
        return (names.slice(start, _BATCH).to_pylist() for start in range(0, len(names), _BATCH))

    def _path_batches(self) -> Iterator[list[str]]:
        """Paths in the dataset."""
        below = len(self.root)
        return ([readable_path(name[below:]) for name in names] for names in self._name_batches())

    def matches(self, count: int, fingerprint: str) -> bool:
        """Whether these are just the photographs of a dataset with this fingerprint."""
        if len(self) != count:
            return False
        found = Fingerprint()
        sizes = self._entries["size"]
        for number, paths in enumerate(self._path_batches()):
            found.add(paths, sizes.slice(number * _BATCH, _BATCH).to_pylist())
        return str(found) == fingerprint

    def limit(self, count: int) -> None:
        """Only the first photographs by name are new."""
        self._is_new[count:] = False

    @property
    def left_out(self) -> int:
        """Photographs of `leave_out`."""
        return int(self._is_left_out.sum())

    def leave_out(self, is_left_out: Callable[[str], bool], *, keeps_place: bool = True) -> list[str]:
        """Leave new photographs out by their paths, and return these. With their place, splits are cut into chunks, and
        copies are marked, as if they were there: taking them out later gives the same dataset."""
        left_out = []
        for row, path in enumerate(itertools.chain.from_iterable(self._path_batches())):
            if self._is_new[row] and is_left_out(path):
                self._is_left_out[row], self._is_new[row] = True, keeps_place
                left_out.append(path)
        return left_out

    def set_known(self, known: pa.Table) -> None:
        """Photographs that the dataset accounts for already are not new.

        ``known``: columns ``path`` and ``bytes`` of photos.parquet, for a repair also those that decide its items.
        Attributes in it count, whatever a list has. Raises SourceError if a photograph is outside the folder that the
        paths of the dataset are below.
        """
        lookup = PathLookup(known["path"])
        votes = self._votes(lookup, max(1, len(self) // _VOTERS)) or self._votes(lookup, 1)
        if votes:
            self.root = max(sorted(votes), key=votes.__getitem__)
            self._refuse_outside()
        self._known = known
        self._known_row = np.concatenate([lookup.rows(paths) for paths in self._path_batches()])
        self._is_new &= self._known_row < 0
        if names := attribute_schema(known.schema).names:
            self.attributes, self._attributes_row = known.select(names), self._known_row

    def _votes(self, known: PathLookup, step: int) -> Counter[bytes]:
        """Folders below which every step-th photograph has a known path, with the number of such photographs."""
        votes: Counter[bytes] = Counter()
        for names in self._name_batches(step):
            pairs = [(folder, readable_path(name[len(folder) :])) for name in names for folder in _folders(name)]
            are_known = known.rows([path for _, path in pairs]) >= 0
            votes.update(folder for (folder, _), is_known in zip(pairs, are_known, strict=True) if is_known)
        return votes

    def _refuse_outside(self) -> None:
        outside = next((name for name in self.names() if not name.startswith(self.root)), None)
        if outside is not None:
            raise SourceError(
                f"{shown(readable_path(outside))} is outside {shown(readable_path(self.root))}, the folder that the "
                f"first prep fixed.\nPrepare it into another OUT, or add --force to delete this one and prepare again."
            )

    def changed(self) -> tuple[str, int, int] | None:
        """Path, size then and size now of the first known photograph whose size has changed."""
        known = np.flatnonzero(self._known_row >= 0)
        then, now = self._known["bytes"].to_numpy()[self._known_row[known]], self._entries["size"].to_numpy()[known]
        for i in np.flatnonzero((now > 0) & (now != then))[:1]:
            return self._known["path"][int(self._known_row[known[i]])].as_py(), int(then[i]), int(now[i])
        return None

    def missing(self) -> tuple[int, str]:
        """Number of known photographs that the source no longer has, and the first of them."""
        is_missing = np.ones(len(self._known), bool)
        is_missing[self._known_row[self._known_row >= 0]] = False
        paths = self._known["path"].take(int64_array(np.flatnonzero(is_missing))).to_pylist()
        return len(paths), min(paths, default="")

    def split_by(self, split_of: Callable[[bytes, str], str], by_identity: bool = False) -> None:
        """Give every new photograph its split, by its path and the source's part; raises as ``split_of`` does.

        ``by_identity``: by its person in place of its path, where that is known.
        """
        numbers = {split: number for number, split in enumerate(SPLITS)}
        for photo in self._photos(np.flatnonzero(self._is_new), ""):
            key = photo.identity.encode() if by_identity and photo.identity else photo.path
            self._split[photo.row] = numbers[split_of(key, photo.entry.part)]

    def set_attributes(self, attributes: AttributeList, skips_missing: bool = False) -> tuple[int, str]:
        """Set the photographs' attributes, which a list has by their path or else by their file name or key.

        Returns:
            The number of new photographs without attributes, and the first. If there are some, nothing is set; or
            these are left out, but keep their place.
        """
        row = rows_listed(attributes, self._name_batches(), len(self.root))
        missing = np.flatnonzero(self._is_new & ~self._is_left_out & (row < 0))
        self._is_left_out[missing] |= skips_missing
        if skips_missing or not len(missing):
            self.attributes, self._attributes_row = attributes.values, row
        return len(missing), readable_path(self._names[int(missing[0])].as_py()) if len(missing) else ""

    def relabelled(self, known: pa.Table) -> str:
        """The first photograph that the dataset kept with other attributes, if there is one; else an empty string.

        ``known``: ``reason`` and the attributes of the photographs in the dataset, as in `set_known`.
        """
        rows = np.flatnonzero((self._known_row >= 0) & (self._attributes_row >= 0))
        mine, theirs, differs = self._attributes_row[rows], self._known_row[rows], np.zeros(len(rows), bool)
        for name in self.attributes.column_names:
            differs |= self.attributes[name].to_numpy()[mine] != known[name].to_numpy()[theirs]
        reasons = known["reason"].take(int64_array(theirs[differs])).to_pylist()
        kept = (row for row, reason in zip(rows[differs].tolist(), reasons, strict=True) if not reason)
        return next((readable_path(self._names[row].as_py()[len(self.root) :]) for row in kept), "")

    def attributes_of(self, photos: Iterable[IndexedPhoto]) -> pa.Table:
        rows = self._attributes_row[[photo.row for photo in photos]]
        return self.attributes.take(int64_array(rows)) if self.attributes.column_names else self.attributes

    def set_listed(self, column: str, rows: Iterable[tuple[bytes, str]]) -> str:
        """Set the source's ``part`` of the photographs, or their ``identity`` ("": nobody known), by path or file name.

        Returns the first new photograph that the list lacks, and then sets nothing; else an empty string.
        """
        by_file, below = dict(rows), len(self.root)
        found = [by_file.get(name[below:], by_file.get(posixpath.basename(name))) for name in self.names()]
        for row in np.flatnonzero(self._is_new & ~self._is_left_out).tolist():
            if found[row] is None:
                return readable_path(self._names[row].as_py())
        self._entries[column] = pa.array(found, pa.string())
        return ""

    def mark_duplicates(self, digests: np.ndarray, known: Iterable[bytes | None]) -> int:
        """Mark new photographs with the bytes of another one: in the dataset, or with a smaller name and not left out.

        Args:
            digests: [photographs, 32] uint8, the SHA-256 of each new photograph; zeros where it is unknown.
            known: SHA-256 of each photograph in the dataset; None where it is unknown or itself a duplicate.

        Returns their number.
        """
        rows = np.flatnonzero(self._is_new & digests.any(axis=1))
        rows = rows[np.argsort(self._is_left_out[rows], kind="stable")]  # a copy of one that is left out may be kept
        values = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(rows), [None, pa.py_buffer(digests[rows])])
        numbers = values.dictionary_encode().indices.to_numpy()
        first = rows[np.unique(numbers, return_index=True)[1][numbers]]
        found = pc.call_function("index_in", [values], pc.SetLookupOptions(pa.array(known, pa.binary(32))))
        of_known = found.fill_null(-1).to_numpy()
        of = np.where(of_known >= 0, len(self) + of_known, np.where(first == rows, -1, first))
        self._duplicate_of[rows] = of
        return int((of >= 0).sum())

    def photos(
        self, split: str, first: int = 0, count: int | None = None, *, with_left_out: bool = False
    ) -> Iterator[IndexedPhoto]:
        """New photographs of a split from a row on, sorted by name."""
        is_wanted = self._is_new if with_left_out else self._is_new & ~self._is_left_out
        rows = first + np.flatnonzero(is_wanted[first:] & (self._split[first:] == SPLITS.index(split)))
        return self._photos(rows[:count], split)

    def sample(self, count: int) -> Iterator[IndexedPhoto]:
        """New photographs, no duplicates, evenly spaced by name."""
        rows = np.flatnonzero(self._is_new & (self._duplicate_of < 0))
        count = min(count, len(rows))
        return self._photos(rows[np.arange(count) * len(rows) // max(1, count)], "")

    def missing_for_repair(self, first: int, count: int) -> str:
        """The first of these known photographs that the source no longer has, or an empty string."""
        missing = np.flatnonzero(self._rows_of_known(first, count) < 0)
        return self._known["path"][first + int(missing[0])].as_py() if len(missing) else ""

    def photos_for_repair(self, split: str, first: int, count: int) -> Iterator[IndexedPhoto]:
        """Known photographs in the order of the dataset's table, all of which the source has."""
        known = self._known.slice(first, count).select(["reason", "duplicate_of", "identity"]).to_pylist()
        for photo, row in zip(self._photos(self._rows_of_known(first, count), split), known, strict=True):
            reason = row["reason"] if row["reason"] in ("duplicate", "near_duplicate") else ""
            yield photo._replace(identity=row["identity"], reason=reason, duplicate_of=row["duplicate_of"])

    def _rows_of_known(self, first: int, count: int) -> np.ndarray:
        """Rows in this index of rows in the dataset's table; −1 where the source has none."""
        rows = np.full(count, -1, np.int64)
        found = np.flatnonzero((self._known_row >= first) & (self._known_row < first + count))
        rows[self._known_row[found] - first] = found
        return rows

    def _photos(self, rows: np.ndarray, split: str) -> Iterator[IndexedPhoto]:
        for start in range(0, len(rows), _BATCH):
            some = rows[start : start + _BATCH]
            columns = {name: column.take(int64_array(some)).to_pylist() for name, column in self._entries.items()}
            others = (columns.get(name, itertools.repeat(None, len(some))) for name in _OTHERS)
            attributes = json_values(self.attributes, self._attributes_row[some].clip(0))
            states = attributes, self._is_left_out[some].tolist(), self._duplicate_of[some].tolist()
            fields = zip(some.tolist(), columns["name"], columns["size"], *others, *states, strict=True)
            for row, name, size, locator, label, part, person, values, is_left_out, of in fields:
                entry = Entry(name, size, tuple(locator or ()), label or 0, part or "")
                path = name[len(self.root) :]
                photo = IndexedPhoto(row, path, entry, split, values, person or "", is_left_out)
                yield photo if of < 0 else photo._replace(reason="duplicate", duplicate_of=self._path(of))

    def _path(self, number: int) -> str:
        """In the dataset, of a row here or, from the number of rows on, of one in its table."""
        if number < len(self):
            return readable_path(self._names[number].as_py()[len(self.root) :])
        return self._known["path"][number - len(self)].as_py()


class PathLookup:
    """Finds rows by path.

    It holds 16 bytes per path, with a hash of 64 bits: two of a million paths share one in one of 20 million runs.
    """

    def __init__(self, paths: pa.ChunkedArray) -> None:
        """Text or bytes. Of equal ones the last counts."""
        texts = (path for chunk in paths.chunks for path in chunk.to_pylist())
        hashes = np.fromiter(map(hash, texts), np.int64, len(paths))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def rows(self, paths: Sequence[str | bytes]) -> np.ndarray:
        """int64; −1 where there is none."""
        hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
        if not len(self._hashes):
            return np.full(len(paths), -1)
        at = np.maximum(np.searchsorted(self._hashes, hashes, "right") - 1, 0)
        return np.where(self._hashes[at] == hashes, self._order[at], -1)


def rows_listed(attributes: AttributeList, batches: Iterable[Sequence[bytes]], below: int = 0) -> np.ndarray:
    """The row in a list of each photograph, by its path or else its file name or key; −1 if it has none.

    ``below``: bytes of the photographs' names before their paths.
    """
    lookup, rows = PathLookup(pa.chunked_array([attributes.photos])), list[np.ndarray]()
    for names in batches:
        found = lookup.rows([name[below:] for name in names])
        for of in (bytes, posixpath.basename, lambda name: sample_key(name[below:]).encode()):
            if len(left := np.flatnonzero(found < 0)):
                found[left] = lookup.rows([of(names[row]) for row in left.tolist()])
        rows.append(found)
    return np.concatenate(rows)


def _sorted_entries(source: Source, ignored: Ignored) -> dict[str, pa.Array]:
    """Columns of the fields of `Entry`, but for those of `_OF_ENTRY` that no photograph has."""
    # Buffers that grow take half of what Arrow's builders and the merging of their arrays take.
    names, ends, sizes = bytearray(), array("q", [0]), array("q")
    others: dict[str, list[pa.Array]] = {name: [] for name in _OF_ENTRY}
    entries = listed(source, ignored)
    while batch := list(itertools.islice(entries, _BATCH)):
        columns = dict(zip(Entry._fields, zip(*batch, strict=True), strict=True))
        names += b"".join(columns["name"])
        ends.extend(itertools.accumulate(map(len, columns["name"]), initial=ends.pop()))
        sizes.extend(columns["size"])
        for name, column_type in _OF_ENTRY.items():
            is_used = any(columns[name])
            others[name].append(pa.array(columns[name], column_type) if is_used else pa.nulls(len(batch)))
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(names)]
    unsorted = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(sizes), buffers)
    order = pc.call_function("array_sort_indices", [unsorted])  # stable
    found = {"name": unsorted.take(order), "size": int64_array(np.frombuffer(sizes, np.int64)).take(order)}
    for name, column_type in _OF_ENTRY.items():
        if any(chunk.type == column_type for chunk in others[name]):
            column = pa.chunked_array([chunk.cast(column_type) for chunk in others.pop(name)]).combine_chunks()
            found[name] = column.take(order)
    if len(order) < 2:
        return found
    repeated = pc.call_function("equal", [found["name"][:-1], found["name"][1:]]).cast(pa.uint8())
    repeats = np.flatnonzero(np.frombuffer(repeated.buffers()[1], np.uint8, len(repeated)))
    if not len(repeats):
        return found
    if isinstance(source, MultiSource):
        for row in repeats.tolist():
            first, last = (source.members[found["locator"][at][0].as_py()] for at in (row, row + 1))
            if first is not last:
                raise SourceError(
                    f"{shown(readable_path(found['name'][row].as_py()))} is in {first.where} and in {last.where}.\n"
                    "Prepare them into two datasets: names must differ within one."
                )
    is_last = np.ones(len(order), bool)
    is_last[repeats] = False
    return {name: column.filter(pa.array(is_last)) for name, column in found.items()}


def _folders(name: bytes) -> Iterator[bytes]:
    """The folders of a file from the top (empty) down, each with its final slash."""
    at = 0
    while True:
        yield name[:at]
        at = name.find(b"/", at) + 1
        if not at:
            return
