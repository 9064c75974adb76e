"""What ``--shards`` names: a dataset of ours, or shards that others made."""

from __future__ import annotations

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.stream.dataset import FaceShards
from facegan.stream.foreign import ForeignShards, is_foreign


def open_faces(
    shards: str,
    split: str = "train",
    *,
    verify: bool = False,
    skip_broken: bool = False,
    cache: str = "auto",
    workers: int | None = None,
    console: Console | None = None,
) -> FaceShards | ForeignShards:
    """A dataset's folder or URL; or ``pipe:COMMAND``, tar files, URLs of tar files, with ``{000..009}`` for several.

    Args:
        split, verify, skip_broken, cache, workers, console: of `FaceShards`.

    Raises:
        SettingsError: an option that means nothing for shards that others made.
        DatasetError: what is named is missing, damaged, or can't be had.
    """
    if not is_foreign(shards):
        return FaceShards(
            shards, split, verify=verify, skip_broken=skip_broken, cache=cache, workers=workers, console=console
        )
    if split != "train":
        raise SettingsError(f"--split {split}: only a dataset of facegan prep has splits; name the tars of that one.")
    if verify:
        raise SettingsError(f"--verify-shards: nothing tells the checksums of {shards}. Leave it out.")
    return ForeignShards(shards, skip_broken=skip_broken, cache=cache, workers=workers, console=console)
