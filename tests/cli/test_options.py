"""What all commands have in common, and what a terminal gets to see."""

from __future__ import annotations

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

from facegan import cli
from facegan.cli.app import COMMANDS, load
from tests.cli.run import facegan

EVERYWHERE = {"--json", "--debug"}
OF_WORK = {"--recipe", "--set", "--dry-run", "--quiet"}
_ASKS = "it answers a question: no settings, nothing written, no progress"
_LOOKS = "it reads and tells, and has no settings"
_MEASURES = "it measures for some seconds, and writes nothing that stays"
# Options that commands have not, each with its reason.
WITHOUT: dict[str, tuple[set[str], str]] = {
    "inspect": ({"--recipe", "--set", "--dry-run"}, _LOOKS),
    "verify": ({"--recipe", "--set", "--dry-run"}, _LOOKS),
    "select": ({"--recipe"}, "recipes have no section for it"),
    "sample": ({"--recipe"}, "recipes have no section for it: facegan run draws a grid"),
    "report": ({"--recipe", "--set"}, "it has no settings: what it shows is the run's"),
    "compare": ({"--recipe", "--set", "--dry-run", "--quiet"}, "it reads and tells in a second or two"),
    "run": ({"--recipe"}, "the recipe is its argument"),
    "demo": ({"--recipe"}, "it is a recipe itself"),
    "doctor": (OF_WORK, _ASKS),
    "recipes list": (OF_WORK, _ASKS),
    "recipes show": (OF_WORK, _ASKS),
    "recipes check": (OF_WORK, "recipes are its arguments, and are taken as they are"),
    "recipes copy": (OF_WORK, "it copies one small file"),
    "models list": (OF_WORK, _ASKS),
    "models pull": (OF_WORK, "it fetches files of a megabyte, and has no settings"),
    "bench prep": ({"--recipe", "--dry-run"}, _MEASURES),
    "bench stream": ({"--recipe", "--set", "--dry-run"}, _MEASURES),
    "bench train": ({"--recipe", "--set", "--dry-run"}, _MEASURES),
}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by its whole name."""
    for name in COMMANDS:
        command = load(name)
        for below, inner in getattr(command, "commands", {"": command}).items():
            yield f"{name} {below}".strip(), inner


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_own_help_does(name: str) -> None:
    assert load(name).help.split("\n\n")[0] == COMMANDS[name][0]


def test_all_commands_are_in_the_list() -> None:
    modules = {path.stem for path in Path(cli.__path__[0]).glob("*.py")}
    assert modules - set(COMMANDS) == {"__init__", "app", "commands", "options"}


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts if option.startswith("--")}


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_command_has_the_common_options(name: str, command: Any) -> None:
    lacks, _ = WITHOUT.get(name, (set(), ""))
    assert (EVERYWHERE | OF_WORK) - options_of(command) == lacks


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_option_says_what_it_means(name: str, command: Any) -> None:
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"
    if " " not in name:
        assert f"facegan {name}" in (command.epilog or "")


def test_help_fits_two_screens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of 100 × 45; the program itself is asked for the longest."""
    for name in ("prep", "train", "sample"):
        text = facegan(name, "--help", COLUMNS="100", TERMINAL_WIDTH="100").stdout
        lines = text.splitlines()
        assert len(lines) <= 90, f"{name}: {len(lines)}"
        assert max(map(len, lines)) <= 100
        assert "Example: facegan" in text


@pytest.mark.parametrize("name", ["", "recipes", "models", "bench"])
def test_a_group_by_its_bare_name_prints_its_help(name: str) -> None:
    done = facegan(*name.split())
    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage: facegan" in done.stdout
    assert "Commands" in done.stdout


def test_flags_take_no_value_in_help() -> None:
    for name in ("", "verify", "train", "bench prep", "recipes check", "recipes"):
        text = facegan(*name.split(), "--help").stdout
        assert "--help" in text
        assert "bool" not in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    script = facegan("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert (script.returncode, script.stderr) == (0, "")
    assert f"complete_{shell}" in script.stdout
    asked: dict[str, Any] = {"_FACEGAN_COMPLETE": f"complete_{shell}"}
    if shell == "bash":
        asked |= {"COMP_WORDS": "facegan sa", "COMP_CWORD": "1"}
    else:
        asked |= {"_TYPER_COMPLETE_ARGS": "facegan sa", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    answer = facegan(**asked)
    assert "sample" in answer.stdout, answer.stderr
    assert "train" not in answer.stdout


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("train --method ", {"dcgan", "wgan-gp"}),
        ("prep a b --crop c", {"center178", "comparegan160"}),
        ("prep a b --detector mediapipe-", {"mediapipe-short", "mediapipe-full"}),
        ("prep a b --size ", {"28", "32", "64", "128"}),
        ("train --recipe sm", {"smoke"}),
        ("run sm", {"smoke"}),
        ("recipes show sm", {"smoke"}),
        ("recipes check sm", {"smoke"}),
    ],
)
def test_completion_knows_values(typed: str, names: set[str]) -> None:
    words = f"facegan {typed}"
    answer = facegan(_FACEGAN_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(len(words.split(" ")) - 1))
    assert set(answer.stdout.split()) == names


def test_completion_loads_nothing_heavy() -> None:
    code = "import os, sys\nos.environ |= dict(_FACEGAN_COMPLETE='complete_bash', COMP_CWORD='3')\n"
    code += "os.environ['COMP_WORDS'] = 'facegan train --method '\nfrom facegan.cli.app import main\n"
    code += "try: main([])\nexcept SystemExit: pass\nprint(sorted({'torch', 'cv2', 'numpy'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["dcgan", "wgan-gp", "[]"]


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
        while True:
            try:
                read = os.read(mine, 65536)
            except OSError:  # the other end is closed
                break
            if not read:
                break
            shown += read
        code = process.wait(timeout=120)
    os.close(mine)
    return code, shown.decode(errors="replace")


COLOUR = re.compile(r"\x1b\[[0-9;]*[1-9][0-9;]*m")


def test_a_terminal_gets_colours_unless_it_wants_none() -> None:
    code, shown = in_terminal("recipes", "--help")
    assert code == 0
    assert COLOUR.search(shown)
    code, plain = in_terminal("recipes", "--help", NO_COLOR="1")
    assert code == 0
    assert not re.search(r"\x1b\[(3|4|9|10)\d", plain)


def test_a_pipe_gets_no_escape_codes(dataset: Path) -> None:
    for arguments in (["--help"], ["verify", dataset], ["recipes", "list"], ["verify", "nowhere"]):
        done = facegan(*arguments, NO_COLOR="")
        assert "\x1b" not in done.stdout + done.stderr
        assert "\r" not in done.stdout + done.stderr


def test_progress_moves_in_a_terminal_alone(dataset: Path) -> None:
    code, shown = in_terminal("verify", dataset)
    assert code == 0
    assert "3/3" in shown
    assert facegan("verify", dataset).stderr == ""


def test_demo_says_what_it_would_do(tmp_path: Path) -> None:
    done = facegan("demo", tmp_path / "demo", "--dry-run", "--set", "train.images=64", "--json")
    assert done.returncode == 0, done.stderr
    assert '"stage": "train"' in done.stdout
    assert "64 images" in done.stdout
    assert not (tmp_path / "demo").exists()


def test_recipes_show_is_compact_in_a_terminal_and_cuts_nothing() -> None:
    code, shown = in_terminal("recipes", "show", "smoke")
    lines = shown.splitlines()
    assert code == 0
    assert len(lines) < 200
    assert max(map(len, lines)) < 80
    assert "  shard_size = 100 (photographs; default 1000) — photographs a chunk" in shown
    words, whole = shown.split(), facegan("recipes", "show", "smoke").stdout
    assert [word for word in whole.split() if word != "#"] == words


def test_inspect_shows_counts_histograms_settings_in_this_order(dataset: Path) -> None:
    code, shown = in_terminal("inspect", dataset)
    places = [shown.index(text) for text in ("split train", "score of", "side of the crop", "setting size", "version")]
    assert code == 0
    assert places == sorted(places)
    assert max(map(len, shown.splitlines())) < 80


def test_the_limit_is_what_the_recognised_data_set_is_announced_with(celeba: Path, tmp_path: Path) -> None:
    done = facegan("prep", celeba, tmp_path / "out", "--crop", "squash", "--detector", "none", "--limit", 3)
    assert "3 of 202,599 photographs of CelebA aligned" in done.stderr
    assert "8,050" not in done.stderr
