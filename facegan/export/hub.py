"""An exported folder onto the Hugging Face Hub, with the user's own login and no other."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from facegan.errors import ExportError, SettingsError
from facegan.export.write import NAMES

_NAME = re.compile(r"(?:[\w.-]+/)?[\w.-]{1,96}", re.ASCII)


def refuse_strangers(name: str) -> str:
    """The repository's full name. Asks the Hub who the user is, before anything is computed.

    Args:
        name: ``NAMESPACE/NAME``, or ``NAME`` in the user's own namespace.

    Raises:
        SettingsError: huggingface_hub is not installed, nobody is logged in, or it can't be a name.
        ExportError: the Hub does not answer.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise SettingsError(
            "--push needs huggingface_hub, not installed here. Install the extra: pip install 'facegan[hf]'"
        )
    if not _NAME.fullmatch(name):
        raise SettingsError(f"--push {name}: write it as NAMESPACE/NAME, of letters, digits, '-', '_' and '.'.")
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        who = _hub().whoami()
    except LocalTokenNotFoundError:
        raise SettingsError(
            "--push: nobody is logged in to the Hugging Face Hub here. Log in with: hf auth login"
        ) from None
    except Exception as error:  # its libraries for HTTP changed, and each has errors of its own
        if _status(error) == 401:
            raise SettingsError(
                "--push: the Hugging Face Hub does not accept this login. Log in again with: hf auth login"
            ) from None
        raise _told(error, name) from error
    return name if "/" in name else f"{who['name']}/{name}"


def push(folder: Path, name: str, *, public: bool = False) -> str:
    """Uploads the files of an export, and no other of the folder; gives the repository's address.

    A new repository is private, unless ``public``: photographs and their terms bind whoever publishes. One that is
    there stays as visible as it is.

    Raises:
        ExportError: the Hub refuses, or does not answer.
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
            commit_message="A generator, by facegan export",
        )
    except Exception as error:  # as above
        raise _told(error, name) from error
    return str(address)


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="facegan")


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _told(error: Exception, name: str) -> ExportError:
    text = str(error).strip().partition("\n")[0] or type(error).__name__
    return ExportError(
        f"The Hugging Face Hub did not take {name}: {text}\nThe exported folder is whole; try again later."
    )
