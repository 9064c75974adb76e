"""One process of several, which prints its results, and whose last one fails then: ``two.py CASES FOLDER``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from toy import ToyAttributes, ToyFaces, ticking_clock, toy_config, toy_run

from facegan.errors import Interrupted
from facegan.nets import Generator
from facegan.training import log, sample_images
from facegan.training.distributed import World, init_distributed, world_size
from facegan.training.trainer import Trainer, condition_of, spec_of

CPU = torch.device("cpu")


def steps(world: World, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Rows and weights after a few steps without batch statistics in G."""
    config = toy_config(method, **{"batch": 16, "lr_g": 1e-3, "lr_d": 1e-3, **given})
    faces = ToyAttributes()
    condition, labels = condition_of(config, faces)
    trainer = Trainer(config, spec_of(config, 32, 3, condition), CPU, "fp32", world, labels)
    trainer.generator.eval()
    reals = faces.batches(config.batch, rank=world.rank, world_size=world.size)
    rows = []
    for _ in range(5 if config.augment == "ada" else 3):
        trainer.train_step(reals)
        rows.append(trainer.means())
        trainer.clear_means()
    nets = (trainer.generator, trainer.discriminator)
    return {"rows": rows, "weights": [p.detach().double().norm().item() for net in nets for p in net.parameters()]}


def runs(folder: Path) -> dict[str, Any]:
    """A run with evaluations; and one that the last process stops after three steps, and that is resumed."""
    given: dict[str, Any] = {"nets": "began", "width": 2, "images": 96, "log_every": 64, "save_every": 32}
    calls: list[str] = []

    class Measure:
        def __call__(self, generator: Generator) -> dict[str, float]:
            calls.append("value")
            return {"grey": sample_images(generator, 4).float().mean().item()}

        def protocol(self) -> dict[str, Any]:
            calls.append("protocol")
            return {"what": "how grey they are"}

        def real_vs_real(self) -> dict[str, float]:
            calls.append("floor")
            return {"grey": 0.0}

    whole = toy_run(folder / "whole", toy_config(**given), measure=Measure(), eval_every=64)
    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return int(os.environ.get("RANK", "0")) == world_size() - 1 and len(steps) == 3

    with contextlib.suppress(Interrupted):
        toy_run(folder / "stopped", toy_config(**given), stop=stop)
    again = toy_run(folder / "stopped", toy_config(**given))
    best = whole.best.images if whole.best else 0
    timed, ended = 0, []
    if world_size() > 1:
        stalls: Any = {"measure": lambda generator: {"swd": 1.0}}
        config = toy_config(**given, eval_every=32, stop_after=1)
        ended = [toy_run(folder / "ended", config, **stalls).images for _ in range(2)]
        with ticking_clock():
            timed = toy_run(folder / "timed", toy_config(**given | {"images": "0.0016min"})).images
    return {
        "timed": timed,
        "ended": ended,
        "stopped_after": len(steps),
        "images": [whole.images, again.images],
        "calls": calls,
        "best": best,
    }


def trains(world: World, cases: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"cases": {name: steps(world, *case) for name, case in cases.items()}, **runs(folder)}


def fails(world: World) -> None:
    """The last process fails in its second step, in which the others wait for it."""
    config = toy_config(batch=16)
    trainer = Trainer(config, spec_of(config, 32, 3), CPU, "fp32", world)
    reals = ToyFaces().batches(config.batch, rank=world.rank, world_size=world.size)
    trainer.train_step(reals)
    if world.rank == world.size - 1:
        raise ValueError("this process is to fail")
    trainer.train_step(reals)


if __name__ == "__main__":
    torch.set_num_threads(1)
    log.draw_curves = lambda rows: b""  # as in tests/conftest.py
    with init_distributed(CPU) as world:
        sys.stdout.write(json.dumps(trains(world, json.loads(sys.argv[1]), Path(sys.argv[2]))) + "\n")
        sys.stdout.flush()
        fails(world)
