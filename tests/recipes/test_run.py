"""``facegan run``: stages that are out of date run, no others, and no work is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from facegan.files import exclusive
from facegan.recipes.recipe import read_recipe
from facegan.recipes.run import RECORD_FILE, run_recipe
from tests.recipes.conftest import UP_TO_DATE, Experiment, run, stages_of, states
from tests.recipes.program import Ended, facegan
from tests.stopping import stopped_at_line
from tests.training.toy import ticking_clock


def test_first_run_does_everything(first_run: tuple[Experiment, Ended]) -> None:
    experiment, ended = first_run
    assert ended.code == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["stage", "prep", "train", "sample"]
    assert "10 of 10 photographs kept, 10 faces" in lines[1]
    assert "24 images, losses D " in lines[2]
    assert lines[3].rstrip().endswith(str(experiment.to / "samples.png"))
    assert "1 of 3: prep, into " in ended.stderr
    record = json.loads((experiment.to / "run/run.json").read_text())
    assert (record["settings"]["width"], record["dataset"]["faces"]) == (4, 10)
    assert facegan("verify", experiment.to / "faces").code == 0


def test_second_run_does_nothing(done: Experiment) -> None:
    before = done.files()
    assert states(run(done, "--json")) == states(run(done, "--dry-run", "--json")) == UP_TO_DATE
    assert run(done, "--quiet").stderr == ""
    assert done.files() == before
    arguments = ["run", str(done.recipe), "--to", str(done.to)]
    script = (
        f"import sys\nfrom facegan.cli.app import main\ntry: main({arguments!r})\nexcept SystemExit: pass"
        "\nprint(*{name.partition('.')[0] for name in sys.modules})"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    heavy = {"torch", "mediapipe", "cv2", "pyarrow", "numpy", "matplotlib", "PIL"}
    assert not set(loaded.stdout.splitlines()[-1].split()) & heavy


def test_dry_run_touches_nothing(fresh: Experiment, done: Experiment) -> None:
    ended = run(fresh, "--dry-run")
    assert (ended.code, fresh.to.exists()) == (0, False)
    assert "10 photographs, 10 of them new" in ended.stdout
    assert "after prep" in ended.stdout
    before = done.files()
    planned = states(run(done, "--dry-run", "--json", "--set", "train.images=48"))
    assert planned == {"prep": "up to date", "train": "to do", "sample": "to do"}
    assert done.files() == before


def test_new_photographs_are_added(done: Experiment, portraits: Path) -> None:
    more = done.photos / "more"
    more.mkdir()
    shutil.copy(portraits / "000020.jpg", more)
    ended = run(done, "--set", f"prep.source={done.photos}")
    assert ended.code == 1
    assert f"The run {done.to / 'run'} was started on other faces (10 then, 11 now," in ended.stderr
    shutil.rmtree(done.to / "run")
    now = states(run(done, "--json", "--set", f"prep.source={done.photos}"))
    assert now == {"prep": "up to date", "train": "done", "sample": "done"}


def test_changed_photographs_are_noticed(done: Experiment) -> None:
    """prep finds the same faces, so the training is up to date. Deleted photographs keep their faces."""
    sets = ("--set", f"prep.source={done.photos}", "--json")
    run(done, *sets)
    for change, prep in [
        (lambda photos: os.utime(photos / "000001.jpg", ns=(1, 1)), "done"),
        (lambda photos: (photos / "notes.txt").write_text("x"), "done"),
        (shutil.rmtree, "up to date"),
    ]:
        change(done.photos)
        assert states(run(done, *sets)) == {**UP_TO_DATE, "prep": prep}
        assert states(run(done, *sets)) == UP_TO_DATE


@pytest.mark.parametrize(
    ("setting", "code", "said", "where"),
    [
        ("train.width=5", 2, "was started with width = 4; this command asks for width = 5", "run"),
        ("prep.size=64", 1, "was prepared with --size 32; this command asks for --size 64", "faces"),
    ],
)
def test_other_settings_are_refused(setting: str, code: int, said: str, where: str, done: Experiment) -> None:
    before = done.files()
    for options in ((), ("--dry-run",)):
        ended = run(done, "--set", setting, *options)
        assert (ended.code, ended.stdout) == (code, "")
        assert said in ended.stderr
        way_out = f"With facegan run: choose another folder with --to, or delete {done.to / where} and run it again."
        assert ended.stderr.rstrip().endswith(way_out)
    assert done.files() == before


def test_more_images_continue_the_run(done: Experiment) -> None:
    assert states(run(done, "--json", "--set", "train.save_every=8", "--set", "train.workers=1")) == UP_TO_DATE
    ended = run(done, "--json", "--set", "train.images=48")
    assert states(ended) == {"prep": "up to date", "train": "done", "sample": "done"}
    assert "Resuming" in ended.stderr
    assert json.loads(ended.stdout)["stages"][1]["result"]["images"] == 48


def test_lost_outputs_are_made_again(done: Experiment) -> None:
    generator, samples, record = (done.to / name for name in ("run/generator.safetensors", "samples.png", RECORD_FILE))
    kept = generator.read_bytes()
    for lost in (generator, samples, record):
        if lost == record:  # edited by hand
            record.write_text(record.read_text().replace('"kept": 10', '"kept": 11'))
        else:
            lost.unlink()
        assert "done" in states(run(done, "--json")).values()
        assert states(run(done, "--json")) == UP_TO_DATE
        assert (generator.read_bytes(), samples.is_file()) == (kept, True)


@pytest.mark.parametrize("line", [7, 21])
def test_stopped_run_continues(line: int, fresh: Experiment) -> None:
    fresh.recipe.write_text(fresh.recipe.read_text().partition("[train]")[0])
    recipe = read_recipe(str(fresh.recipe))
    with stopped_at_line(run_recipe, line), contextlib.suppress(KeyboardInterrupt):
        run_recipe(recipe, fresh.to)
    assert [row.result["kept"] for row in run_recipe(recipe, fresh.to)] == [10]
    assert [row.state for row in run_recipe(recipe, fresh.to)] == ["up to date"]
    assert facegan("verify", fresh.to / "faces").code == 0


def test_two_runs_at_once(done: Experiment) -> None:
    with exclusive(done.to / ".facegan-run.lock", ""):
        ended = run(done, "--set", "train.images=48")
        assert states(run(done, "--json")) == UP_TO_DATE  # which needs no lock
    assert (ended.code, f"Another facegan run is at work in {done.to}" in ended.stderr) == (1, True)


def test_datasets_can_be_shared(done: Experiment, tmp_path: Path) -> None:
    faces = done.to / "faces"
    other = Experiment(done.photos, done.recipe, tmp_path / "other")
    ended = run(other, "--json", "--set", f"prep.out={faces}")
    assert states(ended)["train"] == "done"
    assert not (other.to / "faces").exists()
    alone = tmp_path / "alone.toml"
    alone.write_text(f'[train]\nshards = "{faces}"\nwidth = 4\nbatch = 4\nimages = "2ep"\ndevice = "cpu"\n')
    third = Experiment(done.photos, alone, tmp_path / "third")
    ended = run(third, "--json")
    assert states(ended) == {"train": "done", "sample": "done"}
    assert json.loads(ended.stdout)["stages"][0]["result"]["images"] == 20  # two epochs of ten faces
    assert "up to date" in run(third).stdout


def test_runs_know_that_labels_changed(done: Experiment, tmp_path: Path) -> None:
    faces, alone, lists = done.to / "faces", tmp_path / "alone.toml", [tmp_path / "a.csv", tmp_path / "b.csv"]
    train = f'[train]\nshards = "{faces}"\nwidth = 4\nbatch = 4\nimages = 4\ndevice = "cpu"\ncondition = "A"\n'
    alone.write_text(train)
    for start, path in enumerate(lists):
        rows = [f"{photo.name},{(start + n) % 2}" for n, photo in enumerate(sorted(done.photos.iterdir()))]
        path.write_text("\n".join(["file,A", *rows]))
    other = Experiment(done.photos, alone, tmp_path / "other")
    assert facegan("annotate", faces, lists[0]).code == 0
    assert states(run(other, "--json"))["train"] == "done"
    assert states(run(other, "--dry-run", "--json"))["train"] == "up to date"
    assert facegan("annotate", faces, lists[1]).code == 0
    assert "was started on other faces" in run(other, "--dry-run").stderr


def test_portraits_are_drawn_once(fresh: Experiment) -> None:
    sets = ("--json", "--set", "prep.source=portraits:8:3", "--set", "train.images=8")
    assert states(run(fresh, *sets)) == dict.fromkeys(UP_TO_DATE, "done")
    assert len(list((fresh.to / "portraits").iterdir())) == 8
    shutil.rmtree(fresh.to / "portraits")
    assert states(run(fresh, *sets)) == UP_TO_DATE


def test_impossible_runs_are_refused(fresh: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> str:
        ended = facegan("run", *arguments)
        assert ended.code == 2
        return ended.stderr

    tiny = (fresh.recipe, "--to", fresh.to)
    assert "among the photographs" in refused(fresh.recipe, "--to", fresh.photos / "runs")
    assert refused(*tiny, "--set", "train.init=nowhere") == "error: There is no nowhere.\n"
    assert "The nets 'dcgan' support 32, 64 or 128 pixels, not 28" in refused(*tiny, "--set", "prep.size=28")
    monkeypatch.chdir(fresh.recipe.parent)
    celeba = refused("celeba-dcgan-64")
    assert "celeba-dcgan-64.toml, line 17: There is no img_align_celeba.zip. Name another with --set" in celeba
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "facegan run is a single process" in refused(*tiny)
    assert sorted(path.name for path in fresh.recipe.parent.iterdir()) == ["photos", "tiny.toml"]


def test_own_nets_are_inputs(done: Experiment) -> None:
    nets = done.recipe.with_name("own_nets_of_a_recipe.py")
    nets.write_text(
        "from facegan.nets.dcgan import MLPDiscriminator, MLPGenerator\nNETS = MLPGenerator, MLPDiscriminator\n"
    )
    options = ("--set", "train.nets=own_nets_of_a_recipe:NETS", "--to", done.to.with_name("own"), "--json")
    with contextlib.chdir(done.recipe.parent):
        first = states(facegan("run", done.recipe, *options))
        again = states(facegan("run", done.recipe, *options))
        nets.write_text(nets.read_text() + "# another comment\n")
        altered = facegan("run", done.recipe, *options)
        assert facegan("recipes", "show", done.recipe).code == 0
    assert (first["train"], again["train"]) == ("done", "up to date")
    assert states(altered)["train"] != "up to date"
    assert "own_nets_of_a_recipe.py has changed since this run was last started" in altered.stderr


def test_time_is_measured_once(fresh: Experiment) -> None:
    fresh.recipe.write_text(fresh.recipe.read_text().replace("images = 24", 'images = "0.0016min"'))
    planned = stages_of(run(fresh, "--dry-run", "--json"))["train"]
    assert planned["summary"] == "dcgan, 0.0016min, batch 4"
    with ticking_clock():
        assert stages_of(run(fresh, "--json"))["train"]["result"]["images"] > 0
    assert states(run(fresh, "--json")) == UP_TO_DATE
    assert "images = 0.0016min" in facegan("recipes", "show", fresh.recipe).stdout
