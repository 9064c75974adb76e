"""`watch_run`: the page of a run in training, written again after each of its sample grids."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from facegan.console import Console
from facegan.errors import DiskError, FaceganError, Interrupted, WebPackageError
from facegan.report.runs import Run, read_run
from facegan.report.sections import Baseline
from facegan.report.write import write_report
from facegan.run_dir import newest_images, sample_grids
from facegan.training.log import read_stats

POLL_SECONDS = 1.0
_REST = 5  # between two pages, in durations of writing one: training needs the CPU, too


def watch_run(folder: Path, out: Path, baseline: Callable[[Run], Baseline | None], console: Console) -> Path:
    """Writes the page after every new grid, and a last time when the training has reached its length; returns it.

    Waits for a training that has not begun, and for one that was stopped to be resumed. A file that cannot be read is
    tried again. Ctrl-C writes the page a last time and raises Interrupted. ``baseline``: as `write_report` takes it.
    """
    shown, said, run = None, "", None
    try:
        while True:
            start, ended, reached = time.monotonic(), False, newest_images(folder) or 0
            try:
                newest = [(path, path.stat().st_mtime_ns) for _, path in sample_grids(folder)[-1:]]
                if any("loss_g" in row for row in read_stats(folder)):
                    run = read_run(folder)
                    # `--stop-after` records why it ended a training early.
                    ended = reached >= (run.last if run.record.get("ended") else run.settings)["images"]
                    if ended or newest != shown:
                        write_report(run, out, baseline(run), watched=not ended)
                        line, shown = f"{run.last['images']:,} of {run.settings['images']:,} images: {out}", newest
                        if said != (said := line):
                            console.note(said)
                elif not said:
                    console.note(said := f"Waiting for facegan train to write into {folder}. Ctrl-C ends this.")
            except (FaceganError, OSError) as error:
                if ended or (shown is None and isinstance(error, DiskError | WebPackageError)):
                    raise
                if said != (said := str(error)):
                    console.warn(f"{said.splitlines()[0]} Trying again.")
            if ended:
                return out
            time.sleep(max(POLL_SECONDS, _REST * (time.monotonic() - start)))
    except KeyboardInterrupt:
        if shown is None or run is None:
            raise Interrupted(f"Stopped waiting for {folder}; no page was written.") from None
        write_report(run, out, baseline(run))
        raise Interrupted(f"Stopped watching {folder}. Its page is {out}.") from None
