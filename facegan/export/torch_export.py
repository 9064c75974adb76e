"""A generator as a ``torch.export`` program (``generator.pt2``): a zip of JSON and raw weights, without any pickle."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
import sys
import zipfile
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

from facegan.errors import ExportError
from facegan.nets import Generator

FILE_NAME = "generator.pt2"


def program_bytes(program: ExportedProgram) -> bytes:
    """The file of a generator's trace.

    torch pickles nothing but the inputs that a program was made with, and tensors of classes of their own: the former
    are left out, and the latter are refused. ``torch.export.load`` would unpickle what others put into such a file, and
    so facegan loads none.

    Raises:
        ExportError: it would hold a pickle.
    """
    program.example_inputs = None
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    if pickled := pickled_members(buffer.getvalue()):
        raise ExportError(
            f"A torch.export program of this generator would hold pickles ({', '.join(pickled)}).\n"
            "facegan writes none: leave it out with --set export.program=false."
        )
    return buffer.getvalue()


def pickled_members(data: bytes) -> list[str]:
    """Members of a program's file that ``torch.export.load`` would unpickle."""
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


# A generator's operations as plain values, for config.json: so that a few lines of Python can draw without facegan.
#
# A graph has ``constants`` (name → nested list), ``steps`` ([name, operation, arguments, named arguments] each) and
# ``output``, a name. A step calls an operation of ``torch.ops`` (``aten.conv2d.default``) or of Python's ``operator``;
# its result has its name from then on. Arguments are numbers, lists, null, and texts: ``%name`` is a step's result, a
# constant, a tensor of generator.safetensors, or ``%latents``; ``!torch.float32`` is what torch calls so.

INPUT = "latents"
_MOST_CONSTANTS = 10_000  # numbers; more of them are weights, and belong in a file of weights


class NoGraph(Exception):
    """A generator does what such a graph can't say."""


def graph_of(program: ExportedProgram) -> dict[str, Any]:
    """
    Raises:
        NoGraph: with the reason, as the end of a sentence.
    """
    names, constants = _given(program)
    steps: list[list[Any]] = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        arguments, named = _plain(list(node.args), names), _plain(dict(node.kwargs), names)
        names[node.name] = _free(node.name, {*names.values()})
        steps.append([names[node.name], _operation(node.target), arguments, named])
    (output,) = program.graph_signature.user_outputs
    return {"constants": constants, "steps": steps, "output": names[str(output)]}


def _given(program: ExportedProgram) -> tuple[dict[str, str], dict[str, Any]]:
    """Names of what the graph begins with, and the values of those that stand in no file of weights."""
    names, constants, count = {}, {}, 0
    for given in program.graph_signature.input_specs:
        name = given.arg.name
        if given.kind == InputKind.USER_INPUT:
            names[name] = INPUT
            continue
        names[name] = target = str(given.target)
        if target == INPUT:
            raise NoGraph(f"one of its tensors is called {INPUT}")
        if target in program.constants:
            value = program.constants[target]
            if not isinstance(value, torch.Tensor) or value.dtype not in (torch.float32, torch.int64, torch.bool):
                raise NoGraph(f"it holds a constant that is no tensor of numbers ({target})")
            count += value.numel()
            constants[target] = value.tolist()
    if count > _MOST_CONSTANTS:
        raise NoGraph(f"it holds {count:,} numbers that are no weights (buffers that are not saved)")
    return names, constants


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _operation(target: Any) -> str:
    name = str(target)
    if isinstance(target, torch._ops.OpOverload) and name.startswith("aten."):
        return name
    if getattr(target, "__module__", "") == "_operator":
        return f"operator.{target.__name__}"
    raise NoGraph(f"it has an operation that is none of torch's own ({name})")


def _plain(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, Node):
        return f"%{names[value.name]}"
    if isinstance(value, list | tuple):
        return [_plain(part, names) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part, names) for key, part in value.items()}
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return f"!{value}"
    if isinstance(value, torch.device):
        return str(value)
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, str) and value[:1] not in ("%", "!", ""):
        return value
    raise NoGraph(f"one of its operations takes a {type(value).__name__} ({value})")


# A generator as a graph of tensor operations, with a batch of any size; all that other programs get is made of it.

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
