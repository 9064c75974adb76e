"""``facegan verify``, ``inspect``, ``select``, ``forget`` and ``annotate``: commands on a prepared dataset."""

from __future__ import annotations

import json as as_json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from facegan.cli.options import Flags, Overrides, options
from facegan.config import SelectConfig
from facegan.console import counted, print_bars, print_json, print_result, print_table, shown
from facegan.errors import DatasetError, SettingsError
from facegan.files import human_bytes, write_bytes

if TYPE_CHECKING:
    from facegan.shards.format import DatasetInfo

_PICTURES = {".png": "png", ".jpg": "jpeg"}


@options(flags="json quiet")
def verify(
    flags: Flags,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder that facegan prep wrote.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Also decode every face, compare its JSON with photos.parquet, list leaks.")
    ] = False,
) -> None:
    """Check every checksum and count of a dataset. One line per problem; exit code 1 if there are any.

    Leaks are what several splits share: files, near-duplicates, people (--identity). They are noted, not counted.

    Example: facegan verify out/ --deep
    """
    from facegan.shards.checksums import save_verified
    from facegan.shards.verify import verify as check

    found = check(out, flags.console, deep=deep)
    save_verified(out, found.stamps)
    problems = [{"shard": problem.shard, "problem": problem.problem} for problem in found.problems]
    lines = [problem.problem for problem in found.problems]
    if found.ok:
        checked = "all checksums match, every face decodes" if deep else "all checksums match"
        counts = f"{counted(found.shards, 'shard')}, {counted(found.samples, 'sample')}"
        lines = [f"{out} is complete: {counts}, {checked}."]
    leaks = [{"kind": leak.kind, "count": leak.count, "first": list(leak.first)} for leak in found.leaks]
    for leak in found.leaks:
        lines.append(f"Leak: {leak.text}: {leak.count:,} (first: {' and '.join(map(shown, leak.first))}).")
    result = {"ok": found.ok, "shards": found.shards, "samples": found.samples, "problems": problems}
    flags.output(result | ({"leaks": leaks} if deep else {}), *lines)
    if not found.ok:
        raise typer.Exit(1)


@options(SelectConfig, flags="sets json dry_run quiet")
def select(
    flags: Flags,
    outs: Annotated[list[Path], typer.Argument(metavar="OUT", help="Datasets of facegan prep or select.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="The new dataset's folder; it must be missing or empty.")],
    overrides: Overrides,
) -> None:
    """Make a dataset from selected faces of other datasets, without detecting again.

    Example: facegan select out/ best/ --where "score > 0.9 and width >= 178" --limit 10000
    """
    config = SelectConfig.of(overrides)
    from facegan.prep import select as prep

    make = prep.plan_select if flags.dry_run else prep.select
    result = make(outs, new, config, console=flags.console)
    what = f"{counted(result.samples, 'face')} of {counted(result.photos, 'photograph')}"
    lines = [
        f"{what} in {counted(result.shards, 'shard')}, {human_bytes(result.bytes)}",
        f"{new}  (look at {new}/preview.png, then: facegan train --shards {new})",
    ]
    flags.output(vars(result), *([f"{what} would be written to {new}"] if flags.dry_run else lines))


@options(flags="json dry_run quiet")
def forget(
    flags: Flags,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A dataset's folder or URL.")],
    path: Annotated[
        list[str] | None, typer.Option("--path", metavar="PATH", help="A photograph, as in photos.parquet; repeatable.")
    ] = None,
    paths_from: Annotated[
        Path | None, typer.Option("--paths-from", metavar="FILE", help="Photographs by path, one a line.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="Name runs, samples and exports in DIR made from them.")
    ] = None,
) -> None:
    """Take photographs out of a dataset, as if prep had left them out from the start.

    Their faces, rows and previews go; only shards concerned are written again. A salted digest of each path stays in
    OUT/.facegan, so that prep does not add the photograph again. After an interruption the same command finishes.

    Example: facegan forget out/ --path 000042.jpg --runs runs/
    """
    from facegan.prep.forget import forget as take_out
    from facegan.prep.suppression import read_paths

    paths = [*(path or []), *(read_paths(paths_from, "--paths-from") if paths_from else ())]
    found = take_out(out, paths, runs or "", dry_run=flags.dry_run, console=flags.console)
    what = f"{counted(found.photos, 'photograph')} with {counted(found.faces, 'face')}"
    would, shards = "would be " if flags.dry_run else "", counted(len(found.shards), "shard")
    done = f"{what} {would}taken out of {out}, {shards} {would}written again"
    table = (["made with them", ""], [list(made.values()) for made in found.made]) if found.made else None
    flags.output(vars(found), done if found.photos else f"{out} has forgotten them before", table=table)


@options(flags="json dry_run quiet")
def annotate(
    flags: Flags,
    out: Annotated[str, typer.Argument(metavar="OUT", help="A dataset's folder or URL.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A list as facegan prep --attributes takes it.")],
) -> None:
    """Add attributes to the photographs of a dataset, or replace them; no image changes.

    The result is as if prep had had them from the start: JSON in the shards, photos.parquet, dataset.json and the cards
    are written again. Runs that were trained on OUT before do not resume. After an interruption the same command
    finishes.

    Example: facegan annotate out/ glasses.csv
    """
    from facegan.prep.forget import annotate as write

    found = write(out, file, dry_run=flags.dry_run, console=flags.console)
    would, names = "would be " if flags.dry_run else "", [*found.added, *found.replaced]
    line = f"{counted(len(found.added), 'attribute')} {would}added to {out}, {len(found.replaced):,} replaced"
    shards = f"{counted(found.photos, 'photograph')}, {counted(found.shards, 'shard')} {would}written again"
    lines = [f"{line}: {', '.join(map(shown, names))}", shards] if names else [f"{out} has these attributes already"]
    flags.output(vars(found), *lines)


@options(flags="json quiet")
def inspect(
    flags: Flags,
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
) -> None:
    """Show a dataset: photographs by outcome, scores, face sizes; or one photograph or sample.

    Example: facegan inspect out/ 000001 --plot face.png
    """
    if extract and (key or plot):
        raise SettingsError("--extract writes all faces and nothing else. Leave out KEY and --plot.")
    if source and not (key and plot):
        raise SettingsError("--source is the folder of KEY's photograph. Use it with KEY and --plot FILE.")
    if plot and plot.suffix not in _PICTURES:
        raise SettingsError(f"--plot {plot}: choose a name that ends in .png or .jpg.")
    if extract:
        from facegan.shards.inspect import extract as write_faces

        faces = write_faces(out, extract, flags.console)
        flags.output({"faces": faces, "out": str(extract)}, f"{counted(faces, 'face')} in {extract}")
    elif key:
        _inspect_one(out, key, plot, source, flags)
    else:
        _inspect_all(out, plot, flags)


def _inspect_one(out: Path, key: str, plot: Path | None, source: str | None, flags: Flags) -> None:
    from facegan.shards.format import DatasetInfo
    from facegan.shards.inspect import find_row, find_sample

    info = DatasetInfo.read(out)
    row = find_row(out, key)
    sample = find_sample(out, info, key) if row["keys"] else None
    if sample:
        fields = {"key": sample.key, "split": sample.split, "shard": sample.shard, **sample.meta.model_dump()}
    else:
        scores = [round(score, 4) for score in row["scores"]]  # they were written with 3 decimals, in single precision
        fields = {**row, "scores": scores}
    if plot:
        from facegan.prep.inspect import draw_rejected, draw_sample
        from facegan.prep.preview import picture_bytes

        min_score = None if info.settings.get("detector") == "none" else info.settings.get("min_score")
        if sample:
            pixels = draw_sample(out, sample, source, flags.console)
        else:
            pixels = draw_rejected(out, row, source, min_score)
        write_bytes(plot, picture_bytes(pixels, _PICTURES[plot.suffix]))
    flags.output(fields, table=([str(out), ""], [[name, _text(value)] for name, value in fields.items()]))


def _inspect_all(out: Path, plot: Path | None, flags: Flags) -> None:
    from facegan.shards.attributes import read_attributes, summary
    from facegan.shards.format import DatasetInfo
    from facegan.shards.inspect import MEASURES, draw_summary, summarise

    info, attributes = DatasetInfo.read(out), list[tuple[str, int, float]]()
    histograms = summarise(out, info, flags.console)
    with suppress(DatasetError):  # it was a warning
        attributes = summary(read_attributes(out, info.shards))
    if plot:
        write_bytes(plot, draw_summary(info, histograms, _PICTURES[plot.suffix]))
    if flags.json:
        drawn = {name: histogram.to_json() for name, histogram in histograms.items()}
        shares = [{"attribute": what, "faces": count, "share": share} for what, count, share in attributes]
        print_json({**info.model_dump(mode="json"), "histograms": drawn} | ({"attributes": shares} if shares else {}))
        return
    table = [[f"attribute {shown(what)}", f"{count:,}", f"{share:.2%}"] for what, count, share in attributes]
    print_table([str(out), "", ""], _counts(info) + table)
    for name, histogram in histograms.items():
        if name not in MEASURES:
            print_bars(histogram.headline, histogram.bars())
    measured = [(name, histograms[name]) for name in MEASURES if name in histograms]
    if measured:
        table = [[MEASURES[name], *(f"{value:g}" for value in histogram.quantiles)] for name, histogram in measured]
        print_table(["of the faces", "5 %", "median", "95 %"], table)
    print_result("")
    settings = [[f"setting {name}", _text(value, 12)] for name, value in info.settings.items()]
    versions = [[f"version of {name}", version] for name, version in info.versions.items()]
    print_table(["settings and versions", ""], settings + versions)


def _counts(info: DatasetInfo) -> list[list[str]]:
    def share(count: int) -> str:
        return f"{count / totals.photos:.2%}" if totals.photos else ""

    totals = info.totals
    rows = [["photographs", f"{totals.photos:,}", ""], ["kept", f"{totals.kept:,}", share(totals.kept)]]
    rows += [[f"rejected: {name}", f"{n:,}", share(n)] for name, n in totals.rejected.items()]
    rows += [[f"ignored: {suffix} files", f"{n:,}", ""] for suffix, n in totals.ignored.items()]
    rows.append(["faces", f"{totals.faces:,}", ""])
    for split in info.splits:
        shards = info.split_shards(split)
        size = f"{counted(len(shards), 'shard')}, {human_bytes(sum(shard.bytes for shard in shards))}"
        rows.append([f"split {split}", f"{sum(shard.samples for shard in shards):,}", size])
    return rows


def _text(value: Any, longest: int | None = None) -> str:
    """``longest``: characters of a list's items, such as checksums."""
    if isinstance(value, list) and longest:
        return ", ".join(str(item)[:longest] for item in value)
    return as_json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
