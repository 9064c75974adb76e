"""Upload an exported folder to the Hugging Face Hub with the user's own login."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from facegan.errors import ExportError, SettingsError
from facegan.export.write import NAMES

_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}", re.ASCII)


def check_login(name: str) -> str:
    """The full name of ``NAMESPACE/NAME``, or of the user's own ``NAME``. Asks the Hub who is logged in."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise SettingsError("--push needs huggingface_hub. Install the extra: pip install 'facegan[hf]'")
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"--push {name} is not a repository name. Use NAMESPACE/NAME with letters, digits, '-', '_' and '.'."
        )
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        user = _hub().whoami()
    except LocalTokenNotFoundError:
        raise SettingsError("--push: you are not logged in to the Hugging Face Hub. Run: hf auth login") from None
    except Exception as error:  # the exception type depends on the client's HTTP library
        if getattr(getattr(error, "response", None), "status_code", None) == 401:
            raise SettingsError("--push: the Hugging Face Hub rejected your login. Run: hf auth login") from None
        raise _hub_error(error, name) from error
    return name if "/" in name else f"{user['name']}/{name}"


def push(folder: Path, name: str, *, public: bool = False) -> str:
    """Upload the files of an export (no other files of the folder) and return the repository's address.

    A new repository is private unless ``public``; an existing one keeps its visibility.
    """
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    try:
        hub = _hub()
        address = hub.create_repo(name, private=not public, exist_ok=True)
        hub.upload_folder(
            repo_id=name,
            folder_path=folder,
            allow_patterns=list(NAMES),
            commit_message="Upload a generator with facegan export",
        )
    except Exception as error:  # as above
        raise _hub_error(error, name) from error
    return str(address)


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="facegan")


def _hub_error(error: Exception, name: str) -> ExportError:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return ExportError(f"The Hugging Face Hub did not accept {name}: {text}\nTry again later.")
