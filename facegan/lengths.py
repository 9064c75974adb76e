"""Lengths of a training as people write them, in images: ``200000``, ``200k``, ``5M``, ``2000st``, ``50ep``."""

from __future__ import annotations

import math
import re
from typing import Any

from facegan.console import shown

_NUMBER = re.compile(r"(\d[\d_]*(?:\.\d+)?)\s*(k|M|st|ep|)", re.ASCII)
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}


def in_epochs(value: Any) -> bool:
    return isinstance(value, str) and any(part.strip().endswith("ep") for part in value.split(","))


def images_of(value: Any, option: str, round_images: int, faces: int | None) -> Any:
    """A length in images; what is no text is given back for others to check.

    Args:
        value: a number of images, with ``k`` or ``M`` for thousands and millions; of steps (``st``): rounds of all of
            the discriminator's and the generator's steps; or of epochs (``ep``): how often each face is shown once.
        option: names the value in errors.
        round_images: images of a step.
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
    images = number * (_FACTORS.get(unit) or (round_images if unit == "st" else faces or 0))
    if unit in ("", "st") and not number.is_integer():
        raise ValueError(f"{option} {value}: it has to be a whole number of {'steps' if unit else 'images'}.")
    return math.ceil(images)
