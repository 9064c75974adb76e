"""One process of several: ``python two.py rounds CASES`` trains a few rounds of each and prints what came of it."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from toy import ToyFaces, toy_config

from facegan.train.ranks import Ranks, joined
from facegan.train.step import Trainer, spec_of

CPU = torch.device("cpu")


def rounds(ranks: Ranks, method: str, given: dict[str, Any]) -> dict[str, Any]:
    frozen = given.pop("freeze_norms", False)
    config = toy_config(method, **{"batch": 16, "lr_g": 1e-3, "lr_d": 1e-3, **given})
    trainer = Trainer(config, spec_of(config, 32, 3), CPU, "fp32", ranks)
    if frozen:  # no batch statistics in G
        trainer.generator.eval()
    share = ranks.share(config.batch)
    reals = (batch[ranks.rank * share : (ranks.rank + 1) * share] for batch in ToyFaces().batches(config.batch))
    rows = []
    for _ in range(3):
        trainer.round(reals)
        rows.append(trainer.means())
        trainer.clear_means()
    nets = (trainer.generator, trainer.discriminator)
    return {"rows": rows, "weights": [p.detach().double().norm().item() for net in nets for p in net.parameters()]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with joined(CPU) as ranks:
        cases = json.loads(sys.argv[2])
        print(json.dumps({name: rounds(ranks, *case) for name, case in cases.items()}))
