from pathlib import Path

import pytest
import torch

from facegan.nets import NetSpec, make_generator, save_generator
from tests.training.toy import toy_train


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Toy nets gain nothing from more threads."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of 32, 64 and 96 images."""
    folder = tmp_path_factory.mktemp("sample") / "run"
    toy_train(folder, width=4, images=96, save_every=32)
    return folder


@pytest.fixture(scope="session")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a grey generator with uniform latents."""
    path = tmp_path_factory.mktemp("grey") / "generator.safetensors"
    save_generator(
        path, make_generator(NetSpec("dcgan", size=32, channels=1, latent=16, width=4, distribution="uniform"))
    )
    return path
