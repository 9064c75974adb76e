"""``facegan demo``: the whole flow on drawn portraits."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import Debug, Json, Quiet, console_of
from facegan.config import PrepConfig, TrainConfig
from facegan.console import human_seconds, print_json, print_result

PORTRAITS = 500
# A narrow DCGAN and small batches: more steps in the same time show more than fewer large ones.
WIDTH, BATCH, STEPS = 32, 16, 1000


def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where everything goes.")] = Path("facegan-demo"),
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Draw portraits, prepare them with the real detector, train a small DCGAN, and sample: under three minutes.

    Started again, it goes on where it stopped.
    """
    start = time.monotonic()
    console = console_of(quiet)
    from facegan.demo import write_portraits
    from facegan.shards.layout import DATASET_FILE

    photos, dataset, run = folder / "portraits", folder / "faces", folder / "run"
    if len(list(photos.glob("*.jpg"))) < PORTRAITS or not (dataset / DATASET_FILE).is_file():
        console.note(f"1 of 4: drawing {PORTRAITS} portraits into {photos}")
        write_portraits(photos, PORTRAITS)
    console.note(f"2 of 4: facegan prep {photos} {dataset}")
    from facegan.prep.prepare import prepare

    # Chunks small enough that every core has some.
    prepared = prepare(photos, dataset, PrepConfig(shard_size=100), console=console)
    console.note(f"3 of 4: facegan train --shards {dataset}")
    from facegan.stream import FaceShards
    from facegan.train import train

    trained = train(_config(), FaceShards(dataset), run, console=console, dataset=str(dataset))
    console.note("4 of 4: facegan sample")
    from facegan.train.sample import write_grid

    grid = folder / "samples.png"
    write_grid(run, grid, n=64, seed=0)
    seconds = time.monotonic() - start
    found: dict[str, Any] = {
        "folder": str(folder),
        "kept": prepared.kept,
        "photos": prepared.photos,
        "images": trained.images,
        "seconds": round(seconds, 1),
        "pictures": [str(dataset / "preview.png"), str(grid), str(run / "losses.png")],
    }
    if json:
        print_json(found)
        return
    print_result(
        f"{prepared.kept} of {prepared.photos} portraits kept, {trained.images:,} images trained, "
        f"{human_seconds(seconds)}. Everything is in {folder}. Open:\n"
        f"  {dataset / 'preview.png'}   what the detector cropped\n"
        f"  {grid}   faces that the generator drew\n"
        f"  {run / 'losses.png'}   how the training went"
    )


def _config() -> TrainConfig:
    images = BATCH * STEPS
    return TrainConfig.for_method(
        "dcgan", width=WIDTH, batch=BATCH, images=images, ema_images=1000.0, save_every=images // 2, sample_every=4000
    )
