"""What all commands have in common, and what a terminal gets to see."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from facegan import cli
from facegan.cli.commands import COMMANDS, load
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
    "recipes check": ({"--recipe", "--set", "--dry-run"}, "recipes are its arguments, and are taken as they are"),
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


def in_terminal(*arguments: object, **environment: str) -> tuple[int, str]:
    """Exit code and all that a terminal shows."""
    command = [sys.executable, "-m", "facegan", *map(str, arguments)]
    surroundings = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    mine, theirs = pty.openpty()
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
