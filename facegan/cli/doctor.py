"""``facegan doctor``: is everything here that facegan needs?"""

from __future__ import annotations

import typer

from facegan.cli.options import Debug, Json
from facegan.console import print_json, print_result, print_table


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
