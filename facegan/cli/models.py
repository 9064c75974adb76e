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
    from facegan.faces.models import cache_folder, find_model, known_models

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
    from facegan.faces.models import known_models, resolve_model

    known = known_models()
    for name in names or []:
        if name not in known:
            raise SettingsError(f"There is no model '{name}': choose {one_of(known)}.{suggest(name, known)}")
    paths = {name: str(resolve_model(known[name])) for name in names or known}
    if json:
        print_json(paths)
    else:
        print_result(*(f"{name}  {path}" for name, path in paths.items()))
