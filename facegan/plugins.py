"""Detectors, nets and losses that users name as ``MODULE:NAME``.

The module is installed, on PYTHONPATH, or a file in the current folder. The current folder is searched last, so that no
file there hides an installed module.

A name on the command line, or passed to a function, is consent to run its code. A name read from a file is not:
`refuse_untrusted` guards every place that reads one.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
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
    """Raises SettingsError if the user did not trust this code; ``where``: the file, or its setting, that names it."""
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
    """Import the object that a name refers to, which runs the user's code; ``setting`` begins the error."""
    module_name, _, object_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        own: Any = importlib.import_module(module_name)
        for part in object_name.split("."):
            own = getattr(own, part)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise SettingsError(
            f"{setting} {name} cannot be imported: {type(error).__name__}: {error}\n"
            "Its module must be installed, on PYTHONPATH, or a file in the current folder."
        ) from error
    return own


def source_digests(settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """`source_digest` of each setting that is an import path."""
    return {setting: source_digest(name) for setting, name in settings.items() if is_import_path(name)}


def source_digest(name: str) -> dict[str, str]:
    """Path and SHA-256 of the module's file; both empty if there is none. Runs no code: `importlib.util.find_spec`
    would import the parent packages."""
    import hashlib
    from importlib.machinery import PathFinder

    first, *further = name.partition(":")[0].split(".")
    try:
        finders = (finder.find_spec(first, None) for finder in sys.meta_path)
        spec = next(filter(None, finders), None) or PathFinder.find_spec(first, [str(Path.cwd())])
        for part in further:
            spec = PathFinder.find_spec(part, list((spec and spec.submodule_search_locations) or []))
        if spec and spec.origin:
            return {"file": spec.origin, "sha256": hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()}
    except Exception:  # importing the module will report what is wrong
        pass
    return {"file": "", "sha256": ""}
