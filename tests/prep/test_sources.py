"""Sources: a folder, a tar and a zip of the same photographs list and read alike."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facegan.errors import SourceError
from facegan.prep.sources import common_folder, open_source

FILES = {
    b"a/1.jpg": b"one",
    b"a/b/2.PNG": b"two!",
    b"a/caf\xe9.webp": b"three",
    b"a/notes.txt": b"x",
    b"a/._1.jpg": b"y",
}
PHOTOS = [b"a/1.jpg", b"a/b/2.PNG", b"a/caf\xe9.webp"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    top = tmp_path / "photos"
    for name, data in FILES.items():
        path = top / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top


def make_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def as_members() -> list[tuple[str, bytes]]:
    return [(os.fsdecode(name), data) for name, data in FILES.items()]


def read_all(path: Path) -> dict[bytes, bytes]:
    source = open_source(path)
    reader = source.reader()
    contents = {entry.name: reader.read(entry) for entry in source.list().entries}
    reader.close()
    return contents


def test_a_folder_is_listed_whole_and_sorted(folder: Path) -> None:
    listing = open_source(folder).list()
    assert [(entry.name, entry.size) for entry in listing.entries] == [(name, len(FILES[name])) for name in PHOTOS]
    assert dict(listing.ignored) == {".txt": 1, "._": 1}


def test_a_tar_reads_as_its_folder(folder: Path, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "photos.tar", as_members()[::-1])
    assert read_all(tar) == read_all(folder)
    assert open_source(tar).list().ignored == open_source(folder).list().ignored


def test_a_zip_reads_as_its_folder(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            if name.isascii():
                archive.writestr(name.decode(), data)
    expected = {name: data for name, data in read_all(folder).items() if name.isascii()}
    assert read_all(path) == expected


def test_names_that_lead_out_or_stand_twice_do_no_harm(tmp_path: Path) -> None:
    tar = make_tar(
        tmp_path / "x.tar", [("/etc/1.jpg", b"a"), ("./2.jpg", b"b"), ("../3.jpg", b"c"), ("2.jpg", b"later")]
    )
    assert read_all(tar) == {b"etc/1.jpg": b"a", b"2.jpg": b"later", b"../3.jpg": b"c"}


def test_links_and_devices_in_a_tar_are_not_followed(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", [("1.jpg", b"a")])
    with tarfile.open(path, "a") as tar:
        for name, kind in (("link.jpg", tarfile.SYMTYPE), ("device.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    listing = open_source(path).list()
    assert [entry.name for entry in listing.entries] == [b"1.jpg"]
    assert dict(listing.ignored) == {"link": 1, "special": 1}


def test_links_out_of_a_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(b"secret")
    (folder / "z_out.jpg").symlink_to(outside / "secret.jpg")
    (folder / "z_in.jpg").symlink_to(folder / "a" / "1.jpg")
    (folder / "z_folder").symlink_to(outside)
    listing = open_source(folder).list()
    assert [entry.name for entry in listing.entries] == [*PHOTOS, b"z_in.jpg"]
    assert listing.ignored["link"] == 2


def test_the_dataset_inside_a_source_is_left_out(folder: Path) -> None:
    out = folder / "a" / "out"
    out.mkdir()
    (out / "preview.png").write_bytes(b"not a photograph of the source")
    assert [entry.name for entry in open_source(folder, leave_out=out).list().entries] == PHOTOS


@pytest.mark.parametrize("name", ["broken.tar", "broken.zip"])
def test_a_broken_archive_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x01" * 2000)
    with pytest.raises(SourceError, match="is no whole"):
        open_source(tmp_path / name).list()


def test_a_tar_cut_short_says_so(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", [("1.jpg", b"a" * 3000), ("2.jpg", b"b" * 3000)])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(SourceError, match="is no whole tar archive"):
        open_source(path).list()


def test_what_is_not_there_suggests_what_is(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(SourceError, match="Did you mean 'photos'"):
        open_source(tmp_path / "photo")
    (tmp_path / "x.rar").write_bytes(b"x")
    with pytest.raises(SourceError, match="no source that facegan reads"):
        open_source(tmp_path / "x.rar")


@given(st.lists(st.text("ab/", min_size=1, max_size=8).filter(lambda t: "//" not in t and t[0] != "/"), min_size=1))
def test_the_common_folder_is_the_deepest_one(names: list[str]) -> None:
    files = sorted({(name + "x.jpg").encode() for name in names})
    folder = common_folder(files)
    assert all(name.startswith(folder) for name in files)
    deeper = {name[len(folder) :].partition(b"/")[0] for name in files}
    assert len(deeper) > 1 or b"/" not in files[0][len(folder) :]
