"""``facegan prep``: photographs → dataset."""

from __future__ import annotations

from typing import Annotated

import typer

from facegan.cli.options import DryRun, Json, Overrides, Quiet, RecipeFile, TrustCode, options, resolved, warn_not_tried
from facegan.config import PrepConfig
from facegan.config.base import not_available
from facegan.config.resources import PhotosConfig
from facegan.console import Console, human_seconds, print_json, print_result
from facegan.errors import SettingsError
from facegan.files import human_bytes


@options(PrepConfig, PhotosConfig)
def prep(
    source: Annotated[str, typer.Argument(metavar="PHOTOS", help="A folder, archive, table or array; see above.")],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The dataset's folder, or a URL; an existing dataset is continued.")
    ],
    overrides: Overrides,
    engine: Annotated[str, typer.Option("--engine", help="local: processes here; ray: a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="A running cluster; by default one is started here.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild damaged shards; retry failed downloads.")] = False,
    no_source_paths: Annotated[
        bool, typer.Option("--no-source-paths", help="Do not record where the photographs are.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the dataset in OUT and prepare again.")] = False,
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Detect and crop faces into WebDataset shards. Every photograph is accounted for in OUT/photos.parquet.

    PHOTOS is a folder, a .tar(.gz) or .zip, a .parquet with a column of images or URLs, a .npz, .npy or idx file, or
    several of them ('laion/{00000..00099}.tar'); by path or URL (s3://, https://, hf://); or torchvision:NAME.

    After Ctrl-C or a crash the same command continues; with new photographs it adds them.
    """
    if not source or not out:
        raise SettingsError("PHOTOS and OUT cannot be empty. Name the photographs and the dataset's folder.")
    with resolved("prep", overrides, recipe, trust_code or dry_run) as values:
        photos, config = PhotosConfig.pop_from(values), PrepConfig.pop_from(values)
    if engine not in ("local", "ray"):
        raise SettingsError(not_available("--engine", engine, ("local", "ray")))
    if dry_run and repair:
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
    if dry_run:
        plan = plan_prepare(request)
        code = warn_not_tried([config.detector])
        if json:
            print_json({**plan.to_json(), "not_tried": code})
        else:
            print_result(
                f"{plan.photos:,} photographs found, {plan.new:,} of them new, in {plan.chunks:,} chunks: "
                f"about {human_seconds(plan.about_seconds)} with {plan.workers} processes, "
                f"about {human_bytes(plan.about_bytes)} in {plan.out}"
            )
        return
    result = run_prepare(request, Console(quiet=quiet))
    if json:
        print_json(result.to_json())
        return
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in result.rejected.items()) or "none"
    share = result.kept / result.photos
    print_result(
        f"{result.photos:,} photographs: {result.kept:,} kept ({share:.2%}), rejected: {rejected}",
        f"{result.faces:,} faces of {config.size}×{config.size} in {result.shards:,} shards, "
        f"{human_bytes(result.bytes)}",
        f"{result.out}  (look at {result.out}/preview.png, then: facegan train --shards {result.out})",
    )
