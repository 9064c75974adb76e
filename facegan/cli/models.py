"""``facegan models`` and ``doctor``: detector models, and whether everything that facegan needs is installed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from facegan.cli.options import Flags, Group, options
from facegan.errors import ModelError, SettingsError, one_of, suggest
from facegan.files import human_bytes


@options()
def list_models(flags: Flags) -> None:
    """List the models: where each was found, and whether its checksum matches."""
    from facegan.faces.detect import cache_folder, find_model
    from facegan.manifests import known_models

    rows = list[dict[str, Any]]()
    for model in known_models().values():
        try:
            path = find_model(model)
            state = "found" if path else "missing"
        except ModelError as error:
            path, state = None, str(error).splitlines()[0]
        rows.append({**vars(model), "path": str(path or ""), "state": state})
    cells = [[r["name"], r["title"], human_bytes(r["bytes"]), r["sha256"][:12], r["path"] or r["state"]] for r in rows]
    missing = any(row["state"] == "missing" for row in rows)
    advice = ["Missing models are downloaded when first needed, or now by: facegan models pull"] if missing else []
    table = ["name", "model", "size", "sha256", "where"], cells
    flags.output({"models": rows, "cache": str(cache_folder())}, *advice, table=table)


@options()
def pull(
    flags: Flags,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="short or full; all if none is named.")
    ] = None,
) -> None:
    """Download models into the user cache and check their SHA-256."""
    from facegan.faces.detect import resolve_model
    from facegan.manifests import known_models

    known = known_models()
    for name in names or []:
        if name not in known:
            raise SettingsError(f"There is no model '{name}'. Choose {one_of(known)}.{suggest(name, known)}")
    paths = {name: str(resolve_model(known[name])) for name in names or known}
    flags.output(paths, *(f"{name}  {path}" for name, path in paths.items()))


@options()
def doctor(flags: Flags) -> None:
    """Show what is installed, the hardware, the detector models, and what is missing.

    Each missing package comes with the command that installs it. The exit code is 1 if facegan needs it.

    Example: facegan doctor --json
    """
    from facegan.doctor import examine

    findings = examine()
    ok, advice = all(finding.ok for finding in findings), []
    for fine, heading in ((False, "To fix it:"), (True, "If you need it:")):
        remedies = dict.fromkeys(f"  {finding.remedy}" for finding in findings if finding.remedy and finding.ok == fine)
        advice += [heading, *remedies] if remedies else []
    rows = [["ok" if finding.ok else "MISSING", finding.what, finding.found] for finding in findings]
    found = {"ok": ok, "findings": [vars(finding) for finding in findings]}
    flags.output(found, *advice, table=(["", "what", "found"], rows))
    if not ok:
        raise typer.Exit(1)


models: Group = {"list": list_models, "pull": pull}
