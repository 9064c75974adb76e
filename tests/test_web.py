"""Browser libraries come from npm packages, are checked by checksum, and are downloaded once."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from facegan import web
from facegan.errors import WebPackageError
from facegan.web import WebPackage, known_packages, missing_files, vendor_files, web_files

ROOT = Path(__file__).parents[1]


def packed(folder: Path, members: dict[str, bytes]) -> WebPackage:
    """A package with its tarball in ``folder``, as ``npm pack`` makes it."""
    folder.mkdir(exist_ok=True)
    path = folder / "toy-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    files = {name.removeprefix("package/"): hashlib.sha256(data).hexdigest() for name, data in members.items()}
    return WebPackage("toy", "1.0.0", "MIT", hashlib.sha256(path.read_bytes()).hexdigest(), files)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FACEGAN_WEB", str(tmp_path / "mirror"))


def test_manifest_pins_every_file() -> None:
    for package in known_packages().values():
        assert all(map(re.compile(r"[0-9a-f]{64}").fullmatch, (package.sha256, *package.files.values())))
        assert re.fullmatch(r"\d+\.\d+\.\d+", package.version)
        names = [Path(path).name for path in package.files]
        assert len(set(names)) == len(names)


def test_import_needs_standard_library_alone() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from facegan import web; print(*web.known_packages())"
    run = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert "uplot" in run.stdout.split()


def test_files_are_unpacked_once(tmp_path: Path) -> None:
    package = packed(tmp_path / "mirror", {"package/dist/a.js": b"a", "package/LICENSE": b"free"})
    assert web_files(package) == {"a.js": b"a", "LICENSE": b"free"}
    (tmp_path / "mirror" / package.tarball).unlink()
    assert web_files(package) == {"a.js": b"a", "LICENSE": b"free"}
    assert missing_files(package, tmp_path) == ["dist/a.js", "LICENSE"]


def test_wrong_checksums_are_refused(tmp_path: Path) -> None:
    package = packed(tmp_path / "mirror", {"package/dist/a.js": b"a"})
    other = WebPackage("toy", "1.0.0", "MIT", "0" * 64, package.files)
    with pytest.raises(WebPackageError, match=rf"its SHA-256 is {package.sha256},\nnot 0{{64}}"):
        vendor_files(other, tmp_path / "out")
    inside = WebPackage("toy", "1.0.0", "MIT", package.sha256, {"dist/a.js": "0" * 64})
    with pytest.raises(WebPackageError, match=r"a\.js has a wrong checksum"):
        vendor_files(inside, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unavailable_package_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "npm_commands", lambda: [["false"], ["no-such-npm"]])
    package = WebPackage("toy", "1.0.0", "MIT", "0" * 64, {"a.js": "0" * 64})
    with pytest.raises(WebPackageError, match=r"toy 1\.0\.0 is needed, but unavailable(.|\n)*FACEGAN_WEB to a folder"):
        vendor_files(package, tmp_path / "out")
