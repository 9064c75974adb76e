"""The photo index answers as sorted lists and dictionaries would."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facegan.errors import SourceError
from facegan.prep.photo_index import EntryBuffer, PhotoIndex
from facegan.prep.sources.base import Entry, MultiSource, Reader, Source, common_folder
from facegan.shards.format import readable_path
from facegan.shards.photos import Fingerprint

NAMES = st.one_of(st.binary(min_size=1, max_size=9), st.text("ab/é", min_size=1, max_size=9).map(str.encode))
LOCATORS = st.lists(st.integers(0, 2**62), max_size=3).map(tuple)
PARTS = st.sampled_from(["", "train", "test"])
ENTRIES = st.lists(st.builds(Entry, NAMES, st.integers(0, 2**62), LOCATORS, st.integers(0, 2**31), PARTS), max_size=20)
SETTINGS = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@dataclass(frozen=True)
class ListSource(Source):
    entries: tuple[Entry, ...]
    where: str = "a list"

    def photos(self, ignored: Counter[str]) -> Iterator[Entry]:
        yield from self.entries

    def digests(self) -> tuple[str, ...]:
        return ()

    def unpacked(self, folder: Path) -> ListSource:
        return self

    def reader(self) -> Reader:
        raise NotImplementedError


def open_index(*entries: Entry) -> contextlib.closing[PhotoIndex]:
    return contextlib.closing(PhotoIndex(ListSource(entries)))


def paths(index: PhotoIndex, split: str = "train") -> list[bytes]:
    return [photo.path for photo in index.photos(split)]


@SETTINGS
@given(entries=ENTRIES, plain=st.booleans(), at_once=st.integers(1, 25))
def test_entries_come_back_sorted_and_unique(
    entries: list[Entry], plain: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain entries, as a folder has them, are stored without locators, labels and parts."""
    monkeypatch.setattr(EntryBuffer, "_AT_ONCE", at_once)
    entries = [Entry(entry.name, entry.size) for entry in entries] if plain else entries
    last = {entry.name: entry for entry in entries}
    names = sorted(last)
    root = common_folder(names[0], names[-1]) if names else b""
    fingerprint = Fingerprint()
    fingerprint.add_photos((readable_path(entry.name[len(root) :]), entry.size) for entry in entries)
    with open_index(*entries) as index:
        assert index.matches(len(entries), str(fingerprint))
        assert not index.matches(len(entries) + 1, str(fingerprint))
        index.set_root(existing=False)
        assert (index.root, len(index), list(index.names())) == (root, len(last), names)
        index.split_by(lambda path, part: part or "train")
        found = [photo.entry for split in ("test", "train") for photo in index.photos(split)]
        assert sorted(found) == sorted(last.values())


def test_existing_photographs_are_not_new() -> None:
    """A deeper folder than the common one was fixed before; sizes of 0 are unknown."""
    entries = (Entry(b"x/a/1.jpg", 10), Entry(b"x/a/2.jpg", 21), Entry(b"x/a/3.jpg", 0), Entry(b"x/a/b/4.jpg", 40))
    with open_index(*entries) as index:
        index.add_existing([("1.jpg", 10, ""), ("2.jpg", 20, ""), ("3.jpg", 30, ""), ("gone.jpg", 1, "")])
        index.set_root(existing=True)
        index.exclude_existing()
        index.split_by(lambda path, part: "train")
        assert (index.root, paths(index)) == (b"x/a/", [b"b/4.jpg"])
        assert index.changed() == ("2.jpg", 20, 21)
        assert index.missing() == (1, "gone.jpg")


def test_photograph_outside_the_root_is_refused() -> None:
    with open_index(Entry(b"a/1.jpg", 1), Entry(b"z.jpg", 1)) as index:
        index.add_existing([("1.jpg", 1, "")])
        with pytest.raises(SourceError, match=r"z\.jpg is outside a/"):
            index.set_root(existing=True)


def test_limit_takes_first_names() -> None:
    with open_index(*(Entry(b"%d.jpg" % i, 1) for i in (3, 1, 2))) as index:
        index.sort(limit=2)
        index.split_by(lambda path, part: "train")
        assert paths(index) == [b"1.jpg", b"2.jpg"]


def test_name_in_two_archives_is_refused() -> None:
    members = (
        ListSource((Entry(b"1.jpg", 1), Entry(b"1.jpg", 2)), "a.zip"),
        ListSource((Entry(b"1.jpg", 1),), "b.zip"),
    )
    with (
        contextlib.closing(PhotoIndex(MultiSource("*.zip", members))) as index,
        pytest.raises(SourceError, match=r"1\.jpg is in a\.zip and in b\.zip"),
    ):
        index.sort()


def test_first_of_equal_bytes_stays() -> None:
    with open_index(*(Entry(b"%d.jpg" % i, 1) for i in range(5))) as index:
        index.sort()
        index.split_by(lambda path, part: "train")
        index.add_existing([("old.jpg", 1, "A")])
        index.set_checksums([(b"4.jpg", "B"), (b"3.jpg", "B"), (b"2.jpg", ""), (b"1.jpg", ""), (b"0.jpg", "A")])
        assert index.mark_duplicates() == 2
        assert [photo.path for photo in index.photos("train") if photo.is_duplicate] == [b"0.jpg", b"4.jpg"]


def test_repair_selects_in_old_order() -> None:
    with open_index(*(Entry(b"a/%d.jpg" % i, i) for i in range(4))) as index:
        index.add_existing([(f"{i}.jpg", i, "") for i in range(4)])
        index.set_root(existing=True)
        assert index.select_for_repair(7, [("2.jpg", False), ("0.jpg", True)]) == ""
        found = [(photo.path, photo.split, photo.is_duplicate) for photo in index.photos_for_repair(7, "val")]
        assert found == [(b"2.jpg", "val", False), (b"0.jpg", "val", True)]
        assert index.select_for_repair(8, [("1.jpg", False), ("9.jpg", False)]) == "9.jpg"
