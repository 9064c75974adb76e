"""The wheel, installed elsewhere: package data travel with it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_carries_its_data_and_works_elsewhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"facegan/py.typed", "facegan/cli/app.py"} <= set(names)
    assert {f"facegan/_data/manifests/{name}.toml" for name in ("models", "celeba-aligned", "mnist")} <= set(names)
    assert {f"facegan/_data/pipelines/{name}.toml" for name in ("smoke", "own-photos")} <= set(names)
    vendored = {f"facegan/report/page/vendored/{name}" for name in ("uPlot.iife.min.js", "uPlot.min.css", "LICENSE")}
    assert vendored | {f"facegan/report/page/{name}" for name in ("run.html", "page.css", "charts.js")} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "manifests/", "pipelines/"))]
    elsewhere = tmp_path / "elsewhere"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(elsewhere), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    code = (
        "import facegan.manifests as m, facegan.recipes.recipe as r; "
        "print(m.__file__, r.read_recipe('smoke').values['prep']['source'], sorted(m.known_models()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(elsewhere)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.startswith(str(elsewhere))
    assert done.stdout.endswith(" portraits:500 ['full', 'short']\n")
