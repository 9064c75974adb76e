"""Sources: a folder, a tar and a zip of the same photographs list and read alike."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from facegan.errors import SourceError
from facegan.prep.inspect import read_original
from facegan.prep.prepare import prepare
from facegan.prep.sources import open_source
from facegan.shards.format import DatasetInfo
from tests.prep.fake import TINY, photo
from tests.prep.listing import FILES, PHOTOS, Listing, as_members, make_tar, read_all
from tests.recording import RecordingConsole


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "[photos] {a,b}*"  # no pattern, because it exists
    for name, data in FILES.items():
        path = top / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top


def test_folder_is_listed_whole_and_sorted(folder: Path) -> None:
    listing = Listing(folder)
    assert [(entry.name, entry.size) for entry in listing.entries] == [(name, len(FILES[name])) for name in PHOTOS]
    assert dict(listing.ignored) == {".txt": 1, "._": 1}


def test_tar_and_zip_read_as_their_folder(folder: Path, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "photos.tar", as_members()[::-1])
    assert read_all(tar) == read_all(folder)
    assert Listing(tar).ignored == Listing(folder).ignored
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i, (name, data) in enumerate(FILES.items()):
            archive.writestr("XYZVW"[i] * len(name), data)
    # Other programs write raw bytes as names, without the flag for UTF-8.
    raw = path.read_bytes()
    for i, name in enumerate(FILES):
        raw = raw.replace(b"XYZVW"[i : i + 1] * len(name), name)
    path.write_bytes(raw)
    assert read_all(path) == read_all(folder)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_every_compression_of_a_zip(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", method) as archive:
        archive.writestr("Zoë/猫.jpg", b"abc" * 1000)
    assert read_all(tmp_path / "x.zip") == {"Zoë/猫.jpg".encode(): b"abc" * 1000}


def damaged_archive(path: Path, how: str) -> Path:
    members = [("1.jpg", b"a" * 3000), ("2.jpg", b"b" * 3000)]
    if path.suffix == ".tar":
        make_tar(path, members)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for member in members:
                archive.writestr(*member)
    data = bytearray(path.read_bytes())
    if how == "name":
        data[3584 + 5] ^= 1  # of the second member: its header's checksum is wrong
    if how == "size":
        header = bytearray(tarfile.TarInfo("bad.jpg").tobuf(tarfile.USTAR_FORMAT))
        header[124:136] = b"-0000001000\0"
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data[3584:] = header + bytes(1024)
    path.write_bytes({"bytes": b"\x01" * 2000, "cut": data[: len(data) // 3]}.get(how, data))
    return path


@pytest.mark.parametrize("name", ["bytes.tar", "bytes.zip", "cut.tar", "cut.zip", "name.tar", "size.tar"])
def test_damaged_archives_are_errors(tmp_path: Path, name: str) -> None:
    path = damaged_archive(tmp_path / name, name[:-4])
    with pytest.raises(SourceError, match=rf"{name} is damaged"):
        Listing(path)


def test_links_inside_tars_are_resolved(folder: Path, tmp_path: Path) -> None:
    os.link(folder / "a" / "1.jpg", folder / "a" / "hard.jpg")
    (folder / "a" / "b" / "soft.jpg").symlink_to("../1.jpg")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        tar.add(folder, ".")
    assert read_all(tmp_path / "photos.tar") == read_all(folder)
    assert len(read_all(folder)) == 5
    with tarfile.open(tmp_path / "photos.tar", "a") as tar:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("device.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    listing = Listing(tmp_path / "photos.tar")
    assert len(listing.entries) == 5
    assert (listing.ignored["link"], listing.ignored["special"]) == (1, 1)


def test_folder_links_count_as_targets(folder: Path, tmp_path: Path) -> None:
    """Under their own names, such as a subset made by ``ln -s`` or a snapshot in a Hugging Face cache."""
    outside = tmp_path / "blobs"
    (outside / "deep").mkdir(parents=True)
    (outside / "0a1b2c").write_bytes(b"by its link's suffix")
    (outside / "deep" / "2.jpg").write_bytes(b"deep")
    (folder / "z_out.jpg").symlink_to("../blobs/0a1b2c")
    (folder / "z_again.jpg").symlink_to("z_out.jpg")
    (folder / "z_in.jpg").symlink_to(folder / "a" / "1.jpg")
    (folder / "z_text").symlink_to(folder / "a" / "1.jpg")
    (folder / "z_folder").symlink_to(outside)
    listing = Listing(folder)
    linked = [b"z_again.jpg", b"z_folder/deep/2.jpg", b"z_in.jpg", b"z_out.jpg"]
    assert [entry.name for entry in listing.entries] == [*PHOTOS, *linked]
    assert [entry.size for entry in listing.entries[3:]] == [20, 4, 3, 20]
    assert listing.read()[b"z_out.jpg"] == b"by its link's suffix"
    assert dict(listing.ignored) == {".txt": 1, "._": 1, "(none)": 2}


def test_looping_and_broken_links_are_counted(folder: Path, tmp_path: Path) -> None:
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "a" / "gone").symlink_to("nowhere")
    (folder / "here").symlink_to(".")
    (folder / "a" / "b" / "up").symlink_to("../..")
    (folder / "parent").symlink_to(tmp_path)
    other = tmp_path.parent / f"other-{tmp_path.name}"
    other.mkdir()
    (other / "1.jpg").write_bytes(b"x")
    (other / "back").symlink_to(folder)
    (folder / "a" / "other").symlink_to(other)
    listing = Listing(folder)
    assert [entry.name for entry in listing.entries] == [*PHOTOS, b"a/other/1.jpg"]
    assert dict(listing.ignored) == {".txt": 1, "._": 1, "broken link": 2, "looping link": 4}


def test_multiplying_links_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two links a level without a loop: 2^20 folders."""
    monkeypatch.setattr("facegan.files._MAX_LINKED_FOLDERS", 50)
    for level in range(20):
        (tmp_path / str(level)).mkdir()
        for name in "ab":
            (tmp_path / str(level) / name).symlink_to(f"../{level + 1}")
    (tmp_path / "20").mkdir()
    with pytest.raises(SourceError, match="has links to more than 50 folders"):
        Listing(tmp_path / "0")


def test_datasets_inside_a_source_are_ignored(folder: Path) -> None:
    other = folder / "a" / "faces"
    other.mkdir()
    for name in ("dataset.json", "photos.parquet", "preview.png"):
        (other / name).write_bytes(b"x")
    assert [entry.name for entry in Listing(folder).entries] == PHOTOS
    (other / "dataset.json").unlink()  # an unfinished one is left out by its name
    assert [entry.name for entry in Listing(folder, leave_out=other).entries] == PHOTOS


def test_missing_source_and_pipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(SourceError, match="Did you mean 'photos'"):
        open_source(str(tmp_path / "photo"))
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(SourceError, match="unknown format"):
        open_source(str(tmp_path / "x.tar"))


def test_broken_and_refused_links_are_reported(tmp_path: Path) -> None:
    photos, config, console = tmp_path / "photos", TINY, RecordingConsole()
    for folder in (photos, tmp_path / "blobs", tmp_path / "plain"):
        folder.mkdir()
    for i in range(3):
        for path in (tmp_path / "blobs" / str(i), tmp_path / "plain" / f"{i}.jpg"):
            path.write_bytes(photo(40, 40, seed=i))
        (photos / f"{i}.jpg").symlink_to(f"../blobs/{i}")
    for name in ("lost.jpg", "x\n.jpg"):
        (photos / name).symlink_to("nowhere")
    assert prepare(photos, tmp_path / "out", config, workers=0, console=console).ignored == {"broken link": 2}
    assert console.warnings == [r"Ignored broken links: 2 (first: lost.jpg, x\n.jpg)."]
    prepare(tmp_path / "plain", tmp_path / "left-out", config, workers=0, follow_links=False)
    one, other = (DatasetInfo.read(tmp_path / out) for out in ("out", "left-out"))
    assert (one.settings, one.shards) == (other.settings, other.shards)
    assert read_original(tmp_path / "out", "1.jpg") == photo(40, 40, seed=1)
    with pytest.raises(SourceError, match="no photographs, only 5 link"):
        prepare(photos, tmp_path / "none", config, workers=0, follow_links=False)


def test_eval_and_recipes_follow_links(tmp_path: Path) -> None:
    """Recipes notice that a linked photograph changed; eval measures linked images."""
    from facegan.evaluate.target import image_files
    from facegan.recipes.recipe import fingerprint

    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1.png").write_bytes(b"one")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "folder").symlink_to("../blobs")
    (tmp_path / "photos" / "loop").symlink_to(".")
    (tmp_path / "photos" / ".hidden").symlink_to("../blobs")
    before = fingerprint(str(tmp_path / "photos"))
    assert image_files(tmp_path / "photos") == [tmp_path / "photos/folder/1.png"]
    (tmp_path / "blobs" / "1.png").write_bytes(b"longer")
    assert fingerprint(str(tmp_path / "photos")) != before
