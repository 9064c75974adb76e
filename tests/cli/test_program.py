"""The program in a process of its own: results on stdout, the rest on stderr, nothing heavy imported too early."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import cv2
import pytest

from facegan.cli.recipes import next_commands
from facegan.nets import NetSpec, make_generator, save_generator
from facegan.recipes.run import Row
from tests.cli.run import facegan
from tests.recipes.program import facegan as in_process


def loaded_by(code: str) -> set[str]:
    """Top-level modules that are loaded after ``code``."""
    script = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


HEAVY = {"torch", "torchvision", "mediapipe", "cv2", "webdataset", "matplotlib", "pyarrow", "numpy", "PIL"}


def test_help_loads_nothing_heavy() -> None:
    code = "from facegan.cli.app import main\ntry: main(['--help'])\nexcept SystemExit: pass"
    assert not loaded_by(code) & (HEAVY | {"pydantic", "rich"})


def test_import_is_light() -> None:
    import facegan

    assert loaded_by("import facegan") & (HEAVY | {"pydantic", "rich", "typer"}) == set()
    assert facegan.__all__ == ["FaceShards", "__version__", "forget", "load_generator", "prepare", "train"]
    assert all(callable(getattr(facegan, name)) for name in facegan.__all__ if name != "__version__")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = facegan.nonsense
    assert in_process("--version").stdout == f"facegan {facegan.__version__}\n"


def test_prep_output(portraits: Path, tmp_path: Path, models: Path) -> None:
    out = tmp_path / "out"
    command = ["prep", portraits, out, "--limit", 30, "--workers", 1]
    dry = in_process(*command, "--dry-run", "--set", "prep.size=32")
    assert dry.stdout.startswith("30 photographs found, 30 of them new, in 1 chunk: about ")
    assert "with 1 process," in dry.stdout
    assert not out.exists()
    done = facegan(*command, "--json")
    result = json.loads(done.stdout)
    assert (done.returncode, result["photos"], result["kept"], result["out"]) == (0, 30, 30, str(out))
    assert "30 photographs found" in done.stderr
    assert "\x1b" not in done.stderr
    again = in_process(*command, "--quiet")
    assert (again.code, again.stderr) == (0, "")
    assert "30 kept (100.00%)" in again.stdout
    assert "30 faces of 64×64 in 1 shard, " in again.stdout
    verified = {"ok": True, "shards": 1, "samples": 30, "problems": []}
    assert json.loads(in_process("verify", out, "--json").stdout) == verified
    assert "setting size" in in_process("inspect", out).stdout


def test_train_and_sample(dataset: Path, tmp_path: Path) -> None:
    run, seeded = tmp_path / "run", ["sample", tmp_path / "run", "--n", 9, "--set", "sample.seed=5"]
    command = ["train", "--shards", dataset, "--run", run, "--images", 64, "--batch", 16, "--set", "train.width=4"]
    result = json.loads(in_process(*command, "--json").stdout)
    names = ["run", "images", "seconds", "images_per_second", "loss_g", "loss_d", "checkpoint", "generator"]
    assert (list(result), result["images"]) == (names, 64)
    assert in_process(*seeded, "--out", tmp_path / "a.png").code == 0
    assert in_process(*seeded, "--dir", tmp_path / "b").code == 0
    grid, single = cv2.imread(str(tmp_path / "a.png")), cv2.imread(str(tmp_path / "b" / "000004.png"))
    assert grid is not None
    assert single is not None
    assert grid.shape == (3 * 66 + 2, 3 * 66 + 2, 3)
    assert (single == grid[68:132, 68:132]).all()
    assert len(list((tmp_path / "b").iterdir())) == 9
    drawn = json.loads(in_process(*seeded, "--shards", tmp_path / "c", "--json").stdout)
    assert (drawn["n"], drawn["shards"], drawn["seed"]) == (9, 1, 5)
    assert in_process("verify", tmp_path / "c", "--deep").code == 0


@pytest.mark.slow
def test_torchrun_trains_one_run(dataset: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["train", "--shards", dataset, "--run", tmp_path / "run", "--set", "train.width=4", "--images", "4st"]
    command = [*torchrun, "-m", "--", "facegan", *map(str, arguments), "--device", "cpu", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--batch", "16"], capture_output=True, text=True, env=environment, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 64
    assert "2 processes, cpu" in (tmp_path / "run/log.txt").read_text()


def test_ctrl_c_saves_the_run(dataset: Path, tmp_path: Path) -> None:
    """Nor has it loaded a package that training does not need."""
    run, said = tmp_path / "run", tmp_path / "said"
    arguments = ["--shards", dataset, "--run", run, "--batch", 8, "--set", "train.width=4", "--quiet"]
    command = [sys.executable, "-X", "importtime", "-m", "facegan", "train", *map(str, arguments)]
    with said.open("w") as file:
        process = subprocess.Popen(command, stderr=file)
        end = time.monotonic() + 60
        while not (run / "checkpoints/000000000").is_dir() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert "The same command resumes it" in said.read_text()
    assert list((run / "checkpoints").iterdir())
    loaded = {line.split("|")[-1].split(".")[0].strip() for line in said.read_text().splitlines()}
    assert {"torch", "facegan"} <= loaded
    assert not loaded & {"mediapipe", "webdataset", "torchvision"}


def test_interrupted_sample_leaves_nothing(tmp_path: Path) -> None:
    save_generator(tmp_path / "generator.safetensors", make_generator(NetSpec(size=32, width=4, latent=8)))

    def interrupt_once_it_draws() -> None:
        end = time.monotonic() + 60
        while not any(tmp_path.glob(".new.*/whole/*")) and time.monotonic() < end:
            time.sleep(0.002)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt_once_it_draws)
    thread.start()
    ended = in_process("sample", tmp_path, "--dir", tmp_path / "new", "--n", 10**8, "--device", "cpu")
    thread.join()
    assert (ended.code, ended.stderr.strip().splitlines()[-1]) == (130, "Interrupted.")
    assert [path.name for path in tmp_path.iterdir()] == ["generator.safetensors"]


def test_closed_pipe(dataset: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "facegan", "inspect", str(dataset)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_doctor(models: Path) -> None:
    findings = {each["what"]: each for each in json.loads(in_process("doctor", "--json").stdout)["findings"]}
    assert findings["opencv"]["ok"]
    assert {"Python", "CPU", "GPU", "torch", "mediapipe", "detector model short", "detector model full"} <= {*findings}
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "dev"}
    assert {f"extra {name}" for name in extras} == {what for what in findings if what.startswith("extra ")}
    for name, lines in extras.items():
        is_here = all(importlib.util.find_spec(line.partition(">=")[0].replace("-", "_")) for line in lines)
        finding = findings[f"extra {name}"]
        assert finding["ok"]
        assert finding["remedy"] == ("" if is_here else f"{sys.executable} -m pip install 'facegan[{name}]'")


def test_next_commands_of_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed in the folder where the user is, as ``make demo`` does, and then on the PATH by way of a link."""
    scripts, links = tmp_path / "my venv" / "bin", tmp_path / "links"
    scripts.mkdir(parents=True)
    links.mkdir()
    (scripts / "facegan").touch(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(scripts / "python"))
    monkeypatch.setattr(sys, "argv", [str(scripts / "facegan"), "demo"])
    monkeypatch.setenv("PATH", str(links))
    assert next_commands()[0].startswith("'my venv/bin/facegan' prep ")
    (links / "facegan").symlink_to(scripts / "facegan")
    assert [line.split()[:2] for line in next_commands()] == [["facegan", "prep"], ["facegan", "train"]]


def test_demo_ends_with_metrics_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = {"prep": {"kept": 3, "photos": 3}, "train": {"images": 64}, "eval": {}, "sample": {}, "report": {}}
    rows = [
        Row(stage, "done", "swd 17.5 (real 4.2)" if stage == "eval" else "", "", 1.0, f"d/{stage}", result)
        for stage, result in results.items()
    ]
    monkeypatch.setattr("facegan.recipes.run.run_recipe", lambda *_, **__: rows)
    said = in_process("demo", tmp_path).stdout
    assert "swd 17.5 (real 4.2)" in said
    assert said.splitlines()[-2:] == [f"  {line}" for line in next_commands()]


def test_models_list_and_pull(models: Path) -> None:
    found = json.loads(in_process("models", "list", "--json").stdout)["models"]
    assert [(model["name"], model["state"], Path(model["path"]).parent) for model in found] == [
        ("short", "found", models),
        ("full", "found", models),
    ]
    assert "short" in in_process("models", "pull").stdout
    assert "face_detection_full_range_sparse.tflite" in in_process("models", "list").stdout
