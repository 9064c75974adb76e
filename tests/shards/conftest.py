"""Shared by the tests of shards: a dataset of two splits with cards."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.shards.made import PHOTOS, make_dataset


@pytest.fixture(scope="session")
def two_splits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`PHOTOS`. Not to be written to."""
    return make_dataset(tmp_path_factory.mktemp("two_splits") / "out", PHOTOS)
