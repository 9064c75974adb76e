"""Shards → batches on a device: index, order, decoding, caching."""

from __future__ import annotations

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.remote import is_url
from facegan.stream.dataset import FaceShards
from facegan.stream.loader import Batches, StreamOptions
from facegan.stream.remote import fits_in_cache, read_info
from facegan.stream.webdataset import WebDatasetShards, is_webdataset

__all__ = ["Batches", "FaceShards", "StreamOptions", "WebDatasetShards", "open_faces"]


def open_faces(
    shards: str, split: str = "train", options: StreamOptions | None = None, console: Console | None = None
) -> FaceShards | WebDatasetShards:
    """A dataset's folder or URL; or ``pipe:COMMAND``, tar files, URLs of tar files, with ``{000..009}`` for several.

    A remote dataset that does not fit in the user cache is streamed by webdataset.
    """
    options, console = options or StreamOptions(), console or Console(quiet=True)
    if not is_webdataset(shards):
        if is_url(shards):
            info = read_info(shards)
            if (entries := info.split_shards(split)) and not fits_in_cache(entries):
                urls = [f"{shards.rstrip('/')}/{entry.name}" for entry in entries]
                return WebDatasetShards(shards, options, console, info.channels, urls)
        return FaceShards(shards, split, **vars(options), console=console)
    if split != "train":
        raise SettingsError(f"--split {split}: only datasets of facegan prep have splits. Name that split's tar files.")
    if options.verify:
        raise SettingsError(f"--verify-shards: {shards} has no checksums. Leave it out.")
    return WebDatasetShards(shards, options, console)
