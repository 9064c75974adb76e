"""``python -m facegan``."""

import sys
from os import getcwd
from os.path import dirname

# `python -m` puts the current folder first, where a file would stand in for any module of its name; pathlib is one.
if not sys.flags.safe_path and sys.path[0] == getcwd() != dirname(dirname(__file__)):  # noqa: PTH109, PTH120 - pathlib could be one
    del sys.path[0]

from facegan.cli.app import main

main()
