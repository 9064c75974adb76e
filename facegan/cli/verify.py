"""``facegan verify``: does the dataset on disk agree with what dataset.json says of it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, Json, Quiet, make_console
from facegan.console import print_json, print_result


def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that facegan prep wrote.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every face, check its JSON, and compare it with photos.parquet.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check every checksum and count. Exit code 1 and a line for each problem where something does not hold."""
    from facegan.shards.checksums import save_verified
    from facegan.shards.verify import verify as check

    found = check(out, make_console(quiet), deep=deep)
    save_verified(out, found.stamps)
    if json:
        problems = [{"shard": problem.shard, "problem": problem.problem} for problem in found.problems]
        print_json({"ok": found.ok, "shards": found.shards, "samples": found.samples, "problems": problems})
    elif found.ok:
        held = "all checksums agree, every face decodes" if deep else "all checksums agree"
        print_result(f"{out} is whole: {found.shards:,} shards, {found.samples:,} samples, {held}.")
    else:
        print_result(*(problem.problem for problem in found.problems))
    if not found.ok:
        raise typer.Exit(1)
