"""``facegan inspect``: what a dataset holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, Json
from facegan.console import print_json, print_table
from facegan.files import human_bytes


def inspect(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that facegan prep wrote.")],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """A table of a dataset: photographs kept and rejected, by reason; faces, shards and settings."""
    from facegan.shards.layout import DatasetInfo

    info = DatasetInfo.read(out)
    if json:
        print_json(info.model_dump(mode="json"))
        return
    totals = info.totals
    rows = [["photographs", f"{totals.photos:,}", ""], ["kept", f"{totals.kept:,}", _share(totals.kept, totals.photos)]]
    rows += [[f"rejected: {name}", f"{n:,}", _share(n, totals.photos)] for name, n in totals.rejected.items()]
    rows += [[f"ignored: {suffix} files", f"{n:,}", ""] for suffix, n in totals.ignored.items()]
    rows += [["faces", f"{totals.faces:,}", ""]]
    for split in info.splits:
        shards = info.split_shards(split)
        samples = sum(shard.samples for shard in shards)
        size = human_bytes(sum(shard.bytes for shard in shards))
        rows += [[f"split {split}", f"{samples:,}", f"{len(shards):,} shards, {size}"]]
    rows += [[f"setting {name}", _text(value), ""] for name, value in info.settings.items()]
    rows += [[f"version of {name}", version, ""] for name, version in info.versions.items()]
    print_table(["", str(out), ""], rows)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else ""


def _text(value: object) -> str:
    return ", ".join(str(item)[:12] for item in value) if isinstance(value, list) else str(value)
