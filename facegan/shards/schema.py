"""What KEY.json has to be: every field there, of one type, never null; and what it says of its key."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from facegan.shards.layout import key_path, readable_path, sample_key

_FURTHER_FACE = re.compile(r"=f([0-9]{1,9})$")


def _written_as_float(value: Any) -> Any:
    if type(value) is not float:  # readers that infer a column's type from the first samples fail on 1 after 0.5
        raise ValueError("it has to be written as a decimal number")
    return value


def _entries(count: int) -> BeforeValidator:
    def check(values: Any) -> Any:
        if isinstance(values, list) and len(values) not in (0, count):
            raise ValueError(f"it has {len(values)} entries, neither {count} nor none")
        return values

    return BeforeValidator(check)


_Whole = Annotated[int, Field(strict=True)]
_Pixels = Annotated[int, Field(strict=True, gt=0)]
_Real = Annotated[float, Field(strict=True, allow_inf_nan=False), BeforeValidator(_written_as_float)]
_Point = Annotated[list[_Real], Field(min_length=2, max_length=2)]


class SampleMeta(BaseModel):
    """KEY.json. Further fields (attributes of the source) are allowed, null is not."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    path: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    width: _Pixels
    height: _Pixels
    box: Annotated[list[_Real], _entries(4)]
    keypoints: Annotated[list[_Point], _entries(6)]
    score: Annotated[_Real, Field(ge=0, le=1)]
    quad: Annotated[list[_Point], Field(min_length=4, max_length=4)]
    turned: Literal[0, 90, 180, 270]
    label: _Whole

    @property
    def further(self) -> dict[str, str]:
        """Names and types of further fields: the same in every sample of a dataset."""
        return {name: _kind(value) for name, value in sorted((self.model_extra or {}).items())}


def _kind(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_kind(value[name])}" for name in sorted(value)) + "}"
    return type(value).__name__


def meta_problem(error: ValidationError) -> str:
    """What is wrong with a sample's JSON, in a few words."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"'{where}' is missing"
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"'{where}' is {first['input']!r:.60}: {said}" if where else said


def holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(holds_null, value.values()))
    return value is None or (isinstance(value, list) and any(map(holds_null, value)))


def key_agrees(key: str, path: str) -> bool:
    r"""Is ``key`` that of a face of the photograph at ``path``?

    A path whose bytes are no UTF-8 has ``\xNN`` in it; then the key is read back, unless it was cut.
    """
    further = _FURTHER_FACE.search(key)
    if sample_key(path.encode("utf-8", "surrogatepass"), int(further[1]) if further else 0) == key:
        return True
    try:
        return "\\x" in path and readable_path(key_path(key)) == path
    except ValueError:
        return True  # cut: nobody can tell
