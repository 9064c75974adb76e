"""One process of several, which prints its results: ``two.py steps CASES``, ``runs FOLDER``,
``measures FOLDER`` or ``fails``."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from toy import ToyFaces, toy_config, toy_train

from facegan.console import Console
from facegan.errors import Interrupted
from facegan.nets import Generator
from facegan.training import sample_images, train
from facegan.training.distributed import World, init_distributed, world_size
from facegan.training.trainer import Trainer, spec_of

CPU = torch.device("cpu")


def steps(world: World, method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Rows and weights after a few steps."""
    frozen = given.pop("freeze_norms", False)
    config = toy_config(method, **{"batch": 16, "lr_g": 1e-3, "lr_d": 1e-3, **given})
    trainer = Trainer(config, spec_of(config, 32, 3), CPU, "fp32", world)
    if frozen:  # no batch statistics in G
        trainer.generator.eval()
    reals = ToyFaces().batches(config.batch, rank=world.rank, world_size=world.size)
    rows = []
    for _ in range(3):
        trainer.train_step(reals)
        rows.append(trainer.means())
        trainer.clear_means()
    nets = (trainer.generator, trainer.discriminator)
    return {"rows": rows, "weights": [p.detach().double().norm().item() for net in nets for p in net.parameters()]}


def runs(folder: Path) -> dict[str, Any]:
    """A run; and one that the last process stops after three steps, and that is resumed."""
    given: dict[str, Any] = {"nets": "began", "width": 4, "images": 160, "log_every": 64, "save_every": 32}
    whole = toy_train(folder / "whole", **given)
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return int(os.environ.get("RANK", "0")) == world_size() - 1 and len(calls) == 3

    config = toy_config(**given)
    with contextlib.suppress(Interrupted):
        train(config, ToyFaces(), folder / "stopped", device="cpu", console=Console(quiet=True), stop=stop)
    stopped_after = len(calls)
    again = toy_train(folder / "stopped", **given)
    return {"stopped_after": stopped_after, "images": [whole.images, again.images], "loss_g": again.loss_g}


def measures(folder: Path) -> dict[str, Any]:
    """A run with evaluations, and the calls of the measure in this process."""
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

    config = toy_config(images=64, save_every=64, eval_every=32)
    result = train(config, ToyFaces(), folder / "run", device="cpu", console=Console(quiet=True), measure=Measure())
    return {"calls": calls, "best": result.best.images if result.best else 0}


def fails() -> None:
    """The last process fails in its second step, in which the others wait for it."""
    with init_distributed(CPU) as world:
        config = toy_config(batch=16)
        trainer = Trainer(config, spec_of(config, 32, 3), CPU, "fp32", world)
        reals = ToyFaces().batches(config.batch, rank=world.rank, world_size=world.size)
        trainer.train_step(reals)
        if world.rank == world.size - 1:
            raise ValueError("this process is to fail")
        trainer.train_step(reals)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "fails":
        fails()
    if sys.argv[1] in ("runs", "measures"):
        answer = {"runs": runs, "measures": measures}[sys.argv[1]](Path(sys.argv[2]))
    else:
        with init_distributed(CPU) as world:
            answer = {name: steps(world, *case) for name, case in json.loads(sys.argv[2]).items()}
    sys.stdout.write(json.dumps(answer) + "\n")
