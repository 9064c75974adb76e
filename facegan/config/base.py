"""The base of all settings: frozen objects that check themselves, with errors as sentences."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from facegan.console import show_breaks, shown
from facegan.errors import SettingsError, one_of, suggest
from facegan.plugins import is_import_path

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


def setting(default: Any, help: str, unit: str = "", **rules: Any) -> Any:
    """A field of `Settings`: all that options, recipes and docs show of it. ``rules``: as `pydantic.Field` has them.

    Help starts with a noun or a choice; that of a flag starts with a verb, so that "do not" can precede it.
    """
    return Field(default, description=help, json_schema_extra={"unit": unit}, **rules)


class Settings(BaseModel):
    """Base of all settings: frozen, unknown names refused, errors as sentences."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    section: ClassVar[str] = "settings"
    options: ClassVar[str] = ""  # settings that are options of their command, the others need --set; "": all

    @classmethod
    def of(cls, values: Mapping[str, Any], **context: Any) -> Self:
        """Checked settings from plain values. SettingsError names the setting, the value, the rule and a close name.

        ``context``: facts that validators need.
        """
        try:
            return cls.model_validate(dict(values), context=context)
        except ValidationError as error:
            raise SettingsError(show_breaks(cls._sentence(error.errors()[0]), [*values, *values.values()])) from None

    @classmethod
    def pop_from(cls, values: dict[str, Any]) -> Self:
        """`of` the values that belong to this class; they are removed from ``values``."""
        return cls.of({name: values.pop(name) for name in cls.model_fields if name in values})

    @classmethod
    def default(cls, name: str) -> Any:
        return cls.model_fields[name].default

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default as help shows it; "" for none."""
        return str(cls.default(name) or "") if cls.default(name) != 0 else "0"

    @classmethod
    def unit(cls, name: str) -> str:
        extra = cls.model_fields[name].json_schema_extra
        return str(extra["unit"]) if isinstance(extra, dict) else ""

    @classmethod
    def describe(cls, name: str) -> str:
        """A setting's meaning, with its choices where it has some."""
        choices = choices_of(cls.model_fields[name].annotation)
        between = "|" if len(choices) < 8 else " | "  # so that a long list breaks into lines
        listed = f" [{between.join(map(str, choices))}]" if choices else ""
        return f"{cls.model_fields[name].description or ''}{listed}"

    @classmethod
    def label(cls, name: str) -> str:
        """What comes before a value in errors: the option, or the setting of ``--set`` and recipes."""
        is_option = not cls.options or name in cls.options.split()
        return option_of(name) if is_option else f"{cls.section}.{name} ="

    @classmethod
    def _sentence(cls, problem: Any) -> str:
        name = str(problem["loc"][0]) if problem["loc"] else cls.section
        option = cls.label(name)
        if problem["type"] == "extra_forbidden":
            return f"There is no setting '{shown(name)}' in [{cls.section}].{suggest(name, cls.model_fields)}"
        if problem["type"] == "literal_error":
            return not_available(option, problem["input"], choices_of(cls.model_fields[name].annotation))
        if problem["type"] == "value_error":
            return str(problem["ctx"]["error"])
        rule = problem["msg"].removeprefix("Input should be ").rstrip(".")
        return f"{option} {problem['input']} must be {rule}."


def option_of(setting: str) -> str:
    """``--min-score``. Settings whose names Python reserves end in ``_``."""
    return "--" + setting.rstrip("_").replace("_", "-")


def not_available(option: str, value: object, choices: Iterable[object]) -> str:
    """``"--size 63 is not available. Choose 28, 32, 64 or 128."``, with the closest choice."""
    names = [str(choice) for choice in choices]
    return f"{option} {value} is not available. Choose {one_of(names)}.{suggest(str(value), names)}"


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values that a ``Literal``, alone or inside of an annotation, allows; empty for other types."""
    parts = typing.get_args(annotation)
    is_literal = typing.get_origin(annotation) is typing.Literal
    return parts if is_literal else tuple(choice for part in parts for choice in choices_of(part))


def names_among(text: str, known: Iterable[str], setting: str, problem: str = "there is no '{}'") -> list[str]:
    """Names separated by commas, each once, in the given order; ``setting`` begins the error."""
    names, known = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip())), list(known)
    for name in names:
        if name not in known:
            rule = f"Choose {one_of(known)}.{suggest(name, known)}"
            raise ValueError(f"{setting} {text}: {problem.format(name)}. {rule}")
    return names


def known_or_own(setting: str, known: tuple[str, ...], own: str) -> AfterValidator:
    """Accepts the known names, and MODULE:NAME; ``own`` is what that names, for the error."""

    def check(name: str) -> str:
        if name in known or is_import_path(name):
            return name
        raise ValueError(
            f"{setting} {name} is not available. Choose {one_of(known)},\nor name your own {own}.{suggest(name, known)}"
        )

    return AfterValidator(check)


def plain_number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


def listed(value: Any) -> list[Any]:
    """Text is split at commas; one value becomes a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def unique_names(option: str) -> AfterValidator:
    """Names separated by commas, each once."""

    def check(text: str) -> str:
        names = dict.fromkeys(listed(text))
        if text and not names:
            raise ValueError(f"{option} {text} has no names. Separate names by commas, or leave it out.")
        return ",".join(names)

    return AfterValidator(check)


# Lengths of a training as people write them: ``200000``, ``200k``, ``5M`` images, ``2000st`` steps, ``50ep`` epochs.

_NUMBER = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*(k|M|st|ep|)", re.ASCII)
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}


# Times on this machine as people write them: ``30min``, ``1.5h``, ``2d``.
_TIME = re.compile(r"(\d{1,4}(?:\.\d{1,9})?)\s*(min|h|d)", re.ASCII)
_SECONDS = {"min": 60, "h": 3600, "d": 86_400}


def seconds_of(value: Any) -> float | None:
    """The seconds of a time as text; None for everything else."""
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    return float(found[1]) * _SECONDS[found[2]] if found else None


def in_epochs(value: Any) -> bool:
    return isinstance(value, str) and any(part.strip().endswith("ep") for part in value.split(","))


def images_of(value: Any, option: str, step_images: int, faces: int | None) -> Any:
    """A length as a number of images; a value that is not text is returned unchanged. ValueError has a sentence.

    ``step_images``: of all discriminator steps of an iteration. ``faces``: of an epoch; None without a dataset.
    """
    if not isinstance(value, str):
        return value
    found = _NUMBER.fullmatch(value.strip())
    if not found:
        time = ", or time (30min, 1h, 2d)" if option == "--images" else ""
        rule = f"Write images (200000, 200k, 5M), steps (2000st) or epochs (50ep){time}."
        raise ValueError(f"{option} {shown(value)} is not a length. {rule}")
    number, unit = float(found[1].replace("_", "")), found[2]
    if unit == "ep" and faces is None:
        raise ValueError(f"{option} {value}: the length of an epoch is unknown without a dataset. Use images.")
    images = number * (_FACTORS.get(unit) or (step_images if unit == "st" else faces or 0))
    if unit in ("", "st") and not number.is_integer():
        raise ValueError(f"{option} {value} must be a whole number of {'steps' if unit else 'images'}.")
    return math.ceil(images)
