"""The weights of published networks: where they are looked for, how they are fetched, checked and read.

Inception's are published as a pickled dict of tensors. Nothing pickled is loaded: torch reads it with
``weights_only``, which knows tensors and plain values and refuses all else; a ``.safetensors`` of the same tensors will
do as well.
"""

from __future__ import annotations

import io
import os
import urllib.request
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from facegan.console import Console
from facegan.errors import DamagedFile, ModelError
from facegan.files import atomic_write, make_folder, read_tensors, sha256_file, user_cache
from facegan.manifests import NetworkWeights, network_weights
from facegan.remote import timeout_seconds

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 1 << 20
Network = Literal["inception", "clip"]
_NAMES: dict[Network, str] = {"inception": "Inception", "clip": "CLIP"}


@dataclass(frozen=True)
class PretrainedWeights:
    """A file that was checked. ``published``: it is the one that the literature's values were measured by."""

    path: Path
    sha256: str
    published: bool


def find_weights(network: Network, given: str | Path | None, *, fetch: bool = True) -> PretrainedWeights:
    """The file ``given``; or the published one in ``$FACEGAN_MODELS``, the user cache or torch's; or fetched, once.

    Raises:
        ModelError: there is none, it can't be fetched, or a file of the published name is not the published file.
    """
    known = network_weights(network)
    if given:
        path = Path(given)
        if not path.is_file():
            raise ModelError(f"There is no {path}. --{network}-weights names a file of {_NAMES[network]}'s weights.")
        if known.file.endswith(".safetensors") and path.suffix != ".safetensors":
            raise ModelError(
                f"{path} is no .safetensors. --{network}-weights takes tensors alone, of which nothing can be run."
            )
        return _checked(path, known)
    for path in (folder / known.file for folder in _folders()):
        if not path.is_file():
            continue
        if path.parent != user_cache("models") or sha256_file(path) == known.sha256:
            return _checked(path, known)
        Console().warn(f"{path} does not match its checksum: it is not used.")
    if not fetch:
        raise ModelError(f"the weights of {known.title}, are not on this machine ({known.bytes / 1e6:,.0f} MB)")
    return _checked(_fetch(network, known), known)


def read_weights(weights: PretrainedWeights) -> dict[str, Tensor]:
    """Its tensors by name, on the CPU.

    Raises:
        ModelError: it holds something else.
    """
    import torch

    try:
        if weights.path.suffix == ".safetensors":
            return read_tensors(weights.path)[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how others pickled: it is refused below
            # The published file is of this kind. Of pickles this reader takes tensors and names, and runs nothing.
            tensors = torch.load(weights.path, map_location="cpu", weights_only=True)
    except DamagedFile as error:
        raise ModelError(f"{weights.path} holds no weights that can be read: {error.why}") from None
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, ImportError) as error:
        raise ModelError(f"{weights.path} holds no weights that can be read: {_first_line(error)}") from None
    except Exception:  # pickle.UnpicklingError, whose text tells how to load it without care; or any other
        raise ModelError(
            f"{weights.path} holds more than tensors, or is damaged: nothing pickled is loaded.\n"
            "Name the published file, or a .safetensors of its tensors."
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise ModelError(f"{weights.path} holds something else than tensors by name. Name the published file.")
    return dict(tensors)


def as_torch_saves(tensors: dict[str, Tensor]) -> io.BytesIO:
    """The tensors in torch's own format, in memory: for a library that reads this alone, and without a check."""
    import torch

    saved = io.BytesIO()
    torch.save(tensors, saved)
    saved.seek(0)
    return saved


def _checked(path: Path, known: NetworkWeights) -> PretrainedWeights:
    found = sha256_file(path)
    if path.name == known.file and found != known.sha256:
        raise ModelError(
            f"{path} is not {known.title}: its SHA-256 is {found},\nit has to be {known.sha256}. Delete the file."
        )
    return PretrainedWeights(path, found, found == known.sha256)


def _folders() -> Iterator[Path]:
    import torch

    if os.environ.get("FACEGAN_MODELS"):
        yield Path(os.environ["FACEGAN_MODELS"])
    yield user_cache("models")
    yield Path(torch.hub.get_dir()) / "checkpoints"  # where torch-fidelity's own command keeps it


def _fetch(network: Network, known: NetworkWeights) -> Path:
    target = make_folder(user_cache("models")) / known.file
    try:
        with (
            urllib.request.urlopen(known.url, timeout=timeout_seconds()) as answer,
            atomic_write(target) as file,
        ):
            got = 0
            while data := answer.read(_CHUNK):
                got += len(data)
                if got > known.bytes:
                    break
                file.write(data)
            if got != known.bytes:
                raise ModelError(f"{known.url} gave {got:,} bytes and more, where {known.bytes:,} are to come.")
    except OSError as error:  # URLError is one
        raise ModelError(
            f"The weights of {known.title}, are not on this machine, and fetching them failed "
            f"({getattr(error, 'reason', error)}).\n"
            f"Name them with --{network}-weights FILE, or put {known.file} into $FACEGAN_MODELS."
        ) from None
    return target


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
