"""Every error that facegan raises on purpose: one tree, one sentence each, an exit code for the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from facegan.console import shown


class FaceganError(Exception):
    """The job failed. The message is one to three lines: the value, the rule it breaks, the way out."""

    exit_code = 1


class SettingsError(FaceganError):
    """A setting, an argument or a combination of them can't be used."""

    exit_code = 2


class SourceError(FaceganError):
    """The photographs can't be listed or opened."""

    exit_code = 2


class DamagedSourceError(SourceError):
    """The photographs' file is damaged, or claims what it can't hold."""

    exit_code = 1


class DeviceError(SettingsError):
    """The device asked for is not there, or lacks what was asked of it."""


class DatasetError(FaceganError):
    """A dataset on disk is missing, incomplete, altered, or made with other settings."""


class ModelError(FaceganError):
    """A detector model is missing, can't be fetched, or has a wrong checksum."""


class WebPackageError(FaceganError):
    """A program for browsers that pages carry is missing, can't be fetched, or has a wrong checksum."""


class DiskError(FaceganError):
    """A file can't be written: the disk is full, read-only, or forbids it."""

    def __init__(self, message: str, errno: int | None = None, need_bytes: int | None = None) -> None:
        super().__init__(message)
        self.errno, self.need_bytes = errno, need_bytes

    def __reduce__(self) -> tuple[type[DiskError], tuple[str, int | None, int | None]]:
        return DiskError, (str(self), self.errno, self.need_bytes)  # workers send it to their parent


class DamagedFile(FaceganError):
    """A file does not hold what its format says. ``why`` is the parser's reason alone."""

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.why = why

    def __reduce__(self) -> tuple[type[DamagedFile], tuple[str, str]]:
        return DamagedFile, (str(self), self.why)


class CheckpointError(FaceganError):
    """A checkpoint or generator can't be read, or belongs to another architecture."""


class TrainingError(FaceganError):
    """Training can't go on: a loss is not finite."""


class ExportError(FaceganError):
    """A generator can't be written for other programs."""


class Interrupted(FaceganError):
    """Stopped by Ctrl-C or SIGTERM, after saving."""

    exit_code = 130


def suggest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name nearest to ``name``, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{shown(close[0])}'?" if close else ""


def one_of(names: Iterable[object]) -> str:
    """``"28, 32 or 64"``: a list as a sentence has it."""
    words = [shown(name) for name in names]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
