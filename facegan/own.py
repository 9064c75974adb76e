"""What users name as ``MODULE:NAME``: a detector, a pair of nets or a loss of their own.

The module has to be installed, on PYTHONPATH, or a file in the current folder, which is searched last, so that no file
there hides an installed module.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facegan.errors import SettingsError

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_own(name: str) -> bool:
    """Whether it is written as ``MODULE:NAME``."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name))


def own_object(setting: str, name: str) -> Any:
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


def own_files(settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What `own_file` tells of those settings that name something of a user's own, by setting."""
    return {setting: own_file(name) for setting, name in settings.items() if is_own(name)}


def own_file(name: str) -> dict[str, str]:
    """Path and SHA-256 of the file that a name's module is in; both empty where there is none. Imports no module."""
    module_name = name.partition(":")[0]
    _see_current_folder()
    try:
        spec = importlib.util.find_spec(module_name)
        file = Path(spec.origin) if spec and spec.origin else None
        data = file.read_bytes() if file else b""
    except Exception:  # of a parent package's own code, or no file: who imports the module says what is wrong
        return {"file": "", "sha256": ""}
    return {"file": str(file or ""), "sha256": hashlib.sha256(data).hexdigest() if file else ""}


def _see_current_folder() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
