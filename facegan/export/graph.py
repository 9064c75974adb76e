"""A generator's operations as plain values, for config.json: so that a few lines of Python can draw without facegan.

A graph has ``constants`` (name → nested list), ``steps`` ([name, operation, arguments, named arguments] each) and
``output``, a name. A step calls an operation of ``torch.ops`` (``aten.conv2d.default``) or of Python's ``operator``;
its result has its name from then on. Arguments are numbers, lists, null, and texts: ``%name`` is a step's result, a
constant, a tensor of generator.safetensors, or ``%latents``; ``!torch.float32`` is what torch calls so.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node

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
