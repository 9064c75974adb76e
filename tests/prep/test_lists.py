"""CelebA as Kaggle and torchvision have it: lists beside the photographs, and what macOS and Windows leave there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from facegan.config import PrepConfig
from facegan.errors import DatasetError, SourceError
from facegan.prep import prepare as prepare_module
from facegan.prep.prepare import PrepResult, prepare
from tests.prep.outputs import digest, rows
from tests.prep.test_preflight import stop
from tests.prep.test_splits import FAST, metas
from tests.recipes.program import facegan
from tests.recording import RecordingConsole

USES = {"list_attr_celeba.csv": "used as with --attributes", "list_eval_partition.csv": "used as with --split source"}
NAMES = [f"{number:06d}.jpg" for number in range(1, 61)]


def write_lists(folder: Path, names: list[str], comma: str = ",", end: str = "\r\n") -> None:
    """Of every photograph: Bald every third, Smiling the others; a fourth of them val, a fourth test."""
    suffix, attributes = ("csv", "image_id,Bald,Smiling") if comma == "," else ("txt", f"{len(names)}{end}Bald Smiling")
    lines = [comma.join([name, *(("-1", "1") if i % 3 else ("1", "-1"))]) for i, name in enumerate(names)]
    (folder / f"list_attr_celeba.{suffix}").write_bytes((end.join([attributes, *lines]) + end).encode())
    parts = [f"{name}{comma}{max(0, i % 4 - 1)}" for i, name in enumerate(names)]
    header = ["image_id,partition"] if comma == "," else []
    (folder / f"list_eval_partition.{suffix}").write_bytes((end.join(header + parts) + end).encode())


@pytest.fixture
def archive(portraits: Path, tmp_path: Path) -> Path:
    folder, inner = tmp_path / "archive", "img_align_celeba/img_align_celeba"
    shutil.copytree(portraits, folder / inner)
    write_lists(folder, NAMES)
    (folder / "__MACOSX").mkdir()
    mac = ("__MACOSX/._000001.jpg", "__MACOSX/._list_attr_celeba.csv", ".DS_Store")
    for name in (*mac, f"{inner}/._2.jpg", f"{inner}/Thumbs.db"):
        (folder / name).write_bytes(b"x")
    return folder


def run(source: Path, out: Path, **options: Any) -> PrepResult:
    return prepare(source, out, PrepConfig.of(FAST), workers=0, **options)


def test_lists_in_kaggles_layout_are_used(archive: Path, tmp_path: Path) -> None:
    console = RecordingConsole()
    result = run(archive, tmp_path / "out", console=console)
    assert (result.kept, result.rejected, result.lists) == (60, {}, USES)
    assert result.ignored == {".csv": 2, ".db": 1, "._": 3, "(none)": 1}
    assert console.notes[0] == "Found list_attr_celeba.csv in the source, used as with --attributes."
    assert [row["split"] for row in rows(tmp_path / "out")].count("test") == 15
    found = {meta["path"]: meta["attributes"] for meta in metas(tmp_path / "out")}
    assert found["000001.jpg"] == {"Bald": 1, "Smiling": -1}
    run(archive, tmp_path / "given", split="source", attributes=archive / "list_attr_celeba.csv")
    assert digest(tmp_path / "given") == digest(tmp_path / "out")


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_archives_give_what_the_folder_gives(archive: Path, tmp_path: Path, kind: str) -> None:
    run(archive, tmp_path / "out")
    run(Path(shutil.make_archive(str(tmp_path / "packed"), kind, archive)), tmp_path / "other")
    assert digest(tmp_path / "other") == digest(tmp_path / "out")


def test_torchvisions_layout_is_read_too(portraits: Path, tmp_path: Path) -> None:
    shutil.copytree(portraits, tmp_path / "celeba/img_align_celeba")
    write_lists(tmp_path / "celeba", NAMES, " ", "\n")
    assert [*run(tmp_path / "celeba", tmp_path / "out").lists] == ["list_attr_celeba.txt", "list_eval_partition.txt"]


def test_given_options_win_over_lists(archive: Path, tmp_path: Path) -> None:
    assert run(archive, tmp_path / "out", split="none", attributes="none").lists == {}
    assert {row["split"] for row in rows(tmp_path / "out")} == {"train"}
    assert not any("attributes" in meta for meta in metas(tmp_path / "out"))


def test_lists_of_other_photographs_are_named(archive: Path, tmp_path: Path) -> None:
    write_lists(archive, NAMES[:40])
    why = "not used: it has no line for img_align_celeba/img_align_celeba/000041.jpg"
    assert run(archive, tmp_path / "out").lists == dict.fromkeys(USES, why)
    given = ["prep", str(archive), str(tmp_path / "some"), "--limit", "40", "--dry-run", "--json"]
    assert json.loads(facegan(*given).stdout)["lists"] == USES
    with pytest.raises(SourceError, match=r"--split source: the source does not say if 000001\.jpg"):
        run(archive, tmp_path / "other", split="source")
    (archive / "list_attr_celeba.csv").write_text("image_id,Bald\n000001.jpg,2,1\n")
    (archive / "list_eval_partition.csv").unlink()
    os.mkfifo(archive / "list_eval_partition.csv")  # opening it would wait for ever
    (why,) = run(archive, tmp_path / "bad").lists.values()
    assert why.startswith("not used: list_attr_celeba.csv is damaged or has another format (CSV parse error: Row #2:")


def test_additions_need_the_same_lists(archive: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(archive, out, limit=20, split="none", attributes="none")
    with pytest.raises(DatasetError, match=r"(?s)with --split none; .*--attributes none --split none leaves them out"):
        run(archive, out)
    assert run(archive, out, split="none", attributes="none").photos == 60
    run(archive, out, limit=20, force=True)
    assert run(archive, out).photos == 60
    (archive / "list_attr_celeba.csv").unlink()
    with pytest.raises(DatasetError, match=r"this command asks for --attributes none\.\nUse another OUT"):
        run(archive, out)


def test_interrupted_look_writes_nothing(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "needs_forecast", lambda *_: True)
    monkeypatch.setattr(prepare_module, "forecast", stop)
    done = facegan("prep", archive, tmp_path / "out", "--workers", 0, "--detector", "none", "--crop", "squash")
    assert (done.code, (tmp_path / "out").exists()) == (130, False)
    assert done.stderr.endswith("Stopped before anything was written. Run the same command to start again.\n")
