"""Control characters and line breaks in names and settings are shown as escapes by every command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from facegan.cli.app import main
from tests.test_console import is_obeyed
from tests.training.toy import toy_train

BAD = "a\x1b]0;T\x07\x1b[31m\x9b2J\u202e\nerror: forged\r"
PREP = ("--crop", "squash", "--detector", "none", "--size", "32", "--workers", "0")


@pytest.fixture
def said(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command in this process; gives all that it writes, which holds no control characters."""

    def run(*arguments: object, code: int | None = None) -> str:
        # The streams of a process of its own: what the test runner puts in their place is no part of it.
        with open(1, "w", closefd=False) as out, open(2, "w", closefd=False) as err:
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
            sys.stdout.flush()
            sys.stderr.flush()
        written = b"\n".join(capfdbinary.readouterr())
        text = written.decode(errors="surrogateescape")
        assert not [c for c in text if is_obeyed(c) and c != "\n" and not "\udca0" <= c <= "\udcff"], text
        assert not any(line.strip().startswith("error: forged") for line in text.split("\n")), text
        assert code is None or ended.value.code == code, text
        return text

    monkeypatch.setattr("signal.signal", lambda *_: None)
    return run


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate((f"{BAD}1.jpg", f"{BAD}2.png", "b.jpg")):
        pixels = np.full((40, 40, 3), number * 60, np.uint8)
        (folder / name).write_bytes(cv2.imencode(Path(name).suffix, pixels)[1].tobytes())
    (folder / f"broken{BAD}.jpg").write_bytes(b"x")
    (folder / f"x.{BAD}").write_bytes(b"x")
    return folder


def test_names_of_photographs(said: Callable[..., str], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out{BAD}"
    shown = r"a\x1b]0;T\x07\x1b[31m\x9b2J\u202e\nerror: forged\r"
    assert f"1 .{shown.lower()}" in said("prep", photos, out, *PREP, code=0)
    assert json.loads(said("prep", photos, out, *PREP, "--json").splitlines()[0])["out"] == str(out)
    assert shown in said("inspect", out, code=0)
    assert shown in said("inspect", out, f"{BAD}1.jpg", code=0)
    assert json.loads(said("inspect", out, f"{BAD}1.jpg", "--json").splitlines()[0])["path"] == f"{BAD}1.jpg"
    assert shown in said("inspect", out, f"no{BAD}", code=1)
    assert shown in said("inspect", out, f"broken{BAD}.jpg", code=0)
    assert shown in said("verify", out, code=0)
    assert shown in said("inspect", out, f"{BAD}1.jpg", "--plot", tmp_path / f"{BAD}.png", "--source", tmp_path)
    assert shown in said("select", out, tmp_path / f"new{BAD}", "--where", "score >= 0", code=0)
    assert shown in said("select", out, tmp_path / "other", "--where", f"score > {BAD}", code=2)
    (photos / f"{BAD}1.jpg").write_bytes(b"yy")
    assert f"{shown}1.jpg has changed" in said("prep", photos, out, *PREP, code=1)
    (photos / f"{BAD}1.jpg").unlink()
    assert f"first: {shown}1.jpg" in said("prep", photos, out, *PREP, code=0)


def test_arguments_in_messages(said: Callable[..., str]) -> None:
    for arguments in (
        (BAD,),
        ("prep", BAD, "out"),
        ("prep", ".", "out", f"--{BAD}"),
        ("prep", ".", "out", "--size", BAD),
        ("prep", ".", "out", "--detector", BAD),
        ("prep", ".", "out", "--set", f"prep.{BAD}=1"),
        ("prep", ".", "out", "--set", BAD),
        ("train", "--shards", BAD),
        ("train", "--shards", ".", "--method", BAD, "--debug"),
        ("train", "--shards", ".", "--set", f"train.nets={BAD}"),
        ("sample", BAD, "--out", "a.png"),
        ("sample", "run", "--out", "a.png", "--seeds", BAD),
        ("eval", ".", "--shards", ".", "--metrics", BAD),
        ("report", BAD),
        ("run", f"{BAD}.toml"),
        ("recipes", "copy", "smoke", BAD),
        ("demo", "--set", f"train.{BAD}=1"),
    ):
        said(*arguments)


def test_settings_in_recipes(said: Callable[..., str], tmp_path: Path) -> None:
    name, recipe = json.dumps(BAD), tmp_path / "mine.toml"
    for text in (
        f"[train]\n{name} = 1\n",
        f"[{name}]\nx = 1\n",
        f"{name} = 1\n",
        f"[train]\nshards = {name}\nmethod = {name}\n",
        f"[prep]\nsource = 'x'\nsize = {name}\n",
        f"[train]\nshards = 'x'\nimages = {name}\n",
    ):
        recipe.write_text(text)
        assert r"\x1b]0;T\x07\x1b[31m\x9b2J\u202e\nerror: forged" in said("recipes", "check", recipe, code=1)
    recipe.write_text(f"# \x9b31mA heading\n#\n# Paper: \u202e\n[prep]\nsource = {name}\n", newline="\n")
    assert r"\x9b31mA heading" in said("recipes", "show", recipe, code=0)


def test_texts_of_runs(said: Callable[..., str], tmp_path: Path) -> None:
    runs = [tmp_path / f"{BAD}1", tmp_path / f"{BAD}2"]
    toy_train(runs[0], images=64)
    shutil.copytree(runs[0], runs[1])
    record = json.loads((runs[1] / "run.json").read_bytes())
    record["settings"] |= {"nets": BAD, BAD: BAD}
    record |= {"precision": BAD, "versions": {BAD: BAD}, "command": BAD}
    record["dataset"]["path"] = BAD
    (runs[1] / "run.json").write_text(json.dumps(record))
    with (runs[1] / "stats.jsonl").open("a") as rows:
        rows.write(json.dumps({"images": 64, "rounds": 4, "health": BAD, "value": 0.1, "text": BAD}) + "\n")
    picture, page = tmp_path / "both.png", tmp_path / "both.html"
    assert r"\nerror: forged" in said("compare", *runs, "--out", picture, code=0)
    assert r"\nerror: forged" in said("compare", *runs, "--out", page, "--json", code=0)
    assert r"\nerror: forged" in said("report", runs[1], "--dry-run", code=0)
    assert r"\nerror: forged" in said("report", runs[1], code=0)
    assert r"\nerror: forged" in said("sample", runs[1], "--out", tmp_path / f"{BAD}.png", "--n", 1, code=0)
    assert r"\nerror: forged" in said("export", runs[1], tmp_path / "export", "--dry-run", code=0)


@pytest.mark.skipif(os.name != "posix", reason="names of bytes that are not UTF-8")
def test_printed_paths_keep_their_bytes(tmp_path: Path) -> None:
    """``$(facegan recipes copy …)`` of an ordinary name, and of one that is not UTF-8."""
    for name in ("mine.toml", "über meine.toml", os.fsdecode(b"caf\xe9.toml")):
        file = tmp_path / name
        done = subprocess.run([sys.executable, "-m", "facegan", "recipes", "copy", "smoke", file], capture_output=True)
        assert done.stdout == os.fsencode(file) + b"\n", done.stderr


def test_warnings_of_libraries() -> None:
    code = (
        "import logging, sys, warnings\nfrom facegan.console import guarded_stderr\n"
        "guard = guarded_stderr()\nguard.__enter__()\n"
        "warnings.warn('\\x1b[31m')\nlogging.getLogger('a').warning('\\x9b2J')\nprint('\\x07', file=sys.stderr)\n"
        "raise ValueError('\\x1b]0;T')"
    )
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    assert not set("\x1b\x9b\x07") & set(done.stderr)
    assert all(text in done.stderr for text in (r"\x1b[31m", r"\x9b2J", r"\x07", r"\x1b]0;T"))
