"""``facegan inspect``: what a dataset holds."""

from __future__ import annotations

import json as as_json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegan.cli.options import Debug, Json, Quiet, make_console
from facegan.console import Console, print_bars, print_json, print_result, print_table
from facegan.errors import SettingsError
from facegan.files import human_bytes, write_bytes

if TYPE_CHECKING:
    from facegan.shards.format import DatasetInfo

_PICTURES = {".png": "png", ".jpg": "jpeg"}


def inspect(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that facegan prep wrote.")],
    key: Annotated[
        str | None, typer.Argument(metavar="KEY", help="One photograph by its path, or one sample by its key.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw it: the histograms, or KEY's photograph.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", metavar="SRC", help="Where KEY's photograph lies now, if it was moved.")
    ] = None,
    extract: Annotated[
        Path | None, typer.Option("--extract", metavar="DIR", help="Write all faces into a plain folder of images.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show what a dataset holds: photographs by outcome, scores and face sizes; or one of them."""
    if extract and (key or plot):
        raise SettingsError("--extract writes all faces and nothing else: leave out KEY and --plot.")
    if source and not (key and plot):
        raise SettingsError(
            "--source tells where one photograph is to be drawn from: it goes with KEY and --plot FILE."
        )
    if plot and plot.suffix not in _PICTURES:
        raise SettingsError(f"--plot {plot}: name a file that ends in .png or .jpg.")
    console = make_console(quiet)
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
            from facegan.prep.inspect import draw_rejected, picture_bytes

            min_score = None if info.settings.get("detector") == "none" else info.settings.get("min_score")
            write_bytes(plot, picture_bytes(draw_rejected(out, row, source, min_score), _PICTURES[plot.suffix]))
    else:
        sample = find_sample(out, info, key)
        fields = {"key": sample.key, "split": sample.split, "shard": sample.shard, **sample.meta.model_dump()}
        if plot:
            from facegan.prep.inspect import draw_sample, picture_bytes

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
    print_table(["how it was made", ""], _settings(info))


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
    """Scores of photos.parquet, which holds them in single precision, as they were written: with three decimals."""
    return [round(each, 4) if isinstance(each, float) else each for each in value] if isinstance(value, list) else value


def _text(value: Any) -> str:
    return as_json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
