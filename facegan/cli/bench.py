"""``facegan bench``: our speed beside the same job by hand, in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facegan.cli.options import (
    Debug,
    Device,
    Json,
    Quiet,
    Set,
    explicit_options,
    make_console,
    merge_overrides,
    setting,
    whole_number,
)
from facegan.config import PrepConfig, TrainConfig
from facegan.console import print_json, print_table
from facegan.errors import SettingsError
from facegan.system import prep_workers

if TYPE_CHECKING:
    from facegan.bench.baseline import Bench

app = typer.Typer(help="Measure facegan beside the same job by hand.", no_args_is_help=True)

Pairs = Annotated[int, typer.Option("--pairs", min=1, help="Measure both this often in turn; the ratio is the median.")]
Workers = Annotated[str, typer.Option("--workers", help="Processes: auto (all CPUs) or a number.")]


def _print(bench: Bench, json: bool) -> None:
    found = bench.to_json()
    if json:
        print_json(found)
        return
    notes = [[name.replace("_", " "), _text(value), ""] for name, value in bench.notes.items()]
    place = found["machine"]
    print_table(
        [bench.what, bench.unit, ""],
        [
            ["facegan", ", ".join(f"{rate:,.0f}" for rate in bench.ours), ""],
            [f"by hand: {bench.baseline}", ", ".join(f"{rate:,.0f}" for rate in bench.theirs), ""],
            ["ratio (median of pairs)", f"{bench.ratio:.2f} ×", ""],
            *notes,
            ["machine", f"{place['cpu']}, {place['cpus']} CPUs", ""],
        ],
    )


def _text(value: object) -> str:
    return ", ".join(f"{rate:,.0f}" for rate in value) if isinstance(value, list) else str(value)


@app.command("prep")
def bench_prep(
    context: typer.Context,
    photos: Annotated[
        Path | None, typer.Argument(metavar="[PHOTOS]", help="A folder of JPEGs; else drawn ones.")
    ] = None,
    crop: Annotated[str, setting(PrepConfig, "crop")] = PrepConfig.default("crop"),
    detector: Annotated[str, setting(PrepConfig, "detector")] = PrepConfig.default("detector"),
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Measure prep in one process too, beside all of them.")
    ] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N photographs.")] = None,
    workers: Workers = "auto",
    pairs: Pairs = 3,
    sets: Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Photographs a second: prep beside decode, detect, crop and encode by hand, in as many processes."""
    config = PrepConfig.of(merge_overrides(PrepConfig, sets, **explicit_options(context, ("crop", "detector"))))
    processes = whole_number(workers, "--workers") or prep_workers()
    if scaling and processes == 1:
        raise SettingsError("--scaling compares several processes with one: leave it out, or set --workers 2.")
    from facegan.bench.prep import bench_prep as run

    console = make_console(quiet)
    _print(run(photos, config, workers=processes, limit=limit, pairs=pairs, scaling=scaling, console=console), json)


@app.command("stream")
def bench_stream(
    shards: Annotated[Path, typer.Option("--shards", help="A dataset: a folder that facegan prep wrote.")],
    images: Annotated[int, typer.Option("--images", min=1, help="Images a measurement.")] = 20_000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images a batch.")] = 128,
    workers: Workers = "auto",
    pairs: Pairs = 3,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Images a second: our batches beside webdataset's own pipeline."""
    processes = whole_number(workers, "--workers")
    from facegan.bench.stream import bench_stream as run

    console = make_console(quiet)
    _print(run(shards, images=images, batch=batch, workers=processes, pairs=pairs, console=console), json)


@app.command("train")
def bench_train(
    method: Annotated[str, setting(TrainConfig, "method")] = TrainConfig.default("method"),
    batch: Annotated[int | None, setting(TrainConfig, "batch", by_method=True)] = None,
    precision: Annotated[str, setting(TrainConfig, "precision")] = TrainConfig.default("precision"),
    shards: Annotated[
        Path | None,
        typer.Option("--shards", help="A dataset of 64×64 faces: measure the whole, data included, from it."),
    ] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Rounds a measurement.")] = 4,
    device: Device = "auto",
    no_graphs: Annotated[bool, typer.Option("--no-graphs", help="Never record rounds as CUDA graphs.")] = False,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Measure the device's limits too, and state the shares of them.")
    ] = False,
    pairs: Pairs = 3,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Images a second: our rounds beside the plain fp32 loop, on one random batch of 64×64, or whole from shards."""
    from facegan.bench.train import bench_train as run

    batches = {"batch": batch} if batch else {}
    bench = run(
        TrainConfig.for_method(method, precision=precision, graphs=not no_graphs, **batches),
        steps=steps,
        device=device,
        pairs=pairs,
        with_roofline=roofline,
        shards=shards,
        console=make_console(quiet),
    )
    _print(bench, json)
