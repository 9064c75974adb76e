"""``facegan verify``, ``inspect`` and ``select``: commands on a prepared dataset."""

from __future__ import annotations

import json as as_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegan.cli.options import DryRun, Json, Overrides, Quiet, options
from facegan.config import SelectConfig
from facegan.console import Console, print_bars, print_json, print_result, print_table
from facegan.errors import SettingsError
from facegan.files import human_bytes, write_bytes

if TYPE_CHECKING:
    from facegan.shards.format import DatasetInfo

_PICTURES = {".png": "png", ".jpg": "jpeg"}


@options()
def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that facegan prep wrote.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every face, check its JSON, and compare it with photos.parquet.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check every checksum and count. Print a line for each problem; the exit code is 1 if there is any."""
    from facegan.shards.checksums import save_verified
    from facegan.shards.verify import verify as check

    found = check(out, Console(quiet=quiet), deep=deep)
    save_verified(out, found.stamps)
    if json:
        problems = [{"shard": problem.shard, "problem": problem.problem} for problem in found.problems]
        print_json({"ok": found.ok, "shards": found.shards, "samples": found.samples, "problems": problems})
    elif found.ok:
        checked = "all checksums match, every face decodes" if deep else "all checksums match"
        print_result(f"{out} is complete: {found.shards:,} shards, {found.samples:,} samples, {checked}.")
    else:
        print_result(*(problem.problem for problem in found.problems))
    if not found.ok:
        raise typer.Exit(1)


@options(SelectConfig)
def select(
    outs: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Datasets of facegan prep or select.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The new dataset's folder, missing or empty.")],
    overrides: Overrides,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Make a dataset of some faces of one or several others, without detecting again.

    facegan select OUT NEW --where "score > 0.8 and width >= 178"
    """
    config = SelectConfig.of(overrides)
    from facegan.prep import select as prep

    make = prep.plan_select if dry_run else prep.select
    result = make(outs, new, config, console=Console(quiet=quiet))
    if json:
        print_json(result.to_json())
    elif dry_run:
        print_result(f"{result.samples:,} faces of {result.photos:,} photographs would be written to {new}")
    else:
        print_result(
            f"{result.samples:,} faces of {result.photos:,} photographs in {result.shards:,} shards, "
            f"{human_bytes(result.bytes)}",
            f"{new}  (look at {new}/preview.png, then: facegan train --shards {new})",
        )


@options()
def inspect(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that facegan prep wrote.")],
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="One photograph by its path, or one sample by its key.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: the histograms, or KEY's photograph.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="SRC", help="Where KEY's photograph is now, if it was moved.")
    ] = None,
    extract: Annotated[
        Path | None, typer.Option("--extract", metavar="DIR", help="Write all faces into a plain folder of images.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show a dataset: photographs by outcome, scores and face sizes; or one photograph or sample."""
    if extract and (key or plot):
        raise SettingsError("--extract writes all faces and nothing else. Leave out KEY and --plot.")
    if source and not (key and plot):
        raise SettingsError("--source is the folder of KEY's photograph. Use it with KEY and --plot FILE.")
    if plot and plot.suffix not in _PICTURES:
        raise SettingsError(f"--plot {plot}: choose a name that ends in .png or .jpg.")
    console = Console(quiet=quiet)
    if extract:
        _extract(out, extract, json, console)
    elif key:
        _one(out, key, plot, source, json, console)
    else:
        _all(out, plot, json, console)


def _extract(out: Path, target: Path, json: bool, console: Console) -> None:
    from facegan.shards.inspect import extract

    faces = extract(out, target, console)
    if json:
        print_json({"faces": faces, "out": str(target)})
    else:
        print_result(f"{faces:,} faces in {target}")


def _one(out: Path, key: str, plot: Path | None, source: str | None, json: bool, console: Console) -> None:
    from facegan.shards.format import DatasetInfo
    from facegan.shards.inspect import find_rejected, find_sample

    info = DatasetInfo.read(out)
    if (row := find_rejected(out, key)) is not None:
        fields = {name: _rounded(value) for name, value in row.items()}
        if plot:
            from facegan.prep.inspect import draw_rejected
            from facegan.prep.preview import picture_bytes

            min_score = None if info.settings.get("detector") == "none" else info.settings.get("min_score")
            write_bytes(plot, picture_bytes(draw_rejected(out, row, source, min_score), _PICTURES[plot.suffix]))
    else:
        sample = find_sample(out, info, key)
        fields = {"key": sample.key, "split": sample.split, "shard": sample.shard, **sample.meta.model_dump()}
        if plot:
            from facegan.prep.inspect import draw_sample
            from facegan.prep.preview import picture_bytes

            write_bytes(plot, picture_bytes(draw_sample(out, sample, source, console), _PICTURES[plot.suffix]))
    if json:
        print_json(fields)
    else:
        print_table([str(out), ""], [[name, _text(value)] for name, value in fields.items()])


def _all(out: Path, plot: Path | None, json: bool, console: Console) -> None:
    from facegan.shards.format import DatasetInfo
    from facegan.shards.inspect import draw_summary, summarise

    info = DatasetInfo.read(out)
    histograms = summarise(out, info, console)
    if plot:
        write_bytes(plot, draw_summary(info, histograms, _PICTURES[plot.suffix]))
    if json:
        drawn = {name: histogram.to_json() for name, histogram in histograms.items()}
        print_json({**info.model_dump(mode="json"), "histograms": drawn})
        return
    print_table([str(out), "", ""], _counts(info))
    for histogram in histograms.values():
        print_bars(histogram.headline, histogram.bars())
    print_result("")
    print_table(["settings and versions", ""], _settings(info))


def _counts(info: DatasetInfo) -> list[list[str]]:
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
    return rows


def _settings(info: DatasetInfo) -> list[list[str]]:
    rows = [[f"setting {name}", _setting(value)] for name, value in info.settings.items()]
    return rows + [[f"version of {name}", version] for name, version in info.versions.items()]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.2%}" if whole else ""


def _setting(value: Any) -> str:
    return ", ".join(str(item)[:12] for item in value) if isinstance(value, list) else _text(value)


def _rounded(value: Any) -> Any:
    """Scores of photos.parquet, which has them in single precision, with the three decimals they were written with."""
    return [round(each, 4) if isinstance(each, float) else each for each in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return as_json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
