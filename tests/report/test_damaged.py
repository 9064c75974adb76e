"""Damaged run folders give a page or an error, never a traceback; tests/damage has many more."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import pytest

from facegan.errors import CheckpointError
from facegan.report.runs import read_run
from facegan.report.write import write_report
from tests.recipes.program import facegan
from tests.report.conftest import edit_record


def test_damaged_rows_are_named(run: Path) -> None:
    """Only the last row may be unfinished, as a killed process leaves it."""
    whole = read_run(run).rows
    lines = (run / "stats.jsonl").read_text().splitlines()
    (run / "stats.jsonl").write_text("\n".join([*lines[:2], "", *lines[2:], '{"images": 9']))
    assert read_run(run).rows == whole
    (run / "stats.jsonl").write_text("\n".join([*lines[:2], "", lines[2][:-5], *lines[3:]]))
    with pytest.raises(CheckpointError, match="in line 4: the row is invalid"):
        read_run(run)
    wrong = json.dumps({**json.loads(lines[2]), "loss_d": "much"})
    (run / "stats.jsonl").write_text("\n".join(["", *lines[:2], "", wrong, *lines[3:]]))
    with pytest.raises(CheckpointError, match="in line 5: loss_d is invalid"):
        read_run(run)


def test_damaged_record_is_named(run: Path) -> None:
    edit_record(run, dataset={"faces": "many"})
    for command in ("report", "compare"):
        found = facegan(command, run, "--json")
        assert (found.code, found.stdout) == (1, "")
        assert "run.json is damaged: dataset.faces is missing or has the wrong type" in found.stderr


@pytest.mark.parametrize("side", [20_000, 2**31 - 1])
def test_huge_grids_are_left_out(side: int, run: Path) -> None:
    header = struct.pack(">I4sIIBBBBB", 13, b"IHDR", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", zlib.crc32(header[4:])) + b"\0" * 20
    (run / "samples/000000384.png").write_bytes(png)
    page = write_report(read_run(run), run / "report.html").read_text()
    assert "after 320 images" in page


def test_folder_name_that_is_not_utf8(run: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(run.parent) + b"/\xff<b>'\n\xf0\x9f\x98\x80"))
    run.rename(odd)
    for command in ("report", "compare"):
        found = facegan(command, odd, "--json")
        assert found.code == 0, found.stderr
        assert isinstance(json.loads(found.stdout), dict)
    page = (odd / "report.html").read_bytes().decode()
    assert "<b>" not in page.partition("<title>")[2].partition("</title>")[0]
