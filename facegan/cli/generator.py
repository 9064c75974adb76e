"""``facegan sample``, ``project``, ``directions``, ``eval`` and ``export``: commands on a trained generator."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import Best, Device, Flags, Overrides, options, warn_not_tried
from facegan.config import DirectionsConfig, EvalConfig, ExportConfig, ProjectConfig, SampleConfig
from facegan.config.base import option_of
from facegan.config.resources import EvalResources
from facegan.console import counted, shown
from facegan.errors import DatasetError, SettingsError
from facegan.files import refuse_folder
from facegan.run_dir import EVALUATION

Generator = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run's folder, one of its checkpoints, or a generator.safetensors.")
]
# Settings that have an effect with some targets only.
_ONLY_WITH = {
    "frames": ("interpolate",),
    "walks": ("interpolate",),
    "along": ("interpolate",),
    "fps": ("interpolate", "training_progress"),
    "shard_size": ("shards",),
    "move": ("out", "dir", "shards", "interpolate"),
}


@options(SampleConfig, flags="trust_code sets json dry_run quiet")
def sample(
    flags: Flags,
    run: Generator,
    overrides: Overrides,
    out: Annotated[Path | None, typer.Option("--out", help="A grid of all samples, a .png.")] = None,
    dir: Annotated[Path | None, typer.Option("--dir", help="A new folder of single PNGs.")] = None,
    shards: Annotated[
        Path | None, typer.Option("--shards", help="A new dataset in the format of facegan prep, marked as generated.")
    ] = None,
    interpolate: Annotated[
        Path | None, typer.Option("--interpolate", help="An animation from face to face and back: .gif, .webp or .mp4.")
    ] = None,
    training_progress: Annotated[
        Path | None,
        typer.Option(
            help="The same latents at each checkpoint of RUN: .gif, .webp, .mp4; or a .png with one row per checkpoint."
        ),
    ] = None,
    best: Best = False,
    device: Device = "auto",
) -> None:
    """Draw samples: a grid, single images, a dataset, or an animation.

    The same generator and seed give the same samples for any --n.

    Example: facegan sample runs/dcgan-out --interpolate walk.mp4 --n 8 --walks 9
    """
    config = SampleConfig.of(overrides)
    targets = {"out": out, "dir": dir, "shards": shards, "interpolate": interpolate}
    kind, target = _target(targets | {"training_progress": training_progress})
    for name, kinds in _ONLY_WITH.items():
        if name in overrides and kind not in kinds:
            others = " or ".join(map(option_of, kinds))
            raise SettingsError(f"{option_of(name)} needs {others}. It has no effect with {option_of(kind)}.")
    if best and kind == "training_progress":
        raise SettingsError("--best is one checkpoint; --training-progress shows all of them. Leave one of them out.")
    from facegan import sample as sampling

    if kind in ("interpolate", "training_progress") and target.suffix.lower() != ".png":
        sampling.check_animation(target, config.fps)
    run = sampling.best_of(run) if best else run
    request = sampling.SampleRequest(run, config, device, flags.trust_code, flags.console)
    found = {"run": str(run), "seed": config.seed, "seeds": config.seeds, "latents": config.latents, "out": str(target)}
    found |= config.asked | config.changes
    if flags.dry_run:
        count, nets = sampling.count_samples(request, kind, target)
        found |= {"n": count, "not_tried": warn_not_tried([nets])}
        flags.output(found, f"{counted(count, 'sample')} of {run} would be written to {target}")
        return
    start = time.monotonic()
    if kind == "out":
        found["n"] = sampling.write_grid(request, target)
    elif kind == "dir":
        found["n"] = sampling.write_pictures(request, target)
    elif kind == "shards":
        info = sampling.write_shards(request, target)
        found |= {"n": info.totals.faces, "shards": len(info.shards), "bytes": info.totals.bytes}
    else:
        write = sampling.write_interpolation if kind == "interpolate" else sampling.write_progress
        animation = write(request, target)
        found |= {"n": animation.samples, "frames": animation.frames, "fps": animation.fps}
    flags.output(found | {"seconds": round(time.monotonic() - start, 2)}, target)


def _target(options: dict[str, Path | None]) -> tuple[str, Path]:
    """The name and value of the one option that is given."""
    given = {name: path for name, path in options.items() if path is not None}
    if len(given) != 1:
        raise SettingsError(
            "Name one of --out grid.png, --dir DIR, --shards DIR, --interpolate walk.gif and "
            f"--training-progress growth.gif{', not ' + ' and '.join(map(option_of, given)) if given else ''}."
        )
    kind, target = next(iter(given.items()))
    if kind == "out" and target.suffix.lower() != ".png":
        raise SettingsError(f"--out {target}: choose a name that ends in .png.")
    if kind == "out" or (kind == "training_progress" and target.suffix.lower() == ".png"):
        refuse_folder(target)
    return kind, target


@options(ProjectConfig, flags="trust_code sets json dry_run quiet")
def project(
    flags: Flags,
    run: Generator,
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Photographs, with a face each.")],
    overrides: Overrides,
    shards: Annotated[
        str,
        typer.Option(
            "--shards",
            show_default=False,
            help="The dataset whose settings cut the faces out, by default the run's; its split test, or val, gives "
            "real faces to compare the distances with.",
        ),
    ] = "",
    out: Annotated[Path, typer.Option("--out", help="The picture; the latents go beside it.")] = Path("projection.png"),
    best: Best = False,
    device: Device = "auto",
) -> None:
    """Find the latents whose faces are nearest to photographs: a picture, and latents for facegan sample.

    The latents are a .safetensors file for facegan sample --latents, which draws them, or moves from one to the next
    with --interpolate. A distance is 0 for the same face, about 1 for one that has only its colours.

    Example: facegan project runs/dcgan-out me.jpg you.jpg --shards out/
    """
    config = ProjectConfig.of(overrides)
    if out.suffix.lower() != ".png":
        raise SettingsError(f"--out {out}: choose a name that ends in .png.")
    refuse_folder(out)
    from facegan.evaluate.project import plan, project_photos
    from facegan.sample import SampleRequest, best_of

    request = SampleRequest(
        best_of(run) if best else run, device=device, trust_code=flags.trust_code, console=flags.console
    )
    found: dict[str, Any] = {
        "run": str(request.run),
        "out": str(out),
        **config.model_dump(exclude={"with_", "without", "class_"}),
    }
    found |= config.asked
    if flags.dry_run:
        _, spec, _, settings = plan(request.run, shards, config)
        if missing := [shown(photo) for photo in photos if not photo.is_file()]:
            raise DatasetError(f"No such photograph: {', '.join(missing)}.")
        not_tried = warn_not_tried([settings.detector, spec.name])
        faces = counted(len(photos), "photograph")
        flags.output(
            found | {"photos": list(map(str, photos)), "not_tried": not_tried}, f"{faces} would be projected to {out}"
        )
        return
    start = time.monotonic()
    projected = project_photos(request, photos, shards, config)
    latents = projected.write(out)
    found |= {"latents": str(latents), **projected.to_json(), "seconds": round(time.monotonic() - start, 2)}
    table = ["photograph", "distance", "held-out real faces"], projected.rows()
    flags.output(found, f"{out}  (and {latents}, for facegan sample --latents)", table=table)


@options(DirectionsConfig, flags="trust_code sets json dry_run quiet")
def directions(
    flags: Flags,
    run: Generator,
    overrides: Overrides,
    shards: Annotated[
        str,
        typer.Option("--shards", show_default=False, help="Faces with attributes: a dataset that facegan prep wrote."),
    ] = "",
    best: Best = False,
    device: Device = "auto",
) -> None:
    """Find directions in the latents along which faces gain an attribute, for facegan sample --move.

    They are written beside the generator as directions.safetensors, with a picture. An effect is the change of the
    attribute's share per standard deviation, measured on other samples.

    Example: facegan directions runs/dcgan-out --shards out/
    """
    config = DirectionsConfig.of(overrides)
    if not shards:
        raise SettingsError("facegan directions needs faces with attributes. Name their dataset with --shards OUT.")
    from facegan.evaluate.directions import find_directions, labelled_faces
    from facegan.nets.weights import read_generator
    from facegan.sample import SampleRequest, best_of
    from facegan.sample.directions import directions_path
    from facegan.sample.generate import save_png

    run = best_of(run) if best else run
    request, path = SampleRequest(run, SampleConfig(), device, flags.trust_code, flags.console), directions_path(run)
    result = {"run": str(run), "out": str(path), **config.model_dump()}
    if flags.dry_run:
        spec = read_generator(run)[2]
        labelled_faces(run, spec, shards, config)
        not_tried = warn_not_tried([spec.name])
        flags.output(result | {"not_tried": not_tried}, f"The directions of {run} would be written to {path}")
        return
    start = time.monotonic()
    found = find_directions(request, shards, config)
    picture = path.with_suffix(".png")
    found.directions.write(path)
    save_png(picture, found.picture)
    for why, names in found.left_out.items():
        flags.console.note(f"Without {', '.join(map(shown, names))}: {why}.")
    result |= {"picture": str(picture), **found.to_json(), "seconds": round(time.monotonic() - start, 2)}
    table = ["attribute", "effect", "largest effects on others"], found.rows()
    flags.output(
        result, f"{path}  (look at {picture}; try: facegan sample {run} --move NAME=+2 --out a.png)", table=table
    )


@options(EvalConfig, EvalResources, flags="trust_code recipe sets json dry_run quiet")
def eval(
    flags: Flags,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|FOLDER|GENERATOR",
            help="A run, a checkpoint, a generator.safetensors, or a folder of images from any program.",
            show_default=False,
        ),
    ],
    overrides: Overrides,
    shards: Annotated[
        str, typer.Option("--shards", show_default=False, help="Real faces: a dataset that facegan prep wrote.")
    ] = "",
    best: Best = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="A folder for eval.json and neighbours.png. [default: the run's]")
    ] = None,
) -> None:
    """Measure how close a generator's samples, or a folder's images, are to real faces.

    Every value comes with a reference: the same metric between real faces. An unavailable metric is skipped, with
    the reason. For a run the result is saved as eval.json, with the samples' nearest faces as neighbours.png.

    Example: facegan eval runs/dcgan-out --shards out/ --n 2000
    """
    with flags.resolved("eval", overrides) as values:
        resources, config = EvalResources.pop_from(values), EvalConfig.pop_from(values)
    if not shards:
        raise SettingsError("facegan eval needs real faces. Name a dataset of facegan prep with --shards OUT.")
    from facegan.evaluate.run import evaluate_run, plan

    if best and target.exists():  # a missing one is an error below
        from facegan.sample import best_of

        target, out = best_of(target), out or target
    if flags.dry_run:
        planned = plan(target, shards, config)
        warn_not_tried(planned["not_tried"])
        flags.output(planned, *(f"{name} = {value}" for name, value in planned.items()))
        return
    found = evaluate_run(target, shards, config, resources, console=flags.console, out=out, trust_code=flags.trust_code)
    saved = [f"{found.picture.with_name(EVALUATION)}  (and look at {found.picture})"] if found.picture else []
    columns = ["metric", "value", "better", "real faces", "beside them", "what it is"]
    flags.output(found.to_json(), *saved, table=(columns, found.rows()))


@options(ExportConfig, flags="trust_code recipe sets json dry_run quiet")
def export(
    flags: Flags,
    run: Generator,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder.")],
    overrides: Overrides,
    best: Best = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="NAMESPACE/NAME",
            help="Upload to the Hugging Face Hub with your login; new repositories are private.",
        ),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository of --push public.")] = False,
) -> None:
    """Write a generator for other programs: weights, graphs, samples, and a model card.

    The card says how to sample without facegan, names the training data and its terms, and lists the metrics.

    Example: facegan export runs/dcgan-out generator/ --onnx
    """
    with flags.resolved("export", overrides) as values:
        config = ExportConfig.of(values)
    if public and not push:
        raise SettingsError("--public needs --push NAMESPACE/NAME. Nothing is published without it.")
    if best:
        from facegan.sample import best_of

        run = best_of(run)
    from facegan.export.write import export_generator, plan_export

    names = plan_export(run, folder, config)
    if flags.dry_run:
        from facegan.nets.weights import read_generator

        code = warn_not_tried([read_generator(run)[2].name])
        found = {"run": str(run), "out": str(folder), "files": names, "push": push, "not_tried": code}
        uploaded = f", and uploaded to {push}" if push else ""
        flags.output(found, f"{', '.join(names)} of {run} would be written to {folder}{uploaded}")
        return
    from facegan.export import hub

    push = hub.check_login(push) if push is not None else None
    exported = export_generator(run, folder, config, console=flags.console, trust_code=flags.trust_code)
    pushed = {"pushed": hub.push(folder, push, public=public)} if push else {}
    look = f"{folder}  (look at {folder / 'README.md'})"
    table = ["file", "size", "difference from PyTorch"], exported.rows()
    flags.output(exported.to_json() | pushed, look, *pushed.values(), table=table)
