"""What other tools read beside the shards: a dataset card, ML Croissant, wids' indexes and timm's list."""

from __future__ import annotations

from pathlib import Path

from facegan.files import write_bytes, write_json
from facegan.manifests import KnownDataset
from facegan.shards.cards.croissant import croissant
from facegan.shards.cards.indexes import timm_info, wids_index
from facegan.shards.cards.readme import readme
from facegan.shards.layout import DatasetInfo


def write_cards(folder: Path, info: DatasetInfo, known: KnownDataset | None) -> list[str]:
    """README.md, croissant.json, _info.json and an index-SPLIT.json for every split that has shards.

    The bytes follow from the arguments alone.

    Args:
        folder: where the files go.
        info: dataset.json as it will be.
        known: the data set that the photographs are of, where it is known.

    Returns:
        The files' names.
    """
    write_bytes(folder / "README.md", readme(info, known).encode())
    tables = {"croissant.json": croissant(info, known), "_info.json": timm_info(info)}
    tables |= {f"index-{split}.json": wids_index(info, split) for split in info.splits}
    for name, table in tables.items():
        write_json(folder / name, table)
    return ["README.md", *tables]
