"""``facegan report``: a page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from facegan.cli.options import Debug, DryRun, Json, Quiet, TrustCode, make_console, say_not_tried
from facegan.console import print_json, print_result


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="The page, which ends in .html; with --explore a folder. "
            "\\[default: RUN/report.html, or RUN/explorer]",
        ),
    ] = None,
    explore: Annotated[
        bool,
        typer.Option("--explore", help="Make a folder whose index.html also draws new faces, in the reader's browser."),
    ] = False,
    trust_code: TrustCode = False,
    json: Json = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make a page of a run to look at: samples, dataset, curves, warnings, metrics, settings.

    One HTML file under 5 MB that asks nothing of any network. It shows photographs of the dataset, whose terms hold for
    it. With --explore the trained generator runs in the page (needs facegan\\[onnx]), opened straight from disk.
    """
    from facegan.report.write import check_report_path, report_path

    target = out or report_path(run, explore)
    check_report_path(target, explore)
    from facegan.recipes.run import recipe_of_run
    from facegan.report.runs import read_run

    read = read_run(run)
    if dry_run:
        code: list[str] = []
        if explore:
            from facegan.nets.weights import read_generator

            code = say_not_tried([read_generator(run)[2].name])
        what = {"run": str(run), "out": str(target), "explore": explore, "not_tried": code}
        if json:
            print_json(what)
        else:
            print_result(f"a page of {run} with {read.last['images']:,} images would go into {target}")
        return
    console = make_console(quiet)
    if explore:
        from facegan.report.explorer import write_explorer

        console.note("Writing the generator as ONNX (about half a minute) …")
        page = write_explorer(read, target, recipe_of_run(read), trust_code=trust_code)
    else:
        from facegan.report.write import write_report

        page = write_report(read, target, recipe_of_run(read))
    if json:
        print_json({"run": str(run), "out": str(page), "bytes": page.stat().st_size, "explore": explore})
    else:
        print_result(str(page))
