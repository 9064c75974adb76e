"""The base of all settings: frozen objects that check themselves, with errors as sentences."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from facegan.console import show_breaks, shown
from facegan.errors import SettingsError, one_of, suggest

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys refused, errors as sentences."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    section: ClassVar[str] = "settings"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Checked settings from plain values.

        Raises:
            SettingsError: names the setting, the value, the rule and, for misspelt names, the nearest one.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            raise SettingsError(show_breaks(cls._sentence(error.errors()[0]), [*values, *values.values()])) from None

    @classmethod
    def default(cls, name: str) -> Any:
        return cls.model_fields[name].default

    @classmethod
    def describe(cls, name: str) -> str:
        """A setting's meaning, with its choices where it has some."""
        field = cls.model_fields[name]
        choices = choices_of(field.annotation)
        between = "|" if len(choices) < 8 else " | "  # so that a long list breaks into lines
        listed = f" [{between.join(map(str, choices))}]" if choices else ""
        return f"{field.description or ''}{listed}"

    @classmethod
    def _sentence(cls, problem: Any) -> str:
        name = str(problem["loc"][0]) if problem["loc"] else cls.section
        option = "--" + name.replace("_", "-")
        if problem["type"] == "extra_forbidden":
            return f"There is no setting '{name}' in [{cls.section}].{suggest(name, cls.model_fields)}"
        if problem["type"] == "literal_error":
            choices = choices_of(cls.model_fields[name].annotation)
            value = problem["input"]
            return f"{option} {value} is not offered: choose {one_of(choices)}.{suggest(str(value), map(str, choices))}"
        if problem["type"] == "value_error":
            return str(problem["ctx"]["error"])
        rule = problem["msg"].removeprefix("Input should be ").rstrip(".")
        return f"{option} {problem['input']}: it has to be {rule}."


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values that a ``Literal`` annotation (or an ``X | Literal`` union) allows; empty for other types."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if typing.get_origin(annotation) is Annotated:
        return choices_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(c for part in typing.get_args(annotation) for c in choices_of(part))
    return ()


def plain_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def by_comma(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


# Lengths of a training as people write them, in images: ``200000``, ``200k``, ``5M``, ``2000st``, ``50ep``.

_NUMBER = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*(k|M|st|ep|)", re.ASCII)
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}


def in_epochs(value: Any) -> bool:
    return isinstance(value, str) and any(part.strip().endswith("ep") for part in value.split(","))


def images_of(value: Any, option: str, step_images: int, faces: int | None) -> Any:
    """A length in images; what is no text is given back for others to check.

    Args:
        value: a number of images, with ``k`` or ``M`` for thousands and millions; of steps (``st``): rounds of all of
            the discriminator's and the generator's steps; or of epochs (``ep``): how often each face is shown once.
        option: names the value in errors.
        step_images: images of a step.
        faces: how many an epoch shows; None where no dataset is known.

    Raises:
        ValueError: text that is no length, with a sentence.
    """
    if not isinstance(value, str):
        return value
    found = _NUMBER.fullmatch(value.strip())
    if not found:
        raise ValueError(
            f"{option} {shown(value)}: write a length in images (200000, 200k, 5M), in steps (2000st) or in "
            "epochs (50ep)."
        )
    number, unit = float(found[1].replace("_", "")), found[2]
    if unit == "ep" and faces is None:
        raise ValueError(f"{option} {value}: an epoch is as long as the dataset, and here none is known: use images.")
    images = number * (_FACTORS.get(unit) or (step_images if unit == "st" else faces or 0))
    if unit in ("", "st") and not number.is_integer():
        raise ValueError(f"{option} {value}: it has to be a whole number of {'steps' if unit else 'images'}.")
    return math.ceil(images)
