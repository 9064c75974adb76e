"""``facegan bench``: facegan's speed against a hand-written loop for the same job, in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facegan.cli.options import Json, Overrides, Quiet, options
from facegan.config import PrepConfig, TrainConfig
from facegan.config.resources import FacesConfig, PhotosConfig, count_or_none
from facegan.console import Console, print_json, print_table
from facegan.errors import SettingsError
from facegan.system import prep_workers

if TYPE_CHECKING:
    from facegan.bench.baseline import Bench

bench = typer.Typer(help="Measure facegan against a hand-written loop.", no_args_is_help=True)

Pairs = Annotated[
    int, typer.Option("--pairs", min=1, help="Number of alternating pairs of measurements; the ratio is their median.")
]


def _print(result: Bench, json: bool) -> None:
    found = result.to_json()
    if json:
        print_json(found)
        return
    notes = [[name.replace("_", " "), _text(value), ""] for name, value in result.notes.items()]
    machine = found["machine"]
    print_table(
        [result.what, result.unit, ""],
        [
            ["facegan", _text(result.ours), ""],
            [f"by hand: {result.baseline}", _text(result.theirs), ""],
            ["ratio (median of pairs)", f"{result.ratio:.2f} ×", ""],
            *notes,
            ["machine", f"{machine['cpu']}, {machine['cpus']} CPUs", ""],
        ],
    )


def _text(value: object) -> str:
    return ", ".join(f"{rate:,.0f}" for rate in value) if isinstance(value, list) else str(value)


@bench.command("prep")
@options(PrepConfig, PhotosConfig, only="crop detector limit workers")
def bench_prep(
    overrides: Overrides,
    photos: Annotated[
        Path | None, typer.Argument(metavar="[PHOTOS]", help="A folder of JPEGs; by default drawn portraits.")
    ] = None,
    scaling: Annotated[bool, typer.Option("--scaling", help="Also measure prep in one process.")] = False,
    pairs: Pairs = 3,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Photographs per second: prep against decode, detect, crop and encode by hand, in as many processes."""
    resources, config = PhotosConfig.pop_from(overrides), PrepConfig.pop_from(overrides)
    workers = count_or_none(resources.workers) or prep_workers()
    if scaling and workers == 1:
        raise SettingsError("--scaling compares several processes with one. Leave it out, or set --workers 2.")
    from facegan.bench.prep import bench_prep as run

    console = Console(quiet=quiet)
    result = run(photos, config, workers=workers, limit=resources.limit, pairs=pairs, scaling=scaling, console=console)
    _print(result, json)


@bench.command("stream")
@options(FacesConfig, only="shards workers", sets=False)
def bench_stream(
    overrides: Overrides,
    images: Annotated[int, typer.Option("--images", min=1, help="Images per measurement.")] = 20_000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per batch.")] = 128,
    pairs: Pairs = 3,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Images per second: facegan's batches against webdataset's own pipeline."""
    source = FacesConfig.of(overrides)
    if not source.shards:
        raise SettingsError("facegan bench stream needs faces. Name a dataset of facegan prep with --shards OUT.")
    from facegan.bench.stream import bench_stream as run

    workers, console = count_or_none(source.workers), Console(quiet=quiet)
    result = run(Path(source.shards), images=images, batch=batch, workers=workers, pairs=pairs, console=console)
    _print(result, json)


@bench.command("train")
@options(TrainConfig, FacesConfig, only="method batch precision graphs shards device", sets=False)
def bench_train(
    overrides: Overrides,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps per measurement.")] = 4,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Also measure the device's limits, and print the shares of them.")
    ] = False,
    pairs: Pairs = 3,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Images per second: training steps against a plain fp32 loop, on a random batch of 64×64 or on --shards."""
    source, config = FacesConfig.pop_from(overrides), TrainConfig.resolve(overrides)
    from facegan.bench.train import bench_train as run

    result = run(
        config,
        steps=steps,
        device=source.device,
        pairs=pairs,
        with_roofline=roofline,
        shards=Path(source.shards) if source.shards else None,
        console=Console(quiet=quiet),
    )
    _print(result, json)
