import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is marked `gpu` needs an NVIDIA GPU."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
