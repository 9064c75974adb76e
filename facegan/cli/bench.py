"""``facegan bench``: facegan's speed against a plain loop for the same job, in the same run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facegan.cli.options import Flags, Group, Overrides, options
from facegan.config import PrepConfig, TrainConfig
from facegan.config.resources import FacesConfig, PhotosConfig, count_or_none
from facegan.console import counted
from facegan.errors import SettingsError
from facegan.system import prep_workers

if TYPE_CHECKING:
    from facegan.bench.baseline import Bench

Pairs = Annotated[
    int,
    typer.Option(
        "--pairs", min=1, help="Number of alternating pairs of measurements; the reported ratio is the median."
    ),
]


def _output(result: Bench, flags: Flags) -> None:
    def text(value: object) -> str:
        return ", ".join(f"{rate:,.0f}" for rate in value) if isinstance(value, list) else str(value)

    found = result.to_json()
    rows = {
        "facegan": result.ours,
        f"baseline: {result.baseline}": result.theirs,
        "ratio (median of pairs)": f"{result.ratio:.2f} ×",
        **{name.replace("_", " "): value for name, value in result.notes.items()},
        "machine": f"{found['machine']['cpu']}, {counted(found['machine']['cpus'], 'CPU')}",
    }
    flags.output(found, table=([result.what, result.unit], [[name, text(value)] for name, value in rows.items()]))


@options(PrepConfig, PhotosConfig, only="crop detector limit workers", flags="sets json quiet")
def bench_prep(
    flags: Flags,
    overrides: Overrides,
    photos: Annotated[
        Path | None, typer.Argument(metavar="[PHOTOS]", help="A folder of JPEGs; by default drawn portraits.")
    ] = None,
    scaling: Annotated[bool, typer.Option("--scaling", help="Also measure prep in one process.")] = False,
    pairs: Pairs = 3,
) -> None:
    """Photographs per second: prep against a loop that decodes, detects, crops and encodes, in as many processes."""
    resources, config = PhotosConfig.pop_from(overrides), PrepConfig.pop_from(overrides)
    workers = count_or_none(resources.workers) or prep_workers()
    if scaling and workers == 1:
        raise SettingsError("--scaling compares several processes with one. Leave it out, or set --workers 2.")
    from facegan.bench.prep import bench_prep as run

    _output(run(photos, config, workers, resources.limit, scaling, pairs, flags.console), flags)


@options(FacesConfig, only="shards workers", flags="json quiet")
def bench_stream(
    flags: Flags,
    overrides: Overrides,
    images: Annotated[int, typer.Option("--images", min=1, help="Images per measurement.")] = 20_000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Images per batch.")] = 128,
    pairs: Pairs = 3,
) -> None:
    """Images per second: facegan's batches against webdataset's own pipeline."""
    source = FacesConfig.of(overrides)
    if not source.shards:
        raise SettingsError("facegan bench stream needs faces. Name a dataset of facegan prep with --shards OUT.")
    from facegan.bench.stream import bench_stream as run

    _output(run(Path(source.shards), images, batch, count_or_none(source.workers), pairs, flags.console), flags)


@options(TrainConfig, FacesConfig, only="method batch precision graphs shards device", flags="json quiet")
def bench_train(
    flags: Flags,
    overrides: Overrides,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Training steps per measurement.")] = 4,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Also measure the device's limits, and print the share reached.")
    ] = False,
    pairs: Pairs = 3,
) -> None:
    """Images per second: training steps against a plain fp32 loop, on a random batch of 64×64 or on --shards."""
    source, config = FacesConfig.pop_from(overrides), TrainConfig.of(overrides)
    from facegan.bench.train import bench_train as run

    shards = Path(source.shards) if source.shards else None
    _output(run(config, shards, source.device, steps, pairs, roofline, flags.console), flags)


bench: Group = {"prep": bench_prep, "stream": bench_stream, "train": bench_train}
