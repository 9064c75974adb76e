"""Detectors, nets and losses that users name as ``MODULE:NAME``.

The module is installed, on PYTHONPATH, or a file in the current folder. The current folder is searched last, so that no
file there hides an installed module.

A name on the command line, or passed to a function, is consent to run its code. A name read from a file is not:
`refuse_untrusted` guards every place that reads one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from facegan.errors import SettingsError

Trust = bool | frozenset[str]  # which code named in files may run: all, none, or these names
PIPE = "pipe:"  # --shards pipe:COMMAND
_SAFE_PATH, _OURS = "PYTHONSAFEPATH", "facegan"  # Python checks only whether it is set
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_import_path(name: str) -> bool:
    """Whether ``name`` has the form ``MODULE:NAME``."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name))


def runs_code(value: object) -> bool:
    """Whether a setting's value names code: ``MODULE:NAME`` or ``pipe:COMMAND``."""
    return isinstance(value, str) and (is_import_path(value) or value.startswith(PIPE))


def refuse_untrusted(where: str, name: str, trust_code: Trust) -> None:
    """
    Args:
        where: the file, or the setting in it, that names the code.

    Raises:
        SettingsError: the user did not trust this code.
    """
    if name in trust_code if isinstance(trust_code, frozenset) else trust_code is True:
        return
    raise SettingsError(
        f"{where} names code that would run here: {_shown(name)}. If you trust its author, add --trust-code\n"
        "(in Python: trust_code=True)."
    )


def not_tried(names: Iterable[str]) -> str:
    """The message about code that a check does not run; "" if there is none."""
    found = ", ".join(dict.fromkeys(map(_shown, names)))
    return found and f"{found} was not tried: a check runs no code. If a file names it, it needs --trust-code."


def _shown(name: str) -> str:
    """A command from a file may hold control characters."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)


@contextlib.contextmanager
def shut_current_folder() -> Iterator[None]:
    """Processes started meanwhile import nothing from the current folder, which may hold other people's files.

    Python searches it first for ``-c`` and ``-m``, which is how multiprocessing starts workers: a ``pickle.py`` among
    the photographs would run in each.
    """
    before = os.environ.setdefault(_SAFE_PATH, _OURS)
    try:
        yield
    finally:
        if before == _OURS:
            os.environ.pop(_SAFE_PATH, None)


def command_environment() -> dict[str, str]:
    """The environment for a user's command, without the variable that `shut_current_folder` sets."""
    return {name: value for name, value in os.environ.items() if (name, value) != (_SAFE_PATH, _OURS)}


def load_object(setting: str, name: str) -> Any:
    """Import the object that a name refers to. This runs the user's code.

    Args:
        setting: the setting, for errors.

    Raises:
        SettingsError: it cannot be imported, or the module has no such name.
    """
    module_name, _, object_name = name.partition(":")
    _see_current_folder()
    try:
        own: Any = importlib.import_module(module_name)
        for part in object_name.split("."):
            own = getattr(own, part)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise SettingsError(
            f"{setting} {name} cannot be imported: {type(error).__name__}: {error}\n"
            f"Its module must be installed, on PYTHONPATH, or a file in the current folder."
        ) from error
    return own


def source_digests(settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """`source_digest` of each setting that is an import path."""
    return {setting: source_digest(name) for setting, name in settings.items() if is_import_path(name)}


def source_digest(name: str) -> dict[str, str]:
    """Path and SHA-256 of the module's file; both empty if there is none. Runs no code: `importlib.util.find_spec`
    would import the parent packages."""
    try:
        spec = _found(name.partition(":")[0].split("."))
        file = Path(spec.origin) if spec and spec.origin else None
        data = file.read_bytes() if file else b""
    except Exception:  # importing the module will report what is wrong
        return {"file": "", "sha256": ""}
    return {"file": str(file or ""), "sha256": hashlib.sha256(data).hexdigest() if file else ""}


def _found(parts: list[str]) -> ModuleSpec | None:
    """The module's spec, without importing its parents."""
    finders = (finder.find_spec(parts[0], None) for finder in sys.meta_path)
    spec = next(filter(None, finders), None) or PathFinder.find_spec(parts[0], [str(Path.cwd())])
    for part in parts[1:]:
        spec = PathFinder.find_spec(part, list((spec and spec.submodule_search_locations) or []))
    return spec


def _see_current_folder() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
