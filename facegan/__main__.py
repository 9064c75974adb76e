"""``python -m facegan``."""

from facegan.cli.app import main

main()
