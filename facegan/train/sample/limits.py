"""What one picture or a film can hold, told before anything is drawn."""

from __future__ import annotations

from facegan.errors import SettingsError
from facegan.files import human_bytes
from facegan.machine import available_bytes
from facegan.nets import NetSpec
from facegan.train.grid import GAP

MOST_PIXELS = 178_956_970  # more than that Pillow, and what is built on it, refuses to open
_WIDEST = 1_000_000  # libpng's own limit
_HELD = 3  # times the frames: as pixels, in the film's colours, and encoded


def refuse_large_picture(samples: int, spec: NetSpec, columns: int | None = None) -> None:
    """
    Args:
        columns: of the picture; None: it is about square.

    Raises:
        SettingsError: so many samples are more than a picture can hold.
    """
    side = spec.size + GAP
    if samples * side**2 > MOST_PIXELS or (columns or 0) * side > _WIDEST:
        most = min(MOST_PIXELS // side**2, _WIDEST // side if columns else MOST_PIXELS)
        raise SettingsError(
            f"{samples:,} samples are too many for one picture, which most programs open up to "
            f"{MOST_PIXELS // 10**6} megapixels: {most:,} of {spec.size}×{spec.size}.\n"
            "Choose a smaller --n, or single pictures with --dir."
        )


def refuse_long_film(frames: int, samples: int, spec: NetSpec) -> None:
    """
    Args:
        samples: in each frame.

    Raises:
        SettingsError: its frames do not fit the memory, which GIF and WebP need for all of them at once.
    """
    needed, free = _HELD * frames * samples * spec.size**2 * spec.channels, available_bytes()
    if needed > free:
        raise SettingsError(
            f"{frames:,} frames of {samples:,} samples take {human_bytes(needed)} of memory as a GIF or WebP, and "
            f"{human_bytes(free)} are free.\n"
            "Choose fewer --frames, --n or --walks; or .mp4, which takes them one by one."
        )
