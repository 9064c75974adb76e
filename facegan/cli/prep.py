"""``facegan prep``: photographs → dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import (
    Debug,
    DryRun,
    Json,
    Quiet,
    RecipeFile,
    Set,
    TrustCode,
    explicit_options,
    make_console,
    merge_overrides,
    say_not_tried,
    setting,
)
from facegan.config import PrepConfig
from facegan.console import human_seconds, print_json, print_result
from facegan.errors import SettingsError, suggest
from facegan.files import human_bytes


def prep(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="PHOTOS", help="A folder, archive, table or array; see below.")],
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="The dataset's folder, or a URL; continued where it exists.")
    ],
    size: Annotated[int, setting(PrepConfig, "size")] = PrepConfig.default("size"),
    crop: Annotated[str, setting(PrepConfig, "crop")] = PrepConfig.default("crop"),
    margin: Annotated[float, setting(PrepConfig, "margin")] = PrepConfig.default("margin"),
    detector: Annotated[str, setting(PrepConfig, "detector")] = PrepConfig.default("detector"),
    rotate: Annotated[str, setting(PrepConfig, "rotate")] = PrepConfig.default("rotate"),
    model: Annotated[Path | None, typer.Option("--model", help="A detector model (.tflite) of your own.")] = None,
    min_score: Annotated[float, setting(PrepConfig, "min_score")] = PrepConfig.default("min_score"),
    faces: Annotated[str, setting(PrepConfig, "faces")] = PrepConfig.default("faces"),
    min_face: Annotated[int, setting(PrepConfig, "min_face")] = PrepConfig.default("min_face"),
    min_sharpness: Annotated[float, setting(PrepConfig, "min_sharpness")] = PrepConfig.default("min_sharpness"),
    max_outside: Annotated[float, setting(PrepConfig, "max_outside")] = PrepConfig.default("max_outside"),
    dedup: Annotated[str, setting(PrepConfig, "dedup")] = PrepConfig.default("dedup"),
    split: Annotated[str, setting(PrepConfig, "split")] = PrepConfig.default("split"),
    format: Annotated[str, setting(PrepConfig, "format")] = PrepConfig.default("format"),
    shard_size: Annotated[int, setting(PrepConfig, "shard_size")] = PrepConfig.default("shard_size"),
    workers: Annotated[str, typer.Option("--workers", help="Processes: auto or a number.")] = "auto",
    engine: Annotated[str, typer.Option("--engine", help="local: processes here; ray: a Ray cluster.")] = "local",
    ray_address: Annotated[
        str | None, typer.Option("--ray-address", help="An existing cluster; else one is started here.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only the first N photographs, by name.")] = None,
    no_follow_links: Annotated[
        bool, typer.Option("--no-follow-links", help="Leave out a folder's symbolic links.")
    ] = False,
    download: Annotated[bool, typer.Option("--download", help="torchvision:NAME may fetch what is missing.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Rebuild damaged shards; retry unreachable photographs.")
    ] = False,
    attributes: Annotated[
        Path | None, typer.Option("--attributes", help="CelebA's list_attr_celeba.txt: into each JSON.")
    ] = None,
    no_source_paths: Annotated[
        bool, typer.Option("--no-source-paths", help="Do not record where the photographs are.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Delete the dataset in OUT and prepare again.")] = False,
    trust_code: TrustCode = False,
    recipe: RecipeFile = None,
    sets: Set = None,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Detect and crop faces into WebDataset shards. Every photograph is accounted for in OUT/photos.parquet.

    PHOTOS is a folder, a .tar(.gz) or .zip, a .parquet with a column of images or URLs, a .npz, .npy or idx file, or
    several of them ('laion/{00000..00099}.tar'); by path or URL (s3://, https://, hf://); or torchvision:NAME.

    Stopped (Ctrl-C, a crash, a power cut), the same command goes on; with new photographs it adds them.
    """
    if not source or not out:
        raise SettingsError("PHOTOS and OUT can't be empty: name the photographs and the dataset's folder.")
    from facegan.config.resources import names_of
    from facegan.recipes.resolve import prep_settings

    settings = [name for name in names_of("prep") if name != "out"]  # which a recipe has for facegan run
    options = explicit_options(context, settings) | ({"follow_links": False} if no_follow_links else {})
    photos, config = prep_settings(options, merge_overrides(PrepConfig, sets), recipe, trust_code=trust_code or dry_run)
    if engine not in ("local", "ray"):
        raise SettingsError(
            f"--engine {engine} is not offered: choose local or ray.{suggest(engine, ['local', 'ray'])}"
        )
    from facegan.prep.prepare import plan_prepare, run_prepare
    from facegan.prep.request import PrepareRequest

    request = PrepareRequest.of_config(
        out,
        photos,
        config,
        engine=engine,
        ray_address=ray_address,
        repair=repair,
        force=force,
        note_source=not no_source_paths,
    )
    if dry_run and repair:
        raise SettingsError("--dry-run does not go with --repair: facegan verify OUT tells what is to be mended.")
    if dry_run:
        plan = plan_prepare(request)
        code = say_not_tried([config.detector])
        if json:
            print_json({**plan.to_json(), "not_tried": code})
        else:
            print_result(
                f"{plan.photos:,} photographs found, {plan.new:,} of them new, in {plan.chunks:,} chunks: "
                f"about {human_seconds(plan.about_seconds)} with {plan.workers} processes, "
                f"about {human_bytes(plan.about_bytes)} in {plan.out}"
            )
        return
    result = run_prepare(request, make_console(quiet))
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
