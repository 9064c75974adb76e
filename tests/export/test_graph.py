"""The graph in config.json, as the card's own lines draw by it."""

from __future__ import annotations

import io
import json
import warnings
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from facegan.errors import ExportError
from facegan.export.card import torch_snippet
from facegan.export.torch_export import NoGraph, graph_of, pickled_members, program_bytes, trace
from facegan.export.write import config_text
from facegan.nets import Generator, NetSpec, save_generator
from tests.export.pairs import LATENT, some_kinds, tiny_generator


def drawn_by_the_card(generator: Generator, folder: Path) -> tuple[Tensor, Tensor]:
    """(images, latents): of the lines that the card prints."""
    save_generator(folder / "generator.safetensors", generator)
    (folder / "config.json").write_text(config_text({"graph": graph_of(trace(generator))}))
    names: dict[str, Any] = {}
    with chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a file that is left to the interpreter to close
        exec(torch_snippet(generator.spec, 3), names)  # noqa: S102 - our own lines, which users run
    return names["images"], names["values"]["latents"]


@pytest.mark.parametrize("kind", some_kinds(), ids=lambda kind: kind[0])
def test_fifteen_lines_draw_what_the_generator_draws(kind: tuple[str, int, int], tmp_path: Path) -> None:
    generator = tiny_generator(*kind)
    images, latents = drawn_by_the_card(generator, tmp_path)
    assert latents.shape == (3, LATENT)
    torch.testing.assert_close(images, generator(latents), rtol=0, atol=1e-6)
    assert len([line for line in torch_snippet(generator.spec).splitlines() if line.strip()]) <= 15


def test_latents_follow_their_law(tmp_path: Path) -> None:
    generator = tiny_generator("mlp", 28, 1)
    for law, holds in {
        "uniform": lambda z: z.min() < 0 and z.abs().max() <= 1,
        "uniform01": lambda z: z.min() >= 0 and z.max() <= 1,
        "sphere": lambda z: torch.allclose(z.norm(dim=1), torch.tensor(LATENT**0.5)),
    }.items():
        generator.spec = NetSpec("mlp", 28, 1, LATENT, 4, "none", law)  # type: ignore[arg-type]  # keys of a dict
        assert holds(drawn_by_the_card(generator, tmp_path)[1])


class Own(Generator):
    """What no pair of facegan's does: shapes from the batch, parts of a tensor, a dtype, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = NetSpec("mine:NETS", 28, 1, LATENT)
        self.linear = nn.Linear(LATENT, 2 * 28 * 28)
        self.register_buffer("ramp", torch.arange(28.0), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        first, second = self.linear(latents).chunk(2, dim=1)
        mixed = (first.sigmoid() * second).to(torch.float64).float().view(latents.shape[0] * 28, 28)
        return torch.tanh(mixed + self.get_buffer("ramp") / 28).view(-1, 1, 28, 28)


def test_nets_of_ones_own(tmp_path: Path) -> None:
    generator = Own().eval().requires_grad_(False)
    images, latents = drawn_by_the_card(generator, tmp_path)
    torch.testing.assert_close(images, generator(latents), rtol=0, atol=1e-6)


class Branches(Own):
    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents) if latents.sum() > 0 else super().forward(-latents)


class Remembers(Own):
    """20,000 numbers that no file of weights holds."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("much", torch.zeros(20_000), persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(super().forward(latents) + self.get_buffer("much").sum())


def test_what_can_not_be_followed_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ExportError, match=r"can't follow the generator of train.nets = mine:NETS"):
        trace(Branches().eval())
    assert capsys.readouterr().err == ""
    with pytest.raises(NoGraph, match="20,028 numbers that are no weights"):
        graph_of(trace(Remembers().eval()))


@pytest.mark.parametrize("kind", [("dcgan", 32, 3), ("r3gan", 28, 1)], ids=lambda kind: kind[0])
def test_the_program_holds_no_pickle_and_no_path_and_draws_the_same(kind: tuple[str, int, int]) -> None:
    generator = tiny_generator(*kind)
    data = program_bytes(trace(generator))
    assert pickled_members(data) == []
    assert b".py" not in data
    assert program_bytes(trace(generator)) == data
    loaded = torch.export.load(io.BytesIO(data)).module()
    latents = torch.randn(5, LATENT)
    torch.testing.assert_close(loaded(latents), generator(latents), rtol=0, atol=1e-6)


def test_a_program_as_torch_makes_it_is_known_to_hold_a_pickle() -> None:
    buffer = io.BytesIO()
    torch.export.save(trace(tiny_generator("mlp", 28, 1)), buffer)
    assert pickled_members(buffer.getvalue())
    assert json.loads(config_text({"a": 1, "graph": None, "b": 2})) == {"a": 1, "graph": None, "b": 2}
