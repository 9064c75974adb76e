"""``--log wandb|mlflow``: the rows of stats.jsonl and the sample grids of a run, replayed to a tracker.

A thread reads the run's files and sends what the tracker has not got. So a run that was killed and resumed ends with
each row once, and a tracker that is slow, offline or broken costs a warning, never the training. Rows that a roll-back
discarded stay in place of those at as many images. Server, project and mode are each package's own configuration.
"""

from __future__ import annotations

import importlib.util
import os
import re
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from facegan.console import Console
from facegan.errors import SettingsError, one_of
from facegan.files import write_json
from facegan.run_dir import read_facts, run_title, sample_grids
from facegan.training.log import read_stats, scalars_of
from facegan.training.run_record import read_record, settings_of

ID = "tracker.json"  # in the run's folder: its identity in every tracker
_PROJECT = "facegan"
_EVERY_SECONDS, _RETRY_SECONDS = 5.0, 60.0  # between two readings of the files, and after a failure
_REST = 20.0  # between two readings at least, in durations of a reading: a long run has many rows
_SOON, _PATIENCE = 3.0, 30.0  # seconds for the last rows after the training: without a message, and at most
_LONGEST_REASON = 600  # characters: MLflow names the remedy last
_BATCH = 1_000  # metrics of a request: MLflow's limit


class Entry(NamedTuple):
    """Everything that a run logged at so many images."""

    images: int
    values: dict[str, float]
    texts: dict[str, str]  # findings by kind
    grid: Path | None


def entries_of(run: Path) -> list[Entry]:
    """In order of images."""
    grids = dict(sample_grids(run))
    rows: dict[int, list[dict[str, Any]]] = {images: [] for images in grids}
    for row in read_stats(run):
        rows.setdefault(row["images"], []).append(row)
    return [
        Entry(
            images,
            {name: value for row in found for name, value in scalars_of(row).items() if value is not None},
            {f"health/{row['health']}": row["text"] for row in found if "health" in row},
            grids.get(images),
        )
        for images, found in sorted(rows.items())
    ]


class Wandb:
    """A run of Weights & Biases. Offline, where no start knows of another, each start's files hold all rows."""

    def __init__(self, run: Path, identity: str, settings: dict[str, Any]) -> None:
        import wandb

        self._picture, mode = wandb.Image, wandb.setup(wandb.Settings(silent=True)).settings.mode
        offline = mode in ("offline", "dryrun")
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            offline = True
            Console().warn("wandb has no API key, so the run is kept in ./wandb. Now: wandb login. Later: wandb sync.")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            id=identity,
            name=run_title(run),
            config=settings,
            mode="offline" if offline else None,
            resume=None if offline else "allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("*", step_metric="images")
        self._sent, self._texts = int(self._run.summary.get("images", -1)), set[tuple[str, str]]()

    def send(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if new := entry.texts.items() - self._texts:
                self._run.summary.update(dict(new))
                self._texts |= new
            if entry.images > self._sent:
                grid = {"samples": self._picture(str(entry.grid))} if entry.grid else {}
                self._run.log({"images": entry.images, **entry.values, **grid})
                self._sent = entry.images

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class Mlflow:
    """A run of MLflow, whose steps are images."""

    def __init__(self, run: Path, identity: str, settings: dict[str, Any]) -> None:
        from mlflow import MlflowClient, entities

        self._entities, self._client = entities, MlflowClient()
        name, client = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT), self._client
        experiment = client.get_experiment_by_name(name)
        where = experiment.experiment_id if experiment else client.create_experiment(name)
        known = client.search_runs([where], f"tags.`facegan.run` = '{identity}'")
        found = known[0] if known else client.create_run(where, None, {"facegan.run": identity}, run_title(run))
        self._id, new = found.info.run_id, settings.keys() - found.data.params.keys()  # MLflow refuses other values
        client.log_batch(self._id, params=[entities.Param(name, str(settings[name])) for name in sorted(new)])
        client.update_run(self._id, status="RUNNING")
        histories = {name: client.get_metric_history(self._id, name) for name in found.data.metrics}
        self._sent = {name: max(metric.step for metric in history) for name, history in histories.items()}
        self._grids = {Path(file.path).name for file in client.list_artifacts(self._id, "samples")}
        self._texts = set[tuple[str, str]]()

    def send(self, entries: Sequence[Entry]) -> None:
        now, metrics = time.time_ns() // 1_000_000, []
        for entry in entries:
            new = [(name, value) for name, value in entry.values.items() if entry.images > self._sent.get(name, -1)]
            metrics += [self._entities.Metric(name, value, now, entry.images) for name, value in new]
        for start in range(0, len(metrics), _BATCH):
            batch = metrics[start : start + _BATCH]
            self._client.log_batch(self._id, metrics=batch)
            self._sent |= {metric.key: metric.step for metric in batch}
        for entry in entries:
            if entry.grid and entry.grid.name not in self._grids:
                self._client.log_artifact(self._id, str(entry.grid), "samples")
                self._grids.add(entry.grid.name)
            for name, text in entry.texts.items() - self._texts:
                self._client.set_tag(self._id, name, text)
                self._texts.add((name, text))

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")


_TRACKERS = {"wandb": Wandb, "mlflow": Mlflow}


def require_tracker(name: str) -> None:
    """Raises SettingsError if it is unknown, or its package is not installed."""
    if name not in ("none", *_TRACKERS):
        raise SettingsError(f"--log {name} is not available. Choose {one_of(('none', *_TRACKERS))}.")
    needed = [name] if name != "none" else []
    if name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
        needed.append("sqlalchemy")  # of its default store, which mlflow-skinny lacks
    if not all(map(importlib.util.find_spec, needed)):
        raise SettingsError(f"--log {name} needs {name}. Install the extra: pip install 'facegan[{name}]'")


@contextmanager
def tracked(name: str, run: Path, console: Console) -> Iterator[None]:
    """Sends rows and grids while the block runs, and the last of them when it ends."""
    if name == "none":
        yield
        return
    replay = _Replay(name, run, console)
    replay.start()
    try:
        yield
        replay.finished = True
    finally:
        replay.end()


class _Replay(threading.Thread):
    """Warns once. After a failure it looks again at what the tracker has got, and sends the rest."""

    def __init__(self, name: str, run: Path, console: Console) -> None:
        super().__init__(name=name, daemon=True)
        self._run, self._console, self._ended = run, console, threading.Event()
        self.finished, self._warned = False, False

    def run(self) -> None:
        tracker, wait, ended = None, _EVERY_SECONDS, False
        while not ended:
            ended, wait = self._ended.wait(wait), _EVERY_SECONDS
            try:
                tracker = tracker or self._open()
                if tracker:
                    start = time.monotonic()
                    entries = entries_of(self._run)  # more may come at as many images as the last has
                    wait = max(wait, _REST * (time.monotonic() - start))
                    tracker.send(entries if ended else entries[:-1])
                    if ended:
                        tracker.close(self.finished)
            except Exception as error:  # whatever a tracker raises
                self._complain(str(error).strip() or type(error).__name__)
                if tracker:  # else wandb refuses to open the run again, and starts an empty one at each attempt
                    with suppress(Exception):
                        tracker.close(False)
                tracker, wait = None, _RETRY_SECONDS

    def end(self) -> None:
        self._ended.set()
        self.join(_SOON)
        if self.is_alive():
            self._console.note(f"Sending the last rows to {self.name} …")
            self.join(_PATIENCE)
        if self.is_alive():
            self._complain("it takes too long")

    def _open(self) -> Wandb | Mlflow | None:
        """None while the run has not begun to write."""
        record, path = read_record(self._run), self._run / ID
        if record is None:
            return None
        if not re.fullmatch("[0-9a-f]{16}", str(read_facts(path).get("id")), re.ASCII):  # it becomes part of a query
            write_json(path, {"id": uuid.uuid4().hex[:16]})
        return _TRACKERS[self.name](self._run, read_facts(path)["id"], settings_of(record))

    def _complain(self, why: str) -> None:
        if not self._warned:
            later = "Training continues; it gets them as soon as it works, or when the same command starts again."
            self._console.warn(f"{self.name} did not take all rows ({why.splitlines()[0][:_LONGEST_REASON]}). {later}")
        self._warned = True
