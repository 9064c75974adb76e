"""wandb and mlflow, offline: what they hold after a training is what the run's files hold."""

from __future__ import annotations

import importlib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy import toy_config, toy_run

from facegan.console import Console
from facegan.errors import SettingsError
from facegan.run_dir import sample_grids
from facegan.training import trackers
from facegan.training.log import read_stats

_BLOCK = 32_768


@pytest.fixture(autouse=True)
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (folder := tmp_path / "stores").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(folder))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (folder / "mlruns").as_uri())
    for name in ("ALLOW_FILE_STORE", "DISABLE_TELEMETRY", "HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(f"MLFLOW_{name}", "0" if "RETRIES" in name else "true")
    yield folder
    if wandb := sys.modules.get("wandb"):
        wandb.teardown()  # it keeps the folder for the process


def train(run: Path, log: str) -> None:
    measured: Any = {"measure": lambda generator: {"swd": 2.0}, "eval_every": 160}
    toy_run(run, toy_config(), log=log, console=Console(), **measured)


def wandb_rows(stores: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """History and config of the newest offline run: records in a LevelDB log, which wandb itself reads in Go."""
    record_of = importlib.import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    data = max((stores / "wandb").glob("offline-run-*/*.wandb")).read_bytes()
    at, piece, rows, config = 7, b"", [], {}
    while at < len(data):
        if (left := _BLOCK - at % _BLOCK) < 7:  # a block ends in padding
            at += left
            continue
        end, kind = at + 7 + int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        piece, at = piece + data[at + 7 : end], end
        if kind in (1, 4):  # whole, or the last piece
            record, piece = record_of(piece), b""
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows += [row] if row else []
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    return rows, config


def mlflow_run() -> tuple[Any, Any]:
    from mlflow import MlflowClient

    client: Any = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("facegan").experiment_id])
    return client, run


def history(name: str) -> list[tuple[int, float]]:
    client, run = mlflow_run()
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]


def expected(run: Path, name: str) -> list[tuple[int, float]]:
    return [(row["images"], row[name]) for row in read_stats(run) if name in row]


def test_mlflow_has_each_row_once(tmp_path: Path) -> None:
    run = tmp_path / "discs"
    train(run, "mlflow")
    shutil.rmtree(run / "checkpoints/000000320")  # as if it had been killed before the last save
    train(run, "mlflow")
    with (run / "stats.jsonl").open("a") as file:
        file.write('{"images": 320, "rounds": 20, "health": "collapse", "value": 0.1, "text": "alike"}\n')
    train(run, "mlflow")  # it is finished, and only sends
    assert history("loss_d") == expected(run, "loss_d")
    assert history("measured/swd") == [(160, 2.0), (320, 2.0)]
    client, found = mlflow_run()
    files = [Path(file.path).name for file in client.list_artifacts(found.info.run_id, "samples")]
    assert files == [path.name for _, path in sample_grids(run)]
    assert (found.data.params["width"], found.data.params["precision"]) == ("8", "fp32")
    assert (found.info.run_name, found.info.status) == ("discs", "FINISHED")
    assert found.data.tags["health/collapse"] == "alike"


def test_identity_in_a_file_is_no_query(tmp_path: Path) -> None:
    run = tmp_path / "discs"
    run.mkdir()
    (run / "tracker.json").write_text(json.dumps({"id": "x' or run_id != '"}))
    train(run, "mlflow")
    assert history("loss_d") == expected(run, "loss_d")
    assert re.fullmatch("[0-9a-f]{16}", mlflow_run()[1].data.tags["facegan.run"])


@pytest.mark.slow
def test_wandb_has_each_row_once(tmp_path: Path, stores: Path) -> None:
    run = tmp_path / "discs"
    train(run, "wandb")
    shutil.rmtree(run / "checkpoints/000000320")  # as if it had been killed before the last save
    train(run, "wandb")
    rows, config = wandb_rows(stores)
    for name in ("loss_d", "d_accuracy"):
        assert [(row["images"], row[name]) for row in rows if name in row] == expected(run, name)
    assert [row["images"] for row in rows if "samples/path" in row] == [images for images, _ in sample_grids(run)]
    assert [row["measured/swd"] for row in rows if "measured/swd" in row] == [2.0, 2.0]
    assert len({row["images"] for row in rows}) == len(rows)
    assert config["width"] == 8


@pytest.mark.slow
def test_failed_wandb_run_is_ended_first(tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb refused to open a run that was open, at each attempt in a new folder, and no row was sent any more."""
    real, failed = trackers.Wandb.send, list[str]()

    def fails_once(self: Any, entries: Any) -> None:
        if not failed and entries:
            failed.append("now")
            time.sleep(1.1)  # wandb names its folders by the second
            raise OSError("no network")
        real(self, entries)

    monkeypatch.setattr(trackers.Wandb, "send", fails_once)
    monkeypatch.setattr(trackers, "_EVERY_SECONDS", 0.1)
    monkeypatch.setattr(trackers, "_RETRY_SECONDS", 0.2)
    run = tmp_path / "discs"
    train(run, "wandb")
    assert failed
    rows, _ = wandb_rows(stores)
    assert [(row["images"], row["loss_d"]) for row in rows if "loss_d" in row] == expected(run, "loss_d")
    assert len(list((stores / "wandb").glob("offline-run-*"))) == 2


def test_default_store_of_mlflow_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(SettingsError, match=r"needs mlflow\. Install the extra: pip install 'facegan\[mlflow\]'"):
        train(tmp_path / "discs", "mlflow")


def test_unreachable_tracker_costs_one_warning(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "discs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    train(run, "mlflow")
    assert capsys.readouterr().err.count("warning: mlflow did not take all rows") == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (stores / "mlruns").as_uri())
    train(run, "mlflow")  # it is finished, and only sends
    assert history("loss_d") == expected(run, "loss_d")


def test_package_is_loaded_only_if_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    train(tmp_path / "discs", "none")
    assert not (tmp_path / "discs/tracker.json").exists()
    with pytest.raises(SettingsError, match=r"needs wandb\. Install the extra: pip install 'facegan\[wandb\]'"):
        train(tmp_path / "other", "wandb")
    assert not (tmp_path / "other").exists()
