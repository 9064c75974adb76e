"""``facegan select``: a new dataset of some faces of others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, DryRun, Json, Quiet, Set, make_console, merge_overrides, setting
from facegan.config import SelectConfig
from facegan.console import print_json, print_result
from facegan.files import human_bytes


def select(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Datasets of facegan prep, or of select.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The new dataset's folder; missing or empty.")],
    where: Annotated[str, setting(SelectConfig, "where")] = SelectConfig.default("where"),
    limit: Annotated[int | None, setting(SelectConfig, "limit")] = SelectConfig.default("limit"),
    split: Annotated[str, setting(SelectConfig, "split")] = SelectConfig.default("split"),
    size: Annotated[int | None, setting(SelectConfig, "size")] = SelectConfig.default("size"),
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a dataset of some faces of one or several others, without detecting again.

    facegan select OUT NEW --where "score > 0.8 and width >= 178"
    """
    options = {"where": where, "limit": limit, "split": split, "size": size}
    config = SelectConfig.of(merge_overrides(SelectConfig, sets, **options))
    from facegan.prep.select import plan_select
    from facegan.prep.select import select as make

    result = (plan_select if dry_run else make)(outs, new, config, console=make_console(quiet))
    if json:
        print_json(result.to_json())
    elif dry_run:
        print_result(f"{result.samples:,} faces of {result.photos:,} photographs would go into {new}")
    else:
        print_result(
            f"{result.samples:,} faces of {result.photos:,} photographs in {result.shards:,} shards, "
            f"{human_bytes(result.bytes)}",
            f"{new}  (look at {new}/preview.png, then: facegan train --shards {new})",
        )
