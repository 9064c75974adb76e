"""``facegan report`` and ``compare``: a page of a run or a dataset, and several runs side by side."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from facegan.cli.options import Flags, Overrides, options, warn_not_tried
from facegan.config.resources import ReportConfig
from facegan.console import counted
from facegan.errors import SettingsError
from facegan.run_dir import RECORD, check_report_path, report_path
from facegan.shards.format import DATASET_FILE, DatasetInfo


@options(ReportConfig, flags="trust_code json dry_run quiet")
def report(
    flags: Flags,
    folder: Annotated[Path, typer.Argument(metavar="RUN|OUT", help="The folder of a run, or of a dataset.")],
    overrides: Overrides,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The page, a name that ends in .html; with --explore a folder. "
            "[default: RUN/report.html, OUT/report.html, or RUN/explorer]",
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write the page again after every sample grid until the training ends.")
    ] = False,
) -> None:
    """Write a page about a run (samples, curves, warnings, metrics, settings) or about a dataset.

    The page is one HTML file that needs no network. It shows photographs of the dataset, so the dataset's terms apply
    to it. That of a dataset shows what prep rejected, and what other thresholds would keep. With --explore the trained
    generator runs in the page (needs facegan[onnx]), opened from disk.

    Example: facegan report runs/dcgan-out --explore
    """
    explore = ReportConfig.of(overrides).explore
    target = out or report_path(folder, explore)
    check_report_path(target, explore)
    if watch and explore:
        raise SettingsError("--watch and --explore write different pages. Leave one of them out.")
    if (folder / DATASET_FILE).is_file() and not (folder / RECORD).exists():
        if explore:
            raise SettingsError(f"--explore draws new faces with a trained generator, and {folder} is a dataset.")
        if watch:
            raise SettingsError(f"--watch follows a training, and {folder} is a dataset.")
        _report_dataset(folder, target, flags)
        return
    from facegan.recipes.recipe import recipe_of_run
    from facegan.report.runs import read_run
    from facegan.report.write import write_report

    if watch and folder.exists() and not folder.is_dir():
        raise SettingsError(f"--watch follows the folder of a run, and {folder} is a file.")
    if watch and flags.dry_run:
        what = f"A page of {folder} would be written to {target} after every sample grid"
        flags.output({"run": str(folder), "out": str(target), "explore": False, "not_tried": []}, what)
        return
    if watch:
        from facegan.report.watch import watch_run

        watch_run(folder, target, recipe_of_run, flags.console)
        found = {"run": str(folder), "out": str(target), "bytes": target.stat().st_size, "explore": False}
        flags.output(found, target)
        return
    read = read_run(folder)
    if flags.dry_run:
        code: list[str] = []
        if explore:
            from facegan.nets.weights import read_generator

            code = warn_not_tried([read_generator(folder)[2].name])
        what = f"A page of {folder} with {read.last['images']:,} images would be written to {target}"
        flags.output({"run": str(folder), "out": str(target), "explore": explore, "not_tried": code}, what)
        return
    if explore:
        from facegan.report.explorer import write_explorer

        flags.console.note("Exporting the generator to ONNX (about half a minute) …")
        page = write_explorer(read, target, recipe_of_run(read), trust_code=flags.trust_code)
    else:
        page = write_report(read, target, recipe_of_run(read))
    flags.output({"run": str(folder), "out": str(page), "bytes": page.stat().st_size, "explore": explore}, page)


def _report_dataset(folder: Path, target: Path, flags: Flags) -> None:
    from facegan.report.dataset import write_dataset_page

    found: dict[str, Any] = {"dataset": str(folder), "out": str(target)}
    if flags.dry_run:
        photos = DatasetInfo.read(folder).totals.photos
        what = f"A page of {folder} with {counted(photos, 'photograph')} would be written to {target}"
        flags.output(found | {"photos": photos}, what)
    else:
        page = write_dataset_page(folder, target)
        flags.output(found | {"bytes": page.stat().st_size}, page)


@options(flags="trust_code json")
def compare(
    flags: Flags,
    folders: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A page (.html) or a picture (.png): curves, and samples of the same latents."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the samples.")] = 0,
) -> None:
    """Show runs side by side: the settings that differ, rates, losses, findings, metrics.

    Example: facegan compare runs/dcgan-out runs/wgan-gp-out --out both.png
    """
    suffix = out.suffix.lower() if out else ""
    if out is not None and suffix not in (".png", ".html"):
        raise SettingsError(f"--out {out}: choose a name that ends in .html for a page, or in .png for a picture.")
    from facegan.report.runs import read_run, titles
    from facegan.report.write import differences, write_comparison, write_picture

    runs = [read_run(folder) for folder in folders]
    different = differences(runs)
    if out is not None:
        write = write_comparison if suffix == ".html" else write_picture
        write(runs, out, seed=seed, trust_code=flags.trust_code)
    metrics = sorted({name for run in runs for name in run.measured})
    rows = [
        [name, *("–" if value in (None, "") else str(value) for value in values)] for name, values in different.items()
    ]
    rows += [
        ["images", *(f"{run.last['images']:,}" for run in runs)],
        ["images/s", *(f"{run.images_per_second:,.0f}" for run in runs)],
        ["generator's loss", *(_number(run.last["loss_g"], ".3f") for run in runs)],
        ["discriminator's loss", *(_number(run.last["loss_d"], ".3f") for run in runs)],
        *([f"best {name}", *(_number(run.measured.get(name), ".4g") for run in runs)] for name in metrics),
        ["health", *(", ".join(sorted({row["health"] for row in run.findings})) or "healthy" for run in runs)],
    ]
    found = {"runs": [run.figures() for run in runs], "differences": different} | ({"out": str(out)} if out else {})
    flags.output(found, *([f"curves and samples: {out}"] if out else []), table=(["", *titles(runs)], rows))


def _number(value: float | None, form: str) -> str:
    """``–`` if there is no finite value."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)
