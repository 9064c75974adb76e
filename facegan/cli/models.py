"""``facegan models``: detector models, and where they are."""

from __future__ import annotations

from typing import Annotated

import typer

from facegan.cli.options import Debug, Json
from facegan.console import print_json, print_result, print_table
from facegan.errors import ModelError, SettingsError, one_of, suggest
from facegan.files import human_bytes

app = typer.Typer(help="List and fetch the face detection models.", no_args_is_help=True)


@app.command("list")
def list_models(json: Json = False, debug: Debug = False) -> None:
    """Which models there are, where each was found, and whether its checksum is right."""
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
        print_result("Missing ones are fetched when they are first needed, or now by: facegan models pull")


@app.command("pull")
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="short, full; all where none is named.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch models into the user cache, each checked by its SHA-256."""
    from facegan.faces.detect import resolve_model
    from facegan.manifests import known_models

    known = known_models()
    for name in names or []:
        if name not in known:
            raise SettingsError(f"There is no model '{name}': choose {one_of(known)}.{suggest(name, known)}")
    paths = {name: str(resolve_model(known[name])) for name in names or known}
    if json:
        print_json(paths)
    else:
        print_result(*(f"{name}  {path}" for name, path in paths.items()))


# ``facegan doctor``: is everything here that facegan needs?


def doctor(json: Json = False, debug: Debug = False) -> None:
    """One table of what is installed, the hardware, the detector models, and what is missing, with its remedy.

    Exit code 1 where something is missing that facegan can't do without.
    """
    from facegan.doctor import examine

    findings = examine()
    if json:
        print_json({"ok": all(f.ok for f in findings), "findings": [vars(f) for f in findings]})
    else:
        marks = {True: "ok", False: "MISSING"}
        print_table(["", "what", "found"], [[marks[f.ok], f.what, f.found] for f in findings])
        for ok, heading in ((False, "To mend it:"), (True, "If you need it:")):
            remedies = dict.fromkeys(f.remedy for f in findings if f.remedy and f.ok == ok)
            if remedies:
                print_result(heading, *(f"  {remedy}" for remedy in remedies))
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
