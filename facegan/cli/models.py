"""``facegan models`` and ``doctor``: detector models, and whether everything that facegan needs is installed."""

from __future__ import annotations

from typing import Annotated

import typer

from facegan.cli.options import Json, options
from facegan.console import print_json, print_result, print_table
from facegan.errors import ModelError, SettingsError, one_of, suggest
from facegan.files import human_bytes

models = typer.Typer(help="List and download the face detection models.", no_args_is_help=True)


@models.command("list")
@options()
def list_models(json: Json = False) -> None:
    """List the models: where each was found, and whether its checksum matches."""
    from facegan.faces.detect import cache_folder, find_model
    from facegan.manifests import known_models

    rows = []
    for model in known_models().values():
        try:
            path = find_model(model)
            state = "found" if path else "missing"
        except ModelError as error:
            path, state = None, str(error).splitlines()[0]
        rows.append({**vars(model), "path": str(path or ""), "state": state})
    if json:
        print_json({"models": rows, "cache": str(cache_folder())})
        return
    table = [[r["name"], r["title"], human_bytes(r["bytes"]), r["sha256"][:12], r["path"] or r["state"]] for r in rows]
    print_table(["name", "model", "size", "sha256", "where"], table)
    if any(row["state"] == "missing" for row in rows):
        print_result("Missing models are downloaded when first needed, or now by: facegan models pull")


@models.command("pull")
@options()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="short or full; all if none is named.")
    ] = None,
    json: Json = False,
) -> None:
    """Download models into the user cache and check their SHA-256."""
    from facegan.faces.detect import resolve_model
    from facegan.manifests import known_models

    known = known_models()
    for name in names or []:
        if name not in known:
            raise SettingsError(f"There is no model '{name}'. Choose {one_of(known)}.{suggest(name, known)}")
    paths = {name: str(resolve_model(known[name])) for name in names or known}
    if json:
        print_json(paths)
    else:
        print_result(*(f"{name}  {path}" for name, path in paths.items()))


@options()
def doctor(json: Json = False) -> None:
    """Show what is installed, the hardware, the detector models, and what is missing, with its remedy.

    The exit code is 1 if something is missing that facegan needs.
    """
    from facegan.doctor import examine

    findings = examine()
    if json:
        print_json({"ok": all(f.ok for f in findings), "findings": [vars(f) for f in findings]})
    else:
        marks = {True: "ok", False: "MISSING"}
        print_table(["", "what", "found"], [[marks[f.ok], f.what, f.found] for f in findings])
        for ok, heading in ((False, "To fix it:"), (True, "If you need it:")):
            remedies = dict.fromkeys(f.remedy for f in findings if f.remedy and f.ok == ok)
            if remedies:
                print_result(heading, *(f"  {remedy}" for remedy in remedies))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
