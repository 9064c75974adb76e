"""Errors that facegan raises on purpose. Each has an exit code for the command line.

FaceganError                1
├── SettingsError           2
│   └── DeviceError
├── SourceError             2
│   └── DamagedSourceError  1
├── DatasetError
├── ModelError
├── WebPackageError
├── DiskError
├── DamagedFile
├── CheckpointError
├── TrainingError
├── ExportError
└── Interrupted             130
"""

from __future__ import annotations

from collections.abc import Iterable

from facegan.console import shown


class FaceganError(Exception):
    """The job failed. The message is one to three lines: what was wrong, the rule, and the fix."""

    exit_code = 1


class SettingsError(FaceganError):
    """A setting, an argument or a combination of them is invalid."""

    exit_code = 2


class SourceError(FaceganError):
    """The photographs cannot be listed or opened."""

    exit_code = 2


class DamagedSourceError(SourceError):
    """The photographs' file is damaged, or claims more than it can hold."""

    exit_code = 1


class DeviceError(SettingsError):
    """The device does not exist here, or lacks a feature that was asked for."""


class DatasetError(FaceganError):
    """A dataset on disk is missing, incomplete, altered, or made with other settings."""


class ModelError(FaceganError):
    """A detector model is missing, cannot be downloaded, or has the wrong checksum."""


class WebPackageError(FaceganError):
    """A JavaScript package of report pages is missing, cannot be downloaded, or has the wrong checksum."""


class DiskError(FaceganError):
    """A file cannot be written: the disk is full or read-only, or permissions forbid it."""

    def __init__(self, message: str, errno: int | None = None, need_bytes: int | None = None) -> None:
        super().__init__(message)
        self.errno, self.need_bytes = errno, need_bytes


class DamagedFile(FaceganError):
    """A file does not follow its format. ``why`` is the parser's reason."""

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why


class CheckpointError(FaceganError):
    """A checkpoint or generator cannot be read, or belongs to other nets."""


class TrainingError(FaceganError):
    """Training cannot continue: a loss is not finite."""


class ExportError(FaceganError):
    """A generator cannot be exported."""


class Interrupted(FaceganError):
    """Stopped by Ctrl-C or SIGTERM, after saving."""

    exit_code = 130


def suggest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    import difflib  # here, because most commands need none

    folded = {other.casefold(): other for other in known}  # "a" is near to "A"
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.5)
    return f" Did you mean '{shown(folded[close[0]])}'?" if close else ""


def one_of(names: Iterable[object]) -> str:
    """``"28, 32 or 64"``."""
    words = [shown(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
