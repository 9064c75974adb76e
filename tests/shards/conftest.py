"""Shared by the tests of shards: a dataset of two splits with cards, and a private cache for mlcroissant."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shards.made import PHOTOS, make_dataset


@pytest.fixture(scope="session")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`PHOTOS`. Not to be written to."""
    return make_dataset(tmp_path_factory.mktemp("two_splits") / "out", PHOTOS)


@pytest.fixture
def croissant_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlcroissant unpacks into a folder of the test: it reads $CROISSANT_CACHE too early, when it is imported."""
    from etils import epath
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "croissant"))
