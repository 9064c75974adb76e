"""What a generator is conditioned on: attributes of the face, as numbers beside its latent.

N images, F faces, A attributes, K numbers of a condition, T distinct combinations of attributes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facegan.console import shown
from facegan.errors import SettingsError, one_of, suggest
from facegan.nets.random import counter_words

MOST_ATTRIBUTES, MOST_CLASSES = 8, 1_000
MOST_CONTRASTS = 8
_MOST_FACES, _LONGEST_NAME = 2**31, 200
_MOST_SHOWN = 20  # classes, in messages
_LIMITS = f"Name up to {MOST_ATTRIBUTES} attributes that are true or false, or one that counts from 0 to at most"


@dataclass(frozen=True)
class Condition:
    """Attributes and their joint distribution among the training faces.

    Binary attributes are −1 or 1, and a condition is these K = A numbers. One attribute with classes 0 … K − 1 is
    one-hot: K numbers, of which one is 1, the others 0. Raises ValueError if the fields, maybe of a file, are not so.
    """

    names: tuple[str, ...]
    classes: int  # 0: the attributes are binary
    table: tuple[tuple[int, ...], ...]  # (T, A): each combination of values once
    counts: tuple[int, ...]  # (T,): how many faces have it

    def __post_init__(self) -> None:
        numbers = [self.classes, *self.counts, *(value for row in self.table for value in row)]
        binary, values = not self.classes, range(self.classes) if self.classes else (-1, 1)
        if not (
            all(type(number) is int for number in numbers)
            and all(isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME for name in self.names)
            and len(set(self.names)) == len(self.names) <= (MOST_ATTRIBUTES if binary else 1)
            and self.names
            and (binary or 2 <= self.classes <= MOST_CLASSES)
            and 0 < len(set(self.table)) == len(self.table) == len(self.counts)
            and all(len(row) == len(self.names) and all(value in values for value in row) for row in self.table)
            and min(self.counts) > 0
            and sum(self.counts) < _MOST_FACES
        ):
            raise ValueError("it is not a condition")

    @classmethod
    def of(cls, fields: Any) -> Condition:
        """From a JSON value; raises ValueError if it is none."""
        try:
            lists = [fields[name] for name in ("names", "table", "counts")]
            if len(fields) == 4 and all(type(values) is list for values in (*lists, *fields["table"])):
                names, table, counts = map(tuple, lists)
                return cls(names, fields["classes"], tuple(map(tuple, table)), counts)
        except (AttributeError, KeyError, TypeError):
            pass
        raise ValueError("it is not a condition")

    @classmethod
    def of_faces(cls, columns: Mapping[str, np.ndarray]) -> tuple[Condition, Tensor]:
        """From each attribute's values by face, bool or int (F,); and for each face its row of `table`, int64 (F,).

        Raises SettingsError where they are no condition.
        """
        what = f"--condition {','.join(columns)}"
        kinds = {values.dtype.kind for values in columns.values()}
        if len(columns) > (MOST_ATTRIBUTES if kinds == {"b"} else 1) or not kinds <= {"b", "i"}:
            number = next((name for name, values in columns.items() if values.dtype.kind not in "bi"), "")
            problem = f"{shown(number)} is a number with decimals" if number else "these do not go together"
            raise SettingsError(f"{what}: {problem}.\n{_LIMITS} {MOST_CLASSES - 1}.")
        for name, values in columns.items():
            if values.min() == values.max():
                only = f"the same {shown(name)} ({values[0]}), so there is nothing to learn from it"
                raise SettingsError(f"{what}: all {len(values):,} faces have {only}. Leave it out.")
            if values.dtype.kind == "i" and not 0 <= values.min() <= values.max() < MOST_CLASSES:
                raise SettingsError(
                    f"{what}: its values are {values.min()} … {values.max()}.\n{_LIMITS} {MOST_CLASSES - 1}."
                )
        binary = kinds == {"b"}
        stacked = np.stack([values * 2 - 1 if binary else values for values in columns.values()], 1).astype(np.int64)
        table, rows, counts = np.unique(stacked, axis=0, return_inverse=True, return_counts=True)
        classes = 0 if binary else int(stacked.max()) + 1
        condition = cls(tuple(columns), classes, tuple(map(tuple, table.tolist())), tuple(counts.tolist()))
        return condition, torch.from_numpy(rows.reshape(-1))

    def __str__(self) -> str:
        return f"{self.kind} ({len(self.table)} combinations in {sum(self.counts):,} faces)"

    @property
    def kind(self) -> str:
        """``Eyeglasses,Male`` or ``digit of 10 classes``."""
        return shown(",".join(self.names)) + (f" of {self.classes} classes" if self.classes else "")

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return fields | {"names": list(self.names), "table": list(map(list, self.table)), "counts": list(self.counts)}

    @property
    def usual(self) -> dict[str, int]:
        """The values that most faces have together."""
        return dict(zip(self.names, self.table[self.counts.index(max(self.counts))], strict=True))

    @property
    def length(self) -> int:
        """K."""
        return self.classes or len(self.names)

    def codes(self) -> Tensor:
        """The conditions of `table`, float32 (T, K) on the CPU."""
        table = torch.tensor(self.table)
        return torch.eye(self.classes)[table[:, 0]] if self.classes else table.float()

    def draw(self, seed: int, purpose: str, images: Tensor) -> Tensor:
        """Conditions as frequent as among the training faces, float32 (N, K), for ``images``, int64 (N,)."""
        ends = torch.tensor(self.counts).cumsum(0).to(images.device)
        words = counter_words(seed, f"condition of {purpose}", images, 1)[:, 0]
        return self.codes().to(images.device)[torch.searchsorted(ends, words.remainder(ends[-1]), right=True)]

    def values_of(self, codes: Tensor) -> dict[str, list[int]]:
        """The attributes' values of conditions (N, K)."""
        values = codes.argmax(1, keepdim=True) if self.classes else codes.sign().long()
        return dict(zip(self.names, values.T.tolist(), strict=True))

    def contrasts(self) -> dict[str, tuple[str, int]]:
        """Attributes with a value, at most eight, that a grid shows one below the other, by the title of their row."""
        if self.classes:
            pairs = [(self.names[0], value) for (value,) in self.table]
        else:
            values = (1, -1) if 2 * len(self.names) <= MOST_CONTRASTS else (1,)
            pairs = [(name, value) for name in self.names for value in values]
        return {self.title(*pair): pair for pair in pairs[:MOST_CONTRASTS]}

    def title(self, name: str, value: int) -> str:
        """``with Eyeglasses``, ``without Eyeglasses`` or ``digit 3``."""
        return f"{name} {value}" if self.classes else f"{'with' if value > 0 else 'without'} {name}"

    @property
    def values(self) -> tuple[int, ...]:
        """That each attribute may have: −1 and 1, or the classes of the training faces."""
        return tuple(sorted(value for (value,) in self.table)) if self.classes else (-1, 1)

    @property
    def choices(self) -> str:
        """The classes, in a few words: ``0, 2, 3``."""
        return ", ".join(map(str, self.values[:_MOST_SHOWN])) + (", …" if len(self.values) > _MOST_SHOWN else "")

    def replaced(self, codes: Tensor, name: str, value: int) -> Tensor:
        """Conditions (N, K) with another value of one attribute."""
        if self.classes:
            return torch.eye(self.classes)[value].expand(len(codes), -1)
        return codes.index_fill(1, torch.tensor(self.names.index(name)), value)

    def given(self, values: Mapping[str, int]) -> Condition:
        """The distribution of the others where some attributes have these values; if no face has them together, that
        of all faces, in which these are replaced.

        Raises SettingsError for an attribute that it lacks, or a class that no face has.
        """
        for name, value in values.items():
            if name not in self.names:
                known = f"its condition is {one_of(self.names)}.{suggest(name, self.names)}"
                raise SettingsError(f"The generator knows no attribute '{shown(name)}': {known}")
            if value not in self.values:
                raise SettingsError(
                    f"--class {value}: no face of the training had it. {shown(name)} had the classes {self.choices}."
                )
        named = [dict(zip(self.names, row, strict=True)) for row in self.table]
        fitting = [values.items() <= row.items() for row in named]
        together: dict[tuple[int, ...], int] = {}
        for row, fits, count in zip(named, fitting, self.counts, strict=True):
            if fits or not any(fitting):
                key = tuple((row | dict(values)).values())
                together[key] = together.get(key, 0) + count
        return replace(self, table=tuple(together), counts=tuple(together.values()))
