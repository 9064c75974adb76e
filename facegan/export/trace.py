"""A generator as a graph of tensor operations, with a batch of any size; all that other programs get is made of it."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
from collections.abc import Iterator

import torch
from torch.export import Dim, ExportedProgram

from facegan.errors import ExportError
from facegan.nets import Generator

_BATCH = 2  # of the latents that it is followed with; 1 would be taken for a constant


def trace(generator: Generator) -> ExportedProgram:
    """What a generator does in eval mode, on the CPU: latents (N, Z) float32 → images (N, C, H, W) float32 in [−1, 1].

    The graph names neither files nor lines of this machine.

    Raises:
        ExportError: its code does what torch.export can't follow, or hangs on the size of the batch.
    """
    net = copy.deepcopy(generator).to("cpu").eval().requires_grad_(False)
    latents = torch.zeros(_BATCH, generator.spec.latent)
    try:
        with _no_dumps():
            program = torch.export.export(net, (latents,), dynamic_shapes=({0: Dim("N")},), strict=False)
    except Exception as error:  # what a user's nets raise, and torch.export for them, is of any kind
        text = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"torch.export can't follow the generator of train.nets = {generator.spec.name}: "
            f"{type(error).__name__}: {text}\n"
            "Its forward has to be tensor operations for any number of latents, without branches on their values."
        ) from error
    for node in program.graph.nodes:
        for told in ("stack_trace", "source_fn_stack", "torch_fn", "nn_module_stack"):
            node.meta.pop(told, None)
    return program


@contextlib.contextmanager
def _no_dumps() -> Iterator[None]:
    """Where torch.export fails it first prints the graph so far to stderr, and logs where it stood: a page of both.

    What it says where all goes well is passed on.
    """
    said, log = io.StringIO(), logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(said):
            yield
    finally:
        log.setLevel(level)
    sys.stderr.write(said.getvalue())
