"""Detector models in the user cache."""

from __future__ import annotations

import json
from pathlib import Path

from facegan.manifests import known_models
from tests.cli.run import facegan


def test_an_altered_model_in_the_cache_does_not_count(models: Path, tmp_path: Path) -> None:
    kept, model = tmp_path / "facegan" / "models", known_models()["short"]
    kept.mkdir(parents=True)
    data = bytearray((models / model.file).read_bytes())
    (kept / model.file).write_bytes(data)
    assert _path(facegan("models", "list", "--json", XDG_CACHE_HOME=str(tmp_path), FACEGAN_MODELS="").stdout) == str(
        kept / model.file
    )
    data[1000] ^= 4
    (kept / model.file).write_bytes(data)
    altered = facegan("models", "list", "--json", XDG_CACHE_HOME=str(tmp_path), FACEGAN_MODELS="")
    assert f"{kept / model.file} does not match its checksum and is ignored." in altered.stderr
    assert not _path(altered.stdout)


def _path(stdout: str) -> str | None:
    return next(row["path"] for row in json.loads(stdout)["models"] if row["name"] == "short")
