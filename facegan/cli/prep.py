"""``facegan prep``: photographs → dataset."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from facegan.cli.options import Flags, Overrides, options, warn_not_tried
from facegan.config import PrepConfig
from facegan.config.resources import PhotosConfig
from facegan.console import counted, human_seconds
from facegan.errors import SettingsError
from facegan.files import human_bytes


@options(PrepConfig, PhotosConfig, flags="trust_code recipe sets json dry_run quiet")
def prep(
    flags: Flags,
    source: Annotated[str, typer.Argument(metavar="PHOTOS", help="A folder, archive, table or array; see above.")],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The dataset's folder, or a URL; an existing dataset is continued.")
    ],
    overrides: Overrides,
    engine: Annotated[
        Literal["local", "ray"], typer.Option("--engine", help="local: processes here; ray: a Ray cluster.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="A running cluster; by default one is started here.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild damaged shards; retry failed downloads.")] = False,
    no_source_paths: Annotated[
        bool, typer.Option("--no-source-paths", help="Do not record where the photographs are.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the dataset in OUT and prepare again.")] = False,
) -> None:
    """Detect and crop faces into WebDataset shards; every photograph is accounted for.

    PHOTOS is a folder, a .tar(.gz) or .zip, a .parquet with a column of images or URLs, a .npz, .npy or idx file, or
    several of them ('laion/{00000..00099}.tar'); by path or URL (s3://, https://, hf://); or torchvision:NAME.

    After Ctrl-C or a crash the same command continues; new photographs are added.
    OUT/photos.parquet records what became of each photograph.

    Example: facegan prep photos/ out/ --size 64 --split 0.9,0.05,0.05
    """
    if not source or not out:
        raise SettingsError("PHOTOS and OUT cannot be empty. Name the photographs and the dataset's folder.")
    with flags.resolved("prep", overrides) as values:
        photos, config = PhotosConfig.pop_from(values), PrepConfig.pop_from(values)
    if flags.dry_run and repair:
        raise SettingsError("--dry-run cannot be used with --repair. Run facegan verify OUT to list the damage.")
    from facegan.prep.prepare import plan_prepare, run_prepare
    from facegan.prep.request import PrepareRequest

    request = PrepareRequest(
        source,
        out,
        config,
        photos,
        engine=engine,
        ray_address=ray_address,
        repair=repair,
        force=force,
        note_source=not no_source_paths,
    )
    if flags.dry_run:
        plan = plan_prepare(request, flags.console)
        flags.output(
            {**vars(plan), "not_tried": warn_not_tried([config.detector])},
            f"{counted(plan.photos, 'photograph')} found, {plan.new:,} of them new, in {counted(plan.chunks, 'chunk')}:"
            f" about {human_seconds(plan.about_seconds)} with {counted(plan.workers, 'process')}, "
            f"about {human_bytes(plan.about_bytes)} in {plan.out}",
        )
        return
    result = run_prepare(request, flags.console)
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in result.rejected.items()) or "none"
    flags.output(
        result.to_json(),
        f"{counted(result.photos, 'photograph')}: {result.kept:,} kept ({result.kept / result.photos:.2%}), "
        f"rejected: {rejected}",
        f"{counted(result.faces, 'face')} of {config.size}×{config.size} in {counted(result.shards, 'shard')}, "
        f"{human_bytes(result.bytes)}",
        f"{result.out}  (look at {result.out}/preview.png, then: facegan train --shards {result.out})",
    )
