"""A generator as a ``torch.export`` program (``generator.pt2``): a zip of JSON and raw weights, without any pickle."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import sys
import zipfile
from collections.abc import Iterator

import torch
from torch.export import Dim, ExportedProgram

from facegan.errors import ExportError
from facegan.nets import Generator

FILE_NAME = "generator.pt2"
_BATCH = 2  # latents of the example input; a batch of 1 would be traced as a constant


def trace(generator: Generator) -> ExportedProgram:
    """The generator in eval mode on the CPU, for any batch size: latents (N, Z) and, if it is conditional, conditions
    (N, K) → images (N, C, H, W), all float32.

    The graph contains no file names or line numbers of this machine. Raises ExportError if its code cannot be traced.
    """
    net = copy.deepcopy(generator).to("cpu").eval().requires_grad_(False)
    inputs = tuple(generator.spec.split(torch.zeros(_BATCH, generator.spec.inputs)).values())
    shapes = ({0: Dim("N")},) * len(inputs)
    try:
        with _quiet_failure():
            program = torch.export.export(net, inputs, dynamic_shapes=shapes, strict=False)
    except Exception as error:  # users' nets, and torch.export on them, raise exceptions of any kind
        text = str(error).strip().partition("\n")[0]
        raise ExportError(
            f"torch.export cannot trace the generator of train.nets = {generator.spec.name}: "
            f"{type(error).__name__}: {text}\n"
            "Its forward must consist of tensor operations for any batch size, without branches on tensor values."
        ) from error
    for node in program.graph.nodes:
        for key in ("stack_trace", "source_fn_stack", "torch_fn", "nn_module_stack"):
            node.meta.pop(key, None)
    return program


def program_bytes(program: ExportedProgram) -> bytes:
    """The ``.pt2`` file of a trace, without the example inputs, which torch would pickle."""
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    if pickled := pickled_members(buffer.getvalue()):
        raise ExportError(
            f"A torch.export program of this generator would contain pickles ({', '.join(pickled)}).\n"
            "facegan writes no pickles. Leave the program out with --set export.program=false."
        )
    return buffer.getvalue()


def pickled_members(data: bytes) -> list[str]:
    """Members of a ``.pt2`` file that ``torch.export.load`` would unpickle."""
    found = []
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for name in archive.namelist():
            member = archive.read(name)
            if "sample_inputs" in name and member:
                found.append(name)
            elif name.endswith(("weights_config.json", "constants_config.json")):
                entries = json.loads(member)["config"]
                found += [entry["path_name"] for entry in entries.values() if entry["use_pickle"]]
    return found


@contextlib.contextmanager
def _quiet_failure() -> Iterator[None]:
    """Drop the page of graph and log that torch.export prints before it raises; pass stderr on when it succeeds."""
    stderr, log = io.StringIO(), logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(stderr):
            yield
    finally:
        log.setLevel(level)
    sys.stderr.write(stderr.getvalue())
