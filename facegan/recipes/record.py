"""What an experiment's folder tells of its stages: from what each was made, what came of it, and so what is to be done.

One small file, written anew after each stage. Where it is gone or damaged every stage is asked again, and finds out by
itself what it has: nothing of it is lost.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from facegan import __version__
from facegan.errors import DamagedFile
from facegan.files import parsing, read_json, write_json

FORMAT = 1
RECORD_FILE = ".facegan-run.json"
SUMS = (
    "photographs",
    "faces",
    "generator",
    "code of nets",
    "code of loss",
)  # inputs that are digests, and so mean nothing to people


@dataclass(frozen=True)
class Made:
    """A stage that was done.

    Attributes:
        version: the facegan that did it; another one asks the stage again, which knows its formats.
        inputs: settings and what there was to see of files, by name, as plain values.
        outputs: size and time of each file that has to stay.
        digest: of all of these, so that a record which was edited or cut is not believed.
        result: what came of it.
    """

    version: str
    inputs: dict[str, Any]
    outputs: dict[str, list[int]]
    result: dict[str, Any]
    seconds: float
    digest: str = ""

    def digest_of(self) -> str:
        told = json.dumps([FORMAT, self.version, self.inputs, self.outputs, self.result], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def why_again(self, inputs: dict[str, Any], outputs: dict[str, list[int]]) -> str:
        """Why it is out of date beside what there is now, in a few words; "" where it is not."""
        if self.digest != self.digest_of():
            return "its record is damaged"
        if self.version != __version__:
            return f"it was made by facegan {self.version}"
        for name in {**inputs, **self.inputs}:
            then, now = self.inputs.get(name), inputs.get(name)
            if then != now:
                return f"{name} changed" if name in SUMS else f"{name} is {now}, and was {then}"
        for name, told in outputs.items():
            if self.outputs.get(name) != told:
                return f"{name} has changed" if told else f"{name} is gone"
        return ""


_STAGES = TypeAdapter(dict[str, Made])


@dataclass
class Record:
    """The stages of an experiment that were done, by name."""

    folder: Path
    stages: dict[str, Made] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self:
        try:
            told = read_json(folder / RECORD_FILE)
            with parsing(folder / RECORD_FILE):
                stages = _STAGES.validate_python(told["stages"] if told["format"] == FORMAT else {})
        except (OSError, DamagedFile):
            stages = {}
        return cls(folder, stages)

    def add(self, name: str, recipe: str, made: Made) -> None:
        """
        Raises:
            DiskError: the record can't be written.
        """
        self.stages[name] = Made(**{**vars(made), "digest": made.digest_of()})
        stages = {name: vars(made) for name, made in self.stages.items()}
        write_json(self.folder / RECORD_FILE, {"format": FORMAT, "recipe": recipe, "stages": stages})
