"""What tests of shards share: readers of other projects that may touch neither network nor the user's caches."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def croissant_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlcroissant unpacks into a folder of the test. ($CROISSANT_CACHE it reads when imported: too early.)"""
    from etils import epath
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "croissant"))
