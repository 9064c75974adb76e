import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Toy nets gain nothing from more, and two would wait for each other on a busy machine."""
    torch.set_num_threads(1)
