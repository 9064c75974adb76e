"""Options and exit codes of every command, completion, and output in a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from facegan import cli
from facegan.cli.app import COMMANDS, load
from facegan.cli.options import Flags, Overrides, options
from facegan.config import PrepConfig
from facegan.config.resources import PhotosConfig
from tests.cli.run import facegan
from tests.recipes.program import facegan as in_process

WORK = " --set --json --dry-run --quiet --debug"
RECIPE = " --trust-code --recipe" + WORK
# Every command and its options.
OPTIONS = {
    "prep": "--size --crop --margin --detector --rotate --model --min-score --faces --min-face --min-sharpness"
    " --min-brightness --max-yaw --detections --identity"
    " --max-outside --dedup --split --format --shard-size --workers --engine --ray-address --limit --download --repair"
    " --force --exclude --attributes --missing-attributes --no-source-paths --no-follow-links --min-yield" + RECIPE,
    "inspect": "--plot --source --extract --json --quiet --debug",
    "verify": "--deep --json --quiet --debug",
    "select": "--where --limit --split --size" + WORK,
    "annotate": "--json --dry-run --quiet --debug",
    "forget": "--path --paths-from --runs --json --dry-run --quiet --debug",
    "train": "--shards --split --run --method --condition --images --batch --precision --device --seed --resume --init"
    " --balance --balance-by --stop-after"
    " --save-every --sample-every --log-every --eval-every --keep --cache --workers --verify-shards --skip-broken"
    " --deterministic --no-graphs --log" + RECIPE,
    "sample": "--out --dir --shards --interpolate --training-progress --best --n --seed --seeds --latents"
    " --truncation --move --with --without --class --along --frames --fps --walks --device --trust-code" + WORK,
    "project": "--shards --out --best --starts --steps --seed --with --without --class --device --trust-code" + WORK,
    "directions": "--shards --best --n --seed --device --trust-code" + WORK,
    "eval": "--shards --split --n --metrics --groups --inception-weights --clip-weights --statistics --seed --best"
    " --out --device" + RECIPE,
    "export": "--onnx --fp16 --int8 --best --push --public" + RECIPE,
    "report": "--out --explore --watch --trust-code --json --dry-run --quiet --debug",
    "compare": "--out --seed --trust-code --json --debug",
    "run": "--to --trust-code" + WORK,
    "recipes list": "--json --debug",
    "recipes show": "--json --debug",
    "recipes check": "--json --debug",
    "recipes copy": "--json --debug",
    "demo": WORK,
    "models list": "--json --debug",
    "models pull": "--json --debug",
    "doctor": "--json --debug",
    "bench prep": "--crop --detector --limit --workers --scaling --pairs --set --json --quiet --debug",
    "bench stream": "--shards --workers --images --batch --pairs --json --quiet --debug",
    "bench train": "--method --batch --precision --no-graphs --shards --device --steps --roofline --pairs --json"
    " --quiet --debug",
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its whole name."""
    for name in COMMANDS:
        command = load(name)
        for below, inner in getattr(command, "commands", {"": command}).items():
            yield f"{name} {below}".strip(), inner


def test_every_command_is_listed() -> None:
    assert {name for name, _ in commands()} == set(OPTIONS)
    modules = {path.stem for path in Path(cli.__path__[0]).glob("*.py")}
    assert modules == {module for module, _ in COMMANDS.values()} | {"__init__", "app", "options"}


@pytest.mark.parametrize("name", COMMANDS)
def test_list_of_commands_matches_their_help(name: str) -> None:
    assert " ".join(load(name).help.split("\n\n")[0].split()) == COMMANDS[name][1]


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_options_and_exit_codes(name: str, command: Any) -> None:
    options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert options == set(OPTIONS[name].split())
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"
    assert " " in name or f"Example: facegan {name}" in command.help
    helped = in_process(*name.split(), "--help")
    assert (helped.code, "bool" in helped.stdout) == (0, False)
    assert all(f" {option} " in helped.stdout for option in options)
    wrong = in_process(*name.split(), "--nonsense")
    assert (wrong.code, wrong.stdout) == (2, "")
    assert "--nonsense" in wrong.stderr
    assert f"See: facegan {name} --help" in wrong.stderr


def test_options_override_nothing_by_default() -> None:
    """A command gets only the settings that the command line names; --set overrides options."""

    def record(flags: Flags, overrides: Overrides) -> None:
        seen.append(overrides)

    seen: list[Overrides] = []
    one = typer.Typer(add_completion=False)
    one.command()(options(PrepConfig, PhotosConfig, flags="sets")(record))
    for arguments in ([], ["--size", "64", "--no-follow-links"], ["--size", "32", "--set", "prep.size=128"]):
        one(arguments, standalone_mode=False)
    assert seen == [{}, {"size": "64", "follow_links": False}, {"size": "128"}]


def test_help_fits_two_screens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 100 × 45; the longest."""
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("prep", "train", "sample"):
        lines = in_process(name, "--help").stdout.splitlines()
        assert len(lines) <= 90, f"{name}: {len(lines)}"
        assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["", "recipes", "models", "bench"])
def test_group_without_command_prints_help(name: str) -> None:
    done = in_process(*name.split())
    assert (done.code, done.stderr) == (2, "")
    assert "Usage: facegan" in done.stdout
    assert "Commands" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = in_process("--show-completion", shell)
    assert (script.code, script.stderr) == (0, "")
    assert f"complete_{shell}" in script.stdout
    asked = {"COMP_WORDS": "facegan sa", "COMP_CWORD": "1"}  # bash; and the others
    asked |= {"_TYPER_COMPLETE_ARGS": "facegan sa", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    for name, value in {"_FACEGAN_COMPLETE": f"complete_{shell}", **asked}.items():
        monkeypatch.setenv(name, value)
    answer = in_process()
    assert "sample" in answer.stdout, answer.stderr
    assert "train" not in answer.stdout


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("train --method ", {"dcgan", "wgan-gp", "fast"}),
        ("prep a b --detector mediapipe-", {"mediapipe-short", "mediapipe-full"}),
        ("train --recipe sm", {"smoke"}),
        ("run sm", {"smoke"}),
    ],
)
def test_completion_of_values(typed: str, names: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FACEGAN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"facegan {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split(" "))))
    assert set(in_process().stdout.split()) == names


def test_completion_loads_nothing_heavy() -> None:
    code = "import os, sys\nos.environ |= dict(_FACEGAN_COMPLETE='complete_bash', COMP_CWORD='3')\n"
    code += "os.environ['COMP_WORDS'] = 'facegan train --method '\nfrom facegan.cli.app import main\n"
    code += "try: main([])\nexcept SystemExit: pass\nprint(sorted({'torch', 'cv2', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["dcgan", "wgan-gp", "fast", "[]"]


def in_terminal(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and all that a terminal shows."""
    command = [sys.executable, "-m", "facegan", *map(str, arguments)]
    surroundings = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**surroundings, "TERM": "xterm", **environment}
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while read := os.read(mine, 65536):
                shown += read
        code = process.wait(timeout=120)
    os.close(mine)
    return code, shown.decode(errors="replace")


COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")


def test_pipe_gets_no_escape_codes(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pyarrow's reading threads once outlived the interpreter, and ended one process in three with SIGABRT."""
    done = facegan("verify", dataset, NO_COLOR="")
    assert done.returncode == 0
    monkeypatch.setenv("NO_COLOR", "")
    for ended in (done, in_process("--help"), in_process("verify", "nowhere")):
        assert not {"\x1b", "\r"} & {*ended.stdout, *ended.stderr}


def test_progress_only_in_a_terminal(dataset: Path) -> None:
    code, shown = in_terminal("verify", dataset)
    assert code == 0
    assert "3/3" in shown
    assert COLOUR.search(shown)
    code, shown = in_terminal("verify", dataset, NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[(3|4|9|10)\d", shown)


def test_demo_dry_run(tmp_path: Path) -> None:
    done = in_process("demo", tmp_path / "demo", "--dry-run", "--set", "train.images=64", "--json")
    assert '"stage": "train"' in done.stdout
    assert "64 images" in done.stdout
    assert not (tmp_path / "demo").exists()


def test_recipes_show_in_a_terminal() -> None:
    code, shown = in_terminal("recipes", "show", "smoke")
    lines = shown.splitlines()
    assert code == 0
    assert len(lines) < 220
    assert max(map(len, lines)) < 80
    assert "  shard_size = 100 (photographs; default 1000) — photos per chunk," in shown
    words, whole = shown.split(), in_process("recipes", "show", "smoke").stdout
    assert [word for word in whole.split() if word != "#"] == words
