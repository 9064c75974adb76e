"""``facegan report --watch``: the page of a run in training, until it ends or Ctrl-C."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from facegan.console import Console
from facegan.errors import Interrupted, WebPackageError
from facegan.report import watch
from facegan.report.runs import Run, read_run
from facegan.report.write import write_report
from tests.recipes.program import facegan
from tests.report.conftest import watching
from tests.training.toy import stop_after, toy_config, toy_run

RELOADS = "this page reloads itself"


def test_finished_run_is_written_once(run: Path) -> None:
    facegan("report", run, "--out", run / "plain.html")
    done = facegan("report", run, "--watch")
    page = run / "report.html"
    assert (done.code, done.stdout, done.stderr) == (0, f"{page}\n", f"320 of 320 images: {page}\n")
    assert page.read_bytes() == (run / "plain.html").read_bytes()
    planned = facegan("report", run.with_name("later"), "--watch", "--dry-run")  # a training may begin later
    assert (planned.code, "after every sample grid" in planned.stdout) == (0, True)
    refused = facegan("report", run / "run.json", "--watch")
    assert (refused.code, "is a file" in refused.stderr) == (2, True)
    refused = facegan("report", run, "--watch", "--explore")
    assert (refused.code, "Leave one of them out" in refused.stderr) == (2, True)


def test_page_follows_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not exist at first; it is stopped, damaged, mended and resumed."""
    monkeypatch.setattr(watch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "_REST", 0)
    said: list[str] = []
    console = Console()
    console.note = console.warn = lambda *lines: said.extend(lines)  # type: ignore[method-assign]

    def wait_for(text: str) -> None:
        end = time.monotonic() + 120
        while not any(text in line for line in said):
            assert time.monotonic() < end
            time.sleep(0.01)

    run, page, config = tmp_path / "discs", tmp_path / "page.html", toy_config(images=320, sample_every=64)
    thread = threading.Thread(target=watch.watch_run, args=(run, page, lambda run: None, console), daemon=True)
    thread.start()
    wait_for(f"Waiting for facegan train to write into {run}")
    with pytest.raises(Interrupted):
        toy_run(run, config, stop=stop_after(9))
    wait_for(f"128 of 320 images: {page}")
    assert RELOADS in page.read_text()
    stats = (run / "stats.jsonl").read_bytes()
    (run / "stats.jsonl").write_bytes(b"{}\n" + stats)
    wait_for("is damaged in line 1")
    (run / "stats.jsonl").write_bytes(stats)
    toy_run(run, config)
    thread.join(120)
    assert (said[-1], sum("Waiting" in line for line in said)) == (f"320 of 320 images: {page}", 1)
    assert len(said) == len(set(said))
    assert page.read_bytes() == write_report(read_run(run), tmp_path / "other.html").read_bytes()


def test_interrupted_watch_leaves_a_plain_page(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch.time, "sleep", interrupt)
    shutil.rmtree(run / "checkpoints/000000320")
    ended = facegan("report", run, "--watch")
    assert (ended.code, ended.stdout) == (130, "")
    assert ended.stderr.endswith(f"\n  Stopped watching {run}. Its page is {run / 'report.html'}.\n")
    assert RELOADS not in (run / "report.html").read_text()
    ended = facegan("report", tmp_path / "none", "--watch")
    assert (ended.code, "no page was written" in ended.stderr) == (130, True)


def test_missing_chart_library_ends_the_watch(run: Path, tmp_path: Path) -> None:
    def missing(found: Run) -> None:
        raise WebPackageError("there is no npm")

    shutil.rmtree(run / "checkpoints/000000320")
    with pytest.raises(WebPackageError):
        watch.watch_run(run, tmp_path / "page.html", missing, Console(quiet=True))


def test_page_reloads_unless_it_is_used(chromium: Any, run: Path, tmp_path: Path) -> None:
    page = write_report(read_run(run), tmp_path / "page.html", watched=True)
    with watching(chromium) as watched:
        watched.page.clock.install()
        shown = watched.open(page)
        opened = len(watched.requests)
        shown.mouse.click(5, 5)
        shown.clock.run_for(25_000)
        assert len(watched.requests) == opened
        with shown.expect_event("load"):
            shown.clock.run_for(25_000)
