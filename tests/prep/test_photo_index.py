"""The photo index answers as sorted lists and dictionaries would."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facegan.errors import SourceError
from facegan.prep import photo_index
from facegan.prep.attributes import AttributeList
from facegan.prep.photo_index import PhotoIndex
from facegan.prep.sources.base import Entry, MultiSource, Reader, Source, common_folder
from facegan.shards.format import readable_path
from facegan.shards.photos import Fingerprint

NAMES = st.one_of(st.binary(min_size=1, max_size=9), st.text("ab/é", min_size=1, max_size=9).map(str.encode))
LOCATORS = st.lists(st.integers(0, 2**62), max_size=3).map(tuple)
PARTS = st.sampled_from(["", "train", "test"])
ENTRIES = st.lists(st.builds(Entry, NAMES, st.integers(0, 2**62), LOCATORS, st.integers(0, 2**31), PARTS), max_size=20)


@dataclass(frozen=True)
class ListSource(Source):
    entries: tuple[Entry, ...]

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        yield from self.entries

    def reader(self) -> Reader:
        raise NotImplementedError


def make_index(*entries: Entry) -> PhotoIndex:
    return PhotoIndex(ListSource("a list", entries))


def known(*rows: tuple[str, int]) -> pa.Table:
    paths, sizes = zip(*rows, strict=True)
    reasons = ["duplicate" if path == "0.jpg" else "" for path in paths]
    of = ["9.jpg" if reason else "" for reason in reasons]
    return pa.table({"path": paths, "bytes": sizes, "reason": reasons, "duplicate_of": of, "identity": paths})


def paths(index: PhotoIndex, split: str = "train") -> list[bytes]:
    return [photo.path for photo in index.photos(split)]


@given(entries=ENTRIES, batch=st.integers(1, 25))
@settings(deadline=None, max_examples=60)
def test_entries_are_sorted_and_unique(entries: list[Entry], batch: int) -> None:
    last = {entry.name: entry for entry in entries}
    names = sorted(last)
    root = common_folder(names[0], names[-1]) if names else b""
    fingerprint = Fingerprint()
    fingerprint.add((readable_path(name[len(root) :]) for name in names), (last[name].size for name in names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_index, "_BATCH", batch)
        index = make_index(*entries)
        assert (index.root, len(index), list(index.names())) == (root, len(last), names)
        assert index.matches(len(last), str(fingerprint))
        assert not index.matches(len(last) + 1, str(fingerprint))
        index.split_by(lambda path, part: part or "train")
        found = [photo for split in ("test", "train") for photo in index.photos(split)]
        assert sorted(photo.entry for photo in found) == sorted(last.values())
        assert all(names[photo.row] == root + photo.path for photo in found)


def test_known_photographs_are_not_new() -> None:
    """A deeper folder than the common one was fixed before; sizes of 0 are unknown."""
    index = make_index(
        Entry(b"x/a/1.jpg", 10), Entry(b"x/a/2.jpg", 21), Entry(b"x/a/3.jpg", 0), Entry(b"x/a/b/4.jpg", 40)
    )
    assert (index.changed(), index.missing()) == (None, (0, ""))
    index.set_known(known(("1.jpg", 10), ("2.jpg", 20), ("3.jpg", 30), ("gone.jpg", 1), ("lost.jpg", 1)))
    index.split_by(lambda path, part: "train")
    assert (index.root, paths(index)) == (b"x/a/", [b"b/4.jpg"])
    assert index.changed() == ("2.jpg", 20, 21)
    assert index.missing() == (2, "gone.jpg")


def test_photograph_outside_the_root_is_refused() -> None:
    with pytest.raises(SourceError, match=r"z\.jpg is outside a/"):
        make_index(Entry(b"a/1.jpg", 1), Entry(b"z.jpg", 1)).set_known(known(("1.jpg", 1)))


def test_name_in_two_archives_is_refused() -> None:
    members = (
        ListSource("a.zip", (Entry(b"1.jpg", 1), Entry(b"1.jpg", 2))),
        ListSource("b.zip", (Entry(b"1.jpg", 1),)),
    )
    with pytest.raises(SourceError, match=r"1\.jpg is in a\.zip and in b\.zip"):
        PhotoIndex(MultiSource("*.zip", members))


def test_first_of_equal_bytes_is_kept() -> None:
    index = make_index(*(Entry(b"%d.jpg" % i, 1) for i in range(6)))
    index.set_known(known(("first.jpg", 1), ("x.jpg", 1)))
    index.limit(5)
    index.split_by(lambda path, part: "train")
    digests = np.zeros((6, 32), np.uint8)
    digests[:, -1] = [1, 0, 0, 2, 2, 2]
    assert index.mark_duplicates(digests, [None, bytes(31) + b"\1"]) == 2
    found = {photo.path: photo.duplicate_of for photo in index.photos("train") if photo.reason == "duplicate"}
    assert found == {b"0.jpg": "x.jpg", b"4.jpg": "3.jpg"}


def test_repair_selects_in_old_order() -> None:
    index = make_index(*(Entry(b"a/%d.jpg" % i, i) for i in range(4)))
    index.set_known(known(("1.jpg", 1), ("2.jpg", 2), ("0.jpg", 0), ("9.jpg", 9)))
    assert index.missing_for_repair(1, 2) == ""
    found = [(photo.path, photo.split, photo.duplicate_of) for photo in index.photos_for_repair("val", 1, 2)]
    assert found == [(b"2.jpg", "val", ""), (b"0.jpg", "val", "9.jpg")]
    assert index.missing_for_repair(2, 2) == "9.jpg"


def test_last_attributes_of_a_name_count() -> None:
    index = make_index(*(Entry(b"a/%d.jpg" % i, i) for i in range(3)))
    index.split_by(lambda path, part: "train")

    def listed(text: str) -> AttributeList:
        return AttributeList.read("list.csv", io.BytesIO(f"image_id,Age,Bald\n{text}".encode()))

    assert index.set_attributes(listed("0.jpg,1,1\n")) == (2, "a/1.jpg")  # and nothing is set
    assert [photo.attributes for photo in index.photos("train")] == [(), (), ()]
    assert index.set_attributes(listed("0.jpg,1,1\n1,2,0\n0.jpg,4,0\n2.jpg,0,1\n")) == (0, "")
    assert [photo.attributes for photo in index.photos("train")] == [(4, -1), (2, -1), (0, 1)]
