"""Code that files name runs only with --trust-code, or if the same command line names it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from facegan import load_generator
from facegan.errors import SettingsError
from facegan.plugins import source_digest
from tests.cli import run as program
from tests.recipes.program import Ended, facegan
from tests.shards.made import Made, make_dataset
from tests.training.toy import ToyFaces, toy_config, toy_train

EVIL = 'open("RAN", "a").close()\nfrom facegan.nets import PAIRS\nNETS = PAIRS["dcgan"]\n'
RECIPE = """\
[prep]
source = "photos"
size = 32
detector = "evil:Detector"

[train]
nets = "evil:NETS"
norm = "batch"
width = 8
latent = 16
images = 16
batch = 16
device = "cpu"
"""
PIPE = "pipe:touch RAN; cat /dev/null"
FROM_PIPE = f'[train]\nshards = "{PIPE}"\nimages = 16\nbatch = 16\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a run from elsewhere whose generators name evil:NETS."""
    folder = tmp_path_factory.mktemp("made")
    make_dataset(folder / "ds", [Made(f"{i:03d}.jpg") for i in range(20)], size=32, shard_size=20)
    toy_train(folder / "run", images=64, save_every=32)
    for file in (folder / "run").rglob("generator.safetensors"):
        with safe_open(file, "pt") as opened:
            about = json.loads(opened.metadata()["facegan"])
        about["spec"]["name"] = "evil:NETS"
        save_file(load_file(file), file, {"facegan": json.dumps(about)})
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: ``ds``, ``run``, and the code that they came with, which leaves the file ``RAN``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "photos").mkdir()
    texts = {"evil.py": EVIL, "evil.toml": RECIPE, "train.toml": RECIPE.partition("\n\n")[2], "pipe.toml": FROM_PIPE}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    yield tmp_path
    sys.modules.pop("evil", None)


def ran() -> bool:
    there = Path("RAN").exists()
    assert there or ("evil" not in sys.modules and str(Path.cwd()) not in sys.path)
    return there


def run(command: str, *more: str) -> Ended:
    return facegan(*command.split(), *more)


@pytest.mark.parametrize(
    "command",
    [
        "sample run/generator.safetensors --out x.png",
        "sample run --training-progress x.png",
        "eval run --shards ds --n 16",
        "export run x",
        "compare run run --out x.png",
        "report run --explore --out x",
        "train --shards ds --run x --init run/generator.safetensors --images 16 --batch 16 --device cpu",
        "train --shards ds --run x --recipe train.toml",
        "prep photos x --recipe evil.toml",
        "run train.toml --to x --set train.shards=ds",
        "run pipe.toml --to x",
    ],
)
def test_files_run_no_code(command: str) -> None:
    ended = run(command)
    assert (ended.code, ran()) == (2, False), ended.stderr
    assert "evil:" in ended.stderr or PIPE in ended.stderr
    assert "--trust-code" in ended.stderr
    assert ended.stderr.partition("error: ")[2].count("\n") <= 2


@pytest.mark.parametrize(
    "command",
    [
        "sample run --out x.png --dry-run",
        "eval run --shards ds --n 16 --dry-run",
        "export run x --dry-run",
        "report run --explore --out x --dry-run",
        "train --shards ds --run x --set train.loss=evil:LOSS --batch 16 --dry-run",
        "train --shards ds --run x --init run/generator.safetensors --batch 16 --set train.width=8"
        " --set train.latent=16 --dry-run",
        "train --run x --recipe pipe.toml --dry-run",
        "prep photos x --recipe evil.toml --dry-run",
        "run pipe.toml --to x --dry-run",
        "recipes check evil.toml",
        "recipes show pipe.toml",
    ],
)
def test_checks_run_no_code(command: str, portraits: Path) -> None:
    """Nor with trust."""
    shutil.copy(portraits / "000001.jpg", "photos")
    for more in [[]] if "recipes" in command else [[], ["--trust-code"]]:
        ended = run(command, "--json", *more)
        assert (ended.code, ran()) == (0, False), ended.stderr
        assert "was not tried" in ended.stderr
        assert "--trust-code" in ended.stderr
        found = json.loads(ended.stdout)
        names = found["not_tried"] if "not_tried" in found else found["recipes"][0]["not_tried"]
        assert names
        assert all(name in ended.stderr for name in names)


def test_dry_run_runs_no_pipe() -> None:
    ended = facegan("train", "--shards", PIPE, "--images", "2ep", "--batch", "16", "--dry-run")
    assert (ended.code, ran(), f"--dry-run does not run {PIPE}" in ended.stderr) == (2, False, True)
    plan = json.loads(facegan("train", "--shards", PIPE, "--images", "2h", "--dry-run", "--json").stdout)
    assert (plan["images"], plan["time"], ran()) == (None, "2h", False)


@pytest.mark.parametrize(
    "command",
    [
        "sample run --out x.png --n 4 --device cpu --trust-code",
        "train --shards ds --run x --recipe train.toml --set train.nets=evil:NETS",
        "train --shards ds --run x --init run/generator.safetensors --images 16 --batch 16 --device cpu"
        " --set train.nets=evil:NETS --set train.norm=batch --set train.width=8 --set train.latent=16",
        "run train.toml --to x --set train.shards=ds --trust-code",
    ],
)
def test_trusted_code_runs(command: str) -> None:
    ended = run(command)
    assert (ended.code, ran()) == (0, True), ended.stderr


def test_trust_is_for_one_name() -> None:
    ended = run("train --shards ds --run x --recipe train.toml --set train.loss=evil:LOSS")
    assert (ended.code, ran()) == (2, False)
    assert "train.toml, line 2: train.nets names code that would run here: evil:NETS" in ended.stderr
    other = "--set train.nets=mine:NETS --set train.norm=batch --init run/generator.safetensors"
    Path("mine.py").write_text(EVIL.partition("\n")[2])
    ended = run(f"train --shards ds --run x --images 16 --batch 16 --device cpu {other}")
    assert (ended.code, Path("RAN").exists()) == (2, False)
    assert "generator.safetensors names code that would run here: evil:NETS" in ended.stderr


def test_own_run_resumes() -> None:
    command = "train --shards ds --run x --batch 16 --device cpu --set train.nets=evil:NETS --set train.width=8"
    assert run(command, "--images", "16").code == 0
    ended = run(command, "--images", "32", "--eval-every", "16", "--set", "train.eval_n=8")
    assert ended.code == 0, ended.stderr
    assert (run("sample x --out x.png").code, run("sample x --out x.png --trust-code").code) == (2, 0)


def test_library_takes_trust_code(here: Path) -> None:
    from facegan.training import train

    with pytest.raises(SettingsError, match=r"evil:NETS(.|\n)*trust_code=True"):
        load_generator("run")
    with pytest.raises(SettingsError, match="evil:NETS"):
        load_generator("run", trust_code=frozenset({"mine:NETS"}))
    init = here / "run/generator.safetensors"
    with pytest.raises(SettingsError, match="evil:NETS"):
        train(toy_config(images=16), ToyFaces(), here / "x", device="cpu", init=init)
    assert not ran()
    assert load_generator("run", trust_code=frozenset({"evil:NETS"})).spec.name == "evil:NETS"
    train(toy_config(images=16), ToyFaces(), here / "x", device="cpu", init=init, trust_code=True)
    assert ran()


def test_source_digest_imports_nothing(here: Path) -> None:
    """Whose code would run if they were imported."""
    for folder in ("package", "package/inner", "bare/inner"):
        Path(folder).mkdir(parents=True)
        Path(folder, "mine.py").write_text("NETS = 1\n")
    Path("package/__init__.py").write_text(EVIL)
    for name in ("package.mine", "package.inner.mine", "bare.inner.mine", "evil"):
        file = here / f"{name.replace('.', '/')}.py"
        assert source_digest(f"{name}:NETS")["file"] == str(file)
    assert source_digest("package:NETS")["file"] == str(here / "package/__init__.py")
    assert source_digest("json.decoder:JSONDecoder")["file"] == json.decoder.__file__
    for name in ("nowhere", "nowhere.mine", "evil.mine", "sys"):
        assert source_digest(f"{name}:NETS") == {"file": "", "sha256": ""}
    assert not ran()
    assert "package" not in sys.modules


def test_current_folder_is_not_imported(here: Path, portraits: Path) -> None:
    """Not in this process, nor in those that it starts: Python looks there first for ``-m`` and ``-c``."""
    shutil.copy(portraits / "000001.jpg", "photos")
    for name in ("pickle", "socket", "typer", "cv2", "mediapipe"):
        Path(f"{name}.py").write_text('open("RAN", "a").write(__name__)\nraise ImportError\n')
    prep = "prep photos x --crop squash --detector none --size 32 --workers 1"
    ended = program.facegan(*prep.split(), cwd=here)
    assert ended.returncode == 0, ended.stderr
    run("doctor")  # which imports mediapipe in a process of its own
    assert not ran(), Path("RAN").read_text()


def test_commands_have_the_users_environment(here: Path) -> None:
    (shard,) = (here / "ds").glob("*.tar")
    ended = facegan(
        "train", "--shards", f"pipe:env > said; cat {shard}", "--run", "x", "--images", "16", "--batch", "8"
    )
    assert ended.code == 0, ended.stderr
    assert "PYTHONSAFEPATH" not in Path("said").read_text()
