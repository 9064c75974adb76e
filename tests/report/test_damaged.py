"""Damaged run folders give a page or an error, never a traceback."""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facegan.errors import CheckpointError
from facegan.recipes.recipe import recipe_of_run
from facegan.report.charts import compared_curves
from facegan.report.runs import read_run
from facegan.report.sections import metrics_section
from facegan.report.write import differences, run_page, write_report
from tests.recipes.program import facegan
from tests.report.conftest import add_rows, edit_record

NASTY = (None, 3, -1, True, "", "x", "<script>", "\udcff", [], [3], {}, {"a": {}}, 1e308, 10**400, float("nan"))
ROWS = (
    {"protocol": {"what": "toys"}, "floor": {"swd": 5.0}},
    {"measured": {"swd": 30.0, "swd_64": 31.0}, "best": True},
    {"health": "collapse", "value": 0.1, "text": "alike"},
)
EVALUATION = {
    "measured": {"kind": "run"},
    "metrics": {"swd": 12.5},
    "floors": {"swd": 5.5},
    "absent": {"fid": "no weights"},
    "protocol": {"split": "test"},
    "warnings": ["few images"],
}


@pytest.fixture(scope="module")
def plain(toy_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with rows of every kind, without pictures; tests restore what they change."""
    folder = tmp_path_factory.mktemp("damaged") / "run"
    folder.mkdir()
    for name in ("run.json", "stats.jsonl"):
        shutil.copy(toy_run / name, folder)
    add_rows(folder, *ROWS)
    (folder / "eval.json").write_text(json.dumps(EVALUATION))
    return folder


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every part of a value."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(part, dict | list):
            yield from paths_in(part, (*at, key))


def altered(value: Any, at: tuple[Any, ...], to: Any, gone: bool) -> Any:
    whole = part = copy.deepcopy(value)
    for key in at[:-1]:
        part = part[key]
    if gone:
        del part[at[-1]]
    else:
        part[at[-1]] = to
    return whole


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", ["run.json", "stats.jsonl", "eval.json"])
def test_one_altered_value(name: str, plain: Path, data: st.DataObject) -> None:
    """The page has only valid JSON, or the error has up to three lines."""
    whole = (plain / name).read_text()
    values = [json.loads(line) for line in whole.splitlines()] if name == "stats.jsonl" else json.loads(whole)
    if name == "stats.jsonl":
        values = [values[0], *values[-4:]]
    at = data.draw(st.sampled_from(list(paths_in(values))))
    values = altered(values, at, data.draw(st.sampled_from(NASTY)), data.draw(st.integers(0, 5)) == 0)
    text = "\n".join(map(json.dumps, values)) if name == "stats.jsonl" else json.dumps(values)
    (plain / name).write_text(text)
    try:
        run = read_run(plain)
    except CheckpointError as error:
        lines = str(error).splitlines()
        assert len(lines) <= 3
    else:
        page = run_page(run, recipe_of_run(run)).decode()
        json.dumps([run.figures(), differences([run, run]), compared_curves([run, run]).to_json()])
        assert "<script>3" not in page
        assert not any(number in page for number in (": NaN", ": Infinity", "[NaN", "[Infinity"))
    finally:
        (plain / name).write_text(whole)


@pytest.mark.parametrize("name", ["run.json", "stats.jsonl", "eval.json"])
@pytest.mark.parametrize("damaged", [b"", b"\xff\xfe", b"[" * 100_000, b"9" * 5_000])
def test_files_without_json(name: str, damaged: bytes, plain: Path) -> None:
    whole = (plain / name).read_bytes()
    (plain / name).write_bytes(damaged)
    try:
        if name == "eval.json":
            assert "cannot be read" in metrics_section(plain)["why"]
        else:
            with pytest.raises(CheckpointError, match=r"is not the record of a run|has no row of losses"):
                read_run(plain)
    finally:
        (plain / name).write_bytes(whole)


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
