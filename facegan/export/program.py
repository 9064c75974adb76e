"""A generator as a ``torch.export`` program (``generator.pt2``): a zip of JSON and raw weights, without any pickle."""

from __future__ import annotations

import io
import json
import zipfile

import torch
from torch.export import ExportedProgram

from facegan.errors import ExportError

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
