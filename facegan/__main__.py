"""``python -m facegan``."""

import os
import sys

# `python -m` puts the current folder first, where a file would stand in for any module of its name. facegan may be there
# itself. pathlib is such a module, too.
_top = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120 - see above
if not sys.flags.safe_path and sys.path[0] == os.getcwd() != _top:  # noqa: PTH109 - see above
    del sys.path[0]

from facegan.cli.app import main

main()
