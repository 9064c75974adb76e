"""What users name as ``MODULE:NAME``: a detector, a pair of nets or a loss of their own.

The module has to be installed, on PYTHONPATH, or a file in the current folder, which is searched last, so that no file
there hides an installed module.

Who types a name on the command line, or gives it to a function, wants its code to run. A file that names code gets it
run only where the user trusts it: `refuse_untrusted` guards every place where such a name is read from a file.
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

Trust = bool | frozenset[str]  # the code that files may name: all, none, or these names alone
PIPE = "pipe:"  # and a command for the shell, where shards are named
_SAFE_PATH, _OURS = "PYTHONSAFEPATH", "facegan"  # Python asks whether it is set, and not to what
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_import_path(name: str) -> bool:
    """Whether it is written as ``MODULE:NAME``."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name))


def runs_code(value: object) -> bool:
    """Whether the value of a setting names code: a module, or a command for the shell."""
    return isinstance(value, str) and (is_import_path(value) or value.startswith(PIPE))


def refuse_untrusted(where: str, name: str, trust_code: Trust) -> None:
    """
    Args:
        where: the file, or the setting in it, that names the code.

    Raises:
        SettingsError: the user did not say that this code may run.
    """
    if name in trust_code if isinstance(trust_code, frozenset) else trust_code is True:
        return
    raise SettingsError(
        f"{where} names code that would run here, {_shown(name)}: if you trust whoever made it, add --trust-code\n"
        "(in Python: trust_code=True)."
    )


def not_tried(names: Iterable[str]) -> str:
    """What a check says of code that it does not run; "" where there is none."""
    found = ", ".join(dict.fromkeys(map(_shown, names)))
    return found and f"{found} was not tried: a check runs no code. Where a file names it, it needs --trust-code."


def _shown(name: str) -> str:
    """A command out of a file may hold what moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)


@contextlib.contextmanager
def shut_current_folder() -> Iterator[None]:
    """Processes that start meanwhile find no module in the current folder, where files of others may lie.

    Python looks there first for ``-c`` and ``-m``, which is how multiprocessing starts workers: a ``pickle.py`` among
    the photographs would run in each.
    """
    before = os.environ.setdefault(_SAFE_PATH, _OURS)
    try:
        yield
    finally:
        if before == _OURS:
            os.environ.pop(_SAFE_PATH, None)


def command_environment() -> dict[str, str]:
    """The environment of a command of the user's: without what `shut_current_folder` has set for our own."""
    return {name: value for name, value in os.environ.items() if (name, value) != (_SAFE_PATH, _OURS)}


def load_object(setting: str, name: str) -> Any:
    """What a name stands for. Its module is imported, which runs the user's code.

    Args:
        setting: in which it stands, as errors say it.

    Raises:
        SettingsError: it can't be imported, or the module has no such name.
    """
    module_name, _, object_name = name.partition(":")
    _see_current_folder()
    try:
        own: Any = importlib.import_module(module_name)
        for part in object_name.split("."):
            own = getattr(own, part)
    except (Exception, SystemExit) as error:  # importing runs the user's code: whatever it raises is told as a sentence
        raise SettingsError(
            f"{setting} {name} can't be imported: {type(error).__name__}: {error}\n"
            f"Its module has to be installed, on PYTHONPATH, or a file in the current folder."
        ) from error
    return own


def source_digests(settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What `source_digest` tells of those settings that name something of a user's own, by setting."""
    return {setting: source_digest(name) for setting, name in settings.items() if is_import_path(name)}


def source_digest(name: str) -> dict[str, str]:
    """Path and SHA-256 of the file that a name's module is in; both empty where there is none. Runs none of its code:
    `importlib.util.find_spec` would import the packages that the module is in."""
    try:
        spec = _found(name.partition(":")[0].split("."))
        file = Path(spec.origin) if spec and spec.origin else None
        data = file.read_bytes() if file else b""
    except Exception:  # no file, or a finder of somebody else's: who imports the module says what is wrong
        return {"file": "", "sha256": ""}
    return {"file": str(file or ""), "sha256": hashlib.sha256(data).hexdigest() if file else ""}


def _found(parts: list[str]) -> ModuleSpec | None:
    """Where the module of these names is."""
    finders = (finder.find_spec(parts[0], None) for finder in sys.meta_path)
    spec = next(filter(None, finders), None) or PathFinder.find_spec(parts[0], [str(Path.cwd())])
    for part in parts[1:]:
        spec = PathFinder.find_spec(part, list((spec and spec.submodule_search_locations) or []))
    return spec


def _see_current_folder() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
