import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from toy import ToyFaces, stop_after, toy_config, toy_run, toy_train, toy_trainer, weights, without_times

import facegan
from facegan.console import Console
from facegan.errors import CheckpointError, DatasetError, Interrupted, SettingsError
from facegan.nets import load_generator
from facegan.system import advice_if_overloaded
from facegan.training import estimate, loop, sample_images
from facegan.training.estimate import Estimate, measured_rate
from facegan.training.log import read_stats

METHODS = [("dcgan", {}), ("wgan-gp", {"batch": 4}), ("fast", {})]  # a step is 16 images, or 20


@pytest.fixture(scope="module")
def run_of_16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_train(tmp_path_factory.mktemp("trained") / "run", images=16).run


def read_png(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_run_folder_contents(tmp_path, capsys, curves):
    run = tmp_path / "run"
    config = toy_config(images=330)
    result = facegan.train(config, ToyFaces(), run, device="cpu", dataset="out/", command=["facegan", "train"])
    assert result.images == 336  # whole steps of 16
    names = "run images seconds images_per_second loss_g loss_d checkpoint generator"
    assert [*result.to_json()] == names.split()
    assert json.loads(json.dumps(result.to_json()))["checkpoint"] == str(run / "checkpoints/000000336")
    assert (result.checkpoint / "state.safetensors").exists()
    assert sorted(int(path.stem) for path in (run / "samples").iterdir()) == [0, 160, 320, 336]
    assert read_png(run / "samples/000000000.png").shape == (8 * 34 + 2, 8 * 34 + 2, 3)
    assert read_png(run / "losses.png").std() > 5
    rows = read_stats(run)
    assert [row["images"] for row in rows] == [*range(32, 330, 32), 336]
    values = "loss_d d_real d_fake d_accuracy loss_g grad_g lr_scale images_per_second seconds"
    assert [*rows[-1]] == ["images", "rounds", *values.split()]
    assert (rows[-1]["loss_g"], rows[-1]["rounds"]) == (result.loss_g, 21)
    assert load_generator(run).spec.size == 32
    assert capsys.readouterr().out == ""
    assert "336 images to go" in (run / "log.txt").read_text()

    events = EventAccumulator(str(run)).Reload()
    assert [event.step for event in events.Scalars("loss_g")] == [row["images"] for row in rows]
    assert events.Tags()["images"] == ["samples"]
    assert {*events.scalars.Keys()} == {*values.split()} - {"seconds"}

    record = json.loads((run / "run.json").read_text())
    assert record["settings"] == toy_config(images=330).model_dump(mode="json")
    assert record["dataset"] == {"path": "out/", "fingerprint": "toy-200-32-0", "faces": 200, "size": 32, "channels": 3}
    assert record["versions"]["torch"]
    assert record["versions"].keys() >= {"facegan", "python", "torch", "numpy"}
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert (record["precision"], record["device"], record["command"]) == ("fp32", "cpu", "facegan train")


@pytest.mark.parametrize(("method", "given"), METHODS)
def test_resume_equals_uninterrupted(tmp_path, method, given):
    given |= {"images": 160, "save_every": 80, "sample_every": 80}
    whole = toy_train(tmp_path / "whole", method, **given)
    run = tmp_path / "stopped"
    with pytest.raises(Interrupted, match=r"saved in .* The same command resumes it") as caught:
        toy_run(run, toy_config(method, **given), stop=stop_after(3))
    assert caught.value.exit_code == 130
    toy_train(run, method, **given)
    assert weights(run) == weights(whole.run)
    assert without_times(run) == without_times(whole.run)
    assert (run / "samples/000000160.png").read_bytes() == (whole.run / "samples/000000160.png").read_bytes()


def test_early_grids_change_nothing(tmp_path, monkeypatch):
    """Those below --sample-every; a resumed run has them too."""
    assert loop.EARLY_GRIDS[:2] == (500, 1_000)
    given = {"batch": 100, "images": 1_200, "width": 2, "log_every": 500, "save_every": 700, "sample_every": 800}
    run, stop = tmp_path / "stopped", stop_after(4, 11)
    for _ in range(2):
        with pytest.raises(Interrupted):
            toy_run(run, toy_config(**given), stop=stop)
    toy_train(run, **given)
    assert [int(path.stem) for path in sorted((run / "samples").iterdir())] == [0, 500, 800, 1_200]
    monkeypatch.setattr(loop, "EARLY_GRIDS", ())
    without = toy_train(tmp_path / "without", **given).run
    assert without_times(run) == without_times(without)
    for path in (without / "checkpoints").iterdir():
        states = [other / "checkpoints" / path.name / "state.safetensors" for other in (run, without)]
        assert states[0].read_bytes() == states[1].read_bytes()


def test_grey_faces_have_one_channel(tmp_path):
    given = {"nets": "mlp", "width": 4, "augment": "color,translation,cutout", "images": 32}
    toy_train(tmp_path, faces=ToyFaces(size=28, channels=1), **given)
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["dataset"]["channels"] == record["nets"]["channels"] == load_generator(tmp_path).spec.channels == 1
    shown = EventAccumulator(str(tmp_path)).Reload().Images("samples")[-1].encoded_image_string
    with Image.open(tmp_path / "samples/000000032.png") as saved, Image.open(io.BytesIO(shown)) as image:
        assert (saved.mode, saved.size) == (image.mode, image.size) == ("L", (8 * 30 + 2, 8 * 30 + 2))
    with pytest.raises(CheckpointError, match="has channels 1, not 3"):
        toy_run(tmp_path / "new", toy_config(nets="mlp", width=4), ToyFaces(size=28), init=tmp_path)


def test_advice_for_an_hour():
    def advice(done: int, rate: float, **given: Any) -> str:
        trainer = toy_trainer(images=5_000_000, **given)
        return Estimate(trainer, done, 5_000_000, rate, 0.0).advice()

    hint = " --method fast is made for an hour."
    assert advice(0, 131.9) == f"On this CPU one hour is about 470,000 images: add --images 470k.{hint}"
    assert advice(400_000, 131.9) == "On this CPU one hour is about 470,000 images: add --images 870k."
    assert advice(0, 0.0001, method="fast") == "On this CPU one hour is about 1 images: add --images 1 --resume never."
    assert advice(0, 5_000_000 / 3600) == ""
    # The schedule depends on the length: only a new run may be shorter.
    assert advice(0, 131.9, schedule="cosine").endswith(f"add --images 470k --resume never.{hint}")
    assert advice(400_000, 131.9, schedule="cosine") == ""


@pytest.mark.parametrize(("every", "passes"), [(1, 5), (4, 3.5), (16, 3.125)])
def test_rate_counts_lazy_penalties_as_often_as_they_come(every, passes, monkeypatch):
    """By a clock that counts D's convolutions: one pass for it, two for G, and two more of R1 and R2."""
    trainer, calls = toy_trainer("fast", batch=16, penalty_every=every), list[nn.Module]()

    def count(module: nn.Module, *_: object) -> None:
        if isinstance(module, nn.Conv2d):
            calls.append(module)

    monkeypatch.setattr(estimate.time, "perf_counter", lambda: float(len(calls)))
    with register_module_forward_hook(count):
        rate = measured_rate(trainer)
    convolutions = sum(isinstance(module, nn.Conv2d) for module in trainer.discriminator.modules())
    assert rate == pytest.approx(16 / (passes * convolutions))


def test_finished_run_can_be_continued(tmp_path, capsys):
    first = toy_train(tmp_path, images=64)
    before = weights(tmp_path)
    first.generator.unlink()
    again = toy_run(tmp_path, toy_config(images=64), console=Console())
    assert "is finished: it has 64 images" in capsys.readouterr().err
    assert weights(tmp_path) == before
    assert (again.images, again.loss_g, again.checkpoint) == (64, first.loss_g, first.checkpoint)
    assert toy_train(tmp_path, images=96, save_every=32).images == 96


def test_resume_never_renames_the_old_run(tmp_path, capsys):
    run = tmp_path / "run"
    for _ in range(3):
        toy_run(run, toy_config(images=16), resume="never", console=Console())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "run.old-1", "run.old-2"]
    assert f"is now in {run}.old-2" in capsys.readouterr().err


def test_resume_refuses_another_training(tmp_path, monkeypatch, capsys):
    toy_train(tmp_path, images=16)
    with pytest.raises(SettingsError, match=r"started with lr_g = 0\.0002; this command asks for lr_g = 0\.1\."):
        toy_train(tmp_path, images=32, lr_g=0.1)
    with pytest.raises(SettingsError, match=r"started with precision = fp32; .* precision = bf16"):
        toy_train(tmp_path, images=32, precision="bf16")
    with pytest.raises(DatasetError, match=r"started on other faces \(200 then, 100 now"):
        toy_train(tmp_path, faces=ToyFaces(100), images=32)
    with pytest.raises(SettingsError, match="started with graphs = "):
        toy_train(tmp_path, images=32, graphs=not toy_config().graphs)
    monkeypatch.setattr("facegan.training.run_record.cpu_name", lambda: "another CPU")
    toy_train(tmp_path, images=32, precision="auto", log_every=16)
    assert "and continues with another CPU: its last bits will differ" in capsys.readouterr().err
    record = json.loads((tmp_path / "run.json").read_text())
    assert (record["precision"], record["machine"]["processes"]) == ("fp32", 1)
    record["machine"]["processes"] = 2
    (tmp_path / "run.json").write_text(json.dumps(record))
    toy_train(tmp_path, images=48)
    assert "last trained with processes 2 and continues with 1: its last bits will differ" in capsys.readouterr().err


def test_cautions_are_printed_once(tmp_path, capsys):
    toy_train(tmp_path, images=16, regulariser="dragan")
    assert "dragan is a penalty per sample, and batch normalisation mixes the samples" in capsys.readouterr().err
    toy_train(tmp_path, images=32, regulariser="dragan")
    assert "dragan" not in capsys.readouterr().err
    toy_train(tmp_path / "none", images=16, regulariser="dragan", norm="none")
    assert "dragan" not in capsys.readouterr().err


def test_impossible_settings_are_refused(tmp_path):
    with pytest.raises(SettingsError, match=r"--batch 512 is larger than the dataset \(200 faces\)"):
        toy_train(tmp_path / "run", batch=512)
    with pytest.raises(SettingsError, match="support 32, 64 or 128 pixels, not 28"):
        toy_train(tmp_path / "run", faces=ToyFaces(size=28))
    with pytest.raises(SettingsError, match="fp16 needs a CUDA GPU"):
        toy_train(tmp_path / "run", precision="fp16")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("run.json", None, r"holds checkpoints, but no run\.json"),
        ("run.json", {"format": 99}, r"run\.json has format 99, and this facegan reads format 1\. Update facegan"),
        ("run.json", {"format": 0}, r"run\.json has format 0, .* Use another --run"),
        ("run.json", {"settings": 3}, r"run\.json is damaged: settings is missing or has the wrong type"),
        ("checkpoints/*/state.json", None, r"All checkpoints in .* are damaged \(000000016: state.json is missing\)"),
        ("checkpoints/*/state.json", {"format": 1}, r"000000016 has format 1, and this facegan reads format 2"),
    ],
)
def test_damaged_runs_are_refused(run_of_16, tmp_path, file, change, sentence):
    run = Path(shutil.copytree(run_of_16, tmp_path / "run"))
    for path in run.glob(file):
        if change is None:
            path.unlink()
        else:
            path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    for _ in range(2):  # and it stays so
        with pytest.raises(CheckpointError, match=sentence):
            toy_train(run, images=32)


def test_checkpoint_of_another_architecture(run_of_16, tmp_path):
    run = Path(shutil.copytree(run_of_16, tmp_path / "run"))
    record = json.loads((run / "run.json").read_text())
    record["settings"]["width"] = 4
    (run / "run.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="belongs to another architecture: it has width 8, not 4"):
        toy_train(run, images=32, width=4)


def test_samples_approach_the_data(tmp_path):
    """After a hundred steps the samples' mean face is nearer to the data's than at the start."""
    faces = ToyFaces()
    mean = faces.images.float().mean(0)
    given = {"width": 8, "batch": 32, "lr_g": 1e-3, "lr_d": 5e-4, "images": 3200, "log_every": 1600, "ema_images": 0}
    run = toy_train(tmp_path, faces=faces, save_every=10**6, sample_every=10**6, **given).run

    def distance(of: Path) -> float:
        return (sample_images(load_generator(of), 128).float().mean(0) - mean).abs().mean().item()

    assert distance(run) < 0.7 * distance(run / "checkpoints/000000000")


def test_advice_beside_busy_programs(tmp_path, monkeypatch, capfd):
    """A training beside one busy process was six times as slow with two threads, and nothing said why."""
    threads, cpus = torch.get_num_threads(), float(os.cpu_count() or 1)
    monkeypatch.setattr(os, "getloadavg", lambda: (cpus + 1, 0.0, 0.0))
    monkeypatch.setattr(loop, "_LOAD_SECONDS", 0.0)
    try:
        for count, shown in ((1, 0), (4, 1)):  # once in a start
            torch.set_num_threads(count)
            toy_run(tmp_path / str(count), toy_config(images=64, log_every=16), console=Console())
            assert capfd.readouterr().err.count("resume with OMP_NUM_THREADS=3") == shown
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(os, "getloadavg", lambda: (cpus + 0.2, 0.0, 0.0))
    assert not advice_if_overloaded(4)

    def refuse() -> Any:
        raise OSError("the load average is unknown")

    monkeypatch.setattr(os, "getloadavg", refuse)
    assert not advice_if_overloaded(4)
