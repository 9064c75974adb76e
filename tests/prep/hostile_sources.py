"""Malicious folders and archives."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

KEPT, UNREADABLE, TOO_LARGE = "", "unreadable", "too_large"

# Names that trouble some program, each for the same valid photograph.
NAMES = [
    b"with space.jpg", b"new\nline.jpg", b"tab\t.jpg", b"quote'\".jpg", "smile \N{GRINNING FACE}.jpg".encode(),
    "Zoe\N{COMBINING DIAERESIS}.jpg".encode(), "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS}.jpg".encode(),
    b"latin-1 caf\xe9.jpg", b"cut utf-8 \xf0\x9f.jpg", b"-rf.jpg", b"..jpg", b".jpg", b"...jpg", b"a\\b.jpg",
    b"%s %d.jpg", b"$(touch x).jpg", b"=2E.jpg", b"back\bspace.jpg", b"\x1b[31mred.jpg", b"\xef\xbb\xbfmark.jpg",
    b"same.jpg", b"Same.jpg", b"SAME.JPG", b"same.jpeg", b"same.png", b"same.png.jpg", b"same.jpg.jpg",
    b"f.jpg", b"f=f1.jpg", b"n" * 251 + b".jpg", b"m" * 160 + b"1.jpg", b"m" * 160 + b"2.jpg",
    b"folder.jpg/inside.jpg", b"deep/" * 60 + b"down.jpg",
]  # fmt: skip
IGNORED_NAMES = [b"notes.txt", b"._same.jpg", b"Thumbs.db", b"none", b"jpg", b"same.jpg~"]


def fill_folder(top: Path, photo: bytes, outside: Path) -> dict[bytes, str]:
    """Write the names above, links and special files into ``top``; returns the outcome of each photograph."""
    for name in [*NAMES, *IGNORED_NAMES]:
        path = top / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo)
    outside.mkdir()
    (outside / "secret.jpg").write_bytes(photo)
    (top / "inside link.jpg").symlink_to("same.jpg")
    (top / "link to a folder").symlink_to("deep")
    (top / "link out.jpg").symlink_to(outside / "secret.jpg")
    (top / "link up.jpg").symlink_to("../outside/secret.jpg")
    (top / "link no.jpg").symlink_to("none.jpg")
    (top / "circle.jpg").symlink_to("circle.jpg")
    (top / "outside").symlink_to(outside)
    os.mkfifo(top / "pipe.jpg")
    with (top / "hole.jpg").open("wb") as file:
        file.truncate(1 << 40)
    linked = [b"inside link.jpg", b"link out.jpg", b"outside/secret.jpg"]
    linked += [name.replace(b"deep", b"link to a folder", 1) for name in NAMES if name.startswith(b"deep/")]
    return dict.fromkeys([*NAMES, *linked], KEPT) | {b"hole.jpg": TOO_LARGE}


def make_tar(path: Path, photo: bytes) -> dict[bytes, str]:
    """A tar of members with outside names, links and false sizes."""
    outcomes: dict[bytes, str] = {}
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:

        def add(name: bytes, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> None:
            info = tarfile.TarInfo(os.fsdecode(name))
            info.size, info.type, info.linkname, info.mtime = len(data), kind, link, 2.5
            tar.addfile(info, io.BytesIO(data))

        for name in NAMES:
            add(b"names/" + name, photo)
            outcomes[b"names/" + name] = KEPT
        for name, stored in [(b"/etc/cron.d/evil.jpg", b"etc/cron.d/evil.jpg"), (b"./dot.jpg", b"dot.jpg"),
                             (b"../../up.jpg", b"../../up.jpg"), (b"a/../../b.jpg", b"a/../../b.jpg")]:  # fmt: skip
            add(name, photo)
            outcomes[stored] = KEPT
        add(b"twice.jpg", b"the earlier one")
        add(b"twice.jpg", photo)
        add(b"hard.jpg", kind=tarfile.LNKTYPE, link="twice.jpg")
        add(b"soft.jpg", kind=tarfile.SYMTYPE, link="./names/../twice.jpg")
        outcomes |= dict.fromkeys([b"twice.jpg", b"hard.jpg", b"soft.jpg"], KEPT)
        add(b"passwd.jpg", kind=tarfile.SYMTYPE, link="/etc/passwd")
        add(b"up.jpg", kind=tarfile.SYMTYPE, link="../../../../etc/passwd")
        add(b"circle.jpg", kind=tarfile.SYMTYPE, link="circle.jpg")
        add(b"device.jpg", kind=tarfile.CHRTYPE)
        add(b"disk.jpg", kind=tarfile.BLKTYPE)
        add(b"fifo.jpg", kind=tarfile.FIFOTYPE)
        add(b"a folder.jpg", kind=tarfile.DIRTYPE)
        add(b"inner.tar", bytes(10240))
    data = path.read_bytes()
    end = data.rindex(b"inner.tar") + 512 + 10240  # of the last member
    path.write_bytes(data[:end] + _sparse_member(b"sparse.jpg", photo) + bytes(1024))
    return outcomes


def _sparse_member(name: bytes, data: bytes) -> bytes:
    """An old GNU sparse member (type S) of 8 GiB: some data, then a hole."""
    info = tarfile.TarInfo(os.fsdecode(name))
    info.size = len(data)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[386:410] = b"%011o\0%011o\0" % (0, len(data))
    header[483:495] = b"%011o\0" % ((1 << 33) - 1)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data.ljust(-(-len(data) // 512) * 512, b"\0")


def make_zip(path: Path, photo: bytes) -> dict[bytes, str]:
    """A zip of members with outside names, false sizes, or unsupported compression."""
    outcomes: dict[bytes, str] = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, data: bytes, stored: bytes | None = None, outcome: str = KEPT) -> None:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
            outcomes[stored or name.encode()] = outcome

        for name in ("with space.jpg", "new\nline.jpg", "smile \N{GRINNING FACE}.jpg", "Same.jpg", "same.png"):
            add(name, photo)
        add("/etc/cron.d/evil.jpg", photo, b"etc/cron.d/evil.jpg")
        add("../../up.jpg", photo)
        add("C:\\evil.jpg", photo)
        link = zipfile.ZipInfo("link.jpg")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        for name in ("encrypted", "grows", "damaged", "unknown method", "moved"):
            add(f"{name}.jpg", photo, outcome=UNREADABLE)
        add("shrinks.jpg", photo)
        add("huge.jpg", photo, outcome=TOO_LARGE)
        archive.writestr("bomb.jpg", bytes(20 << 20))
        outcomes[b"bomb.jpg"] = UNREADABLE
    data = bytearray(path.read_bytes())
    for name, offset, patch in [
        ("encrypted.jpg", 8, struct.pack("<H", 1)),
        ("unknown method.jpg", 10, struct.pack("<H", 97)),
        ("grows.jpg", 24, struct.pack("<I", 9)),
        ("shrinks.jpg", 24, struct.pack("<I", 9_000_000)),
        ("huge.jpg", 24, struct.pack("<I", 4_000_000_000)),
        ("moved.jpg", 42, struct.pack("<I", 7)),
    ]:
        at = data.rindex(name.encode()) - 46 + offset  # PKWARE's APPNOTE, 4.3.12: the name follows 46 bytes
        data[at : at + len(patch)] = patch
    damaged = data.index(b"damaged.jpg") + len("damaged.jpg")
    data[damaged + 100 : damaged + 120] = bytes(20)
    path.write_bytes(data)
    return outcomes
