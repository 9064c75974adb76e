"""Hair behind the head, and hair over the forehead and the sides."""

from __future__ import annotations

import math

import numpy as np

from facegan.demo.paint import Floats, Mask, closed_curve, ellipse, mirrored, open_curve, resampled
from facegan.demo.people import SHADOW, Scene

_FALLING = {"long": 1.0, "waves": 1.0, "swept": 0.8, "bangs": 0.9, "bob": 0.0}  # how much of hair_length shows
_DARKER, _LIGHTER = (0.6, 0.58, 0.58), (1.36, 1.33, 1.3)

# The image-right half of the hair's lower edge, from the forehead's middle outwards, in head units.
_HAIRLINES = {
    "crop": [(0.0, -0.85), (0.4, -0.83), (0.74, -0.69), (0.88, -0.35), (0.97, 0.12)],
    "receding": [(0.0, -0.95), (0.24, -0.98), (0.52, -1.07), (0.77, -0.8), (0.9, -0.35), (0.97, 0.12)],
    "fringe": [(0.0, -0.47), (0.3, -0.48), (0.66, -0.44), (0.87, -0.2), (0.97, 0.15)],
    "centre": [(0.0, -0.92), (0.42, -0.74), (0.78, -0.42), (0.93, -0.05), (1.0, 0.5)],
}
_LINE_OF = {"receding": "receding", "fringe": "fringe", "bangs": "fringe", "long": "centre", "waves": "centre"}


def _hairline(s: Scene) -> Floats:
    """From image-left to image-right: (N, 2) head units."""
    p = s.person
    if p.style in ("parted", "swept", "bob"):
        x, drop = abs(p.parting), 0.12 if p.style == "parted" else 0.5
        line = [(-0.99, drop), (-0.92, -0.2), (-0.76, -0.58), (-0.3, -0.76), (x - 0.07, -0.92), (x + 0.07, -0.92)]
        line += [(0.66, -0.78), (0.87, -0.38), (0.95, 0.0), (0.99, drop)]
        return open_curve(line if p.parting > 0 else mirrored(line))
    half = _HAIRLINES[_LINE_OF.get(p.style, "crop")]
    line = open_curve(np.concatenate([mirrored(half[1:]), half]))
    if p.style in ("fringe", "bangs"):
        line[4:-4, 1] += s.rng.uniform(-0.03, 0.025, len(line) - 8)
    return line


def _rim(s: Scene) -> Floats:
    """The hair's outer edge over the skull, image-left to image-right: (15, 2) head units."""
    v = s.person.hair_volume
    side, top = {
        "crop": (0.995, 1.3 + 0.25 * v),
        "receding": (0.995, 1.3 + 0.15 * v),
        "quiff": (0.995, 1.36 + 0.9 * v),
        "parted": (1.0 + 0.2 * v, 1.31 + 0.6 * v),
        "bun": (0.99, 1.3 + 0.4 * v),
    }.get(s.person.style, (1.0 + 0.5 * v, 1.3 + 0.9 * v))
    t = np.linspace(math.pi, 0, 15)
    x, y = np.cos(t), np.sin(t)
    return np.stack([side * np.sign(x) * np.abs(x) ** 0.86, 0.1 - (top + 0.1) * y**0.9], axis=1)


def _combed(s: Scene, inner: Floats, outer: Floats, count: int) -> Floats:
    """Strands that run along a band of hair, between its inner and outer edge: (count, 19, 2) head units."""
    at = np.linspace(0, 1, 4)
    share = s.rng.uniform(0.02, 0.98, (count, 1)) + 0.12 * (at - 0.5) * s.rng.normal(size=(count, 1))
    where = np.minimum(s.rng.uniform(0, 0.7, (count, 1)) + s.rng.uniform(0.25, 0.6, (count, 1)) * at, 1)
    low, high = resampled(inner, where), resampled(outer, where)
    return open_curve(low + (high - low) * share[..., None])


def _upwards(s: Scene, line: Floats, rim: Floats, count: int) -> Floats:
    """Strands from the hairline to the crown: (count, 13, 2) canvas pixels."""
    start = s.rng.uniform(0, 1, count)
    low = resampled(line, start)
    high = resampled(rim, np.clip(0.5 + (start - 0.5) * 0.75 + s.rng.normal(0, 0.03, count), 0, 1))
    end = low + (high - low) * s.rng.uniform(0.45, 1.0, (count, 1))
    middle = (low + end) / 2 + np.stack([0.06 * np.sign(low[:, 0]), np.full(count, -0.02)], axis=1)
    depth = np.stack([0.55 * np.clip(1 - np.abs(low[:, 0]), 0, 1), np.full(count, 0.35), np.full(count, 0.05)], axis=1)
    return open_curve(s.pose.place(np.stack([low, middle, end], axis=1), depth))


def _ramp(x: Floats) -> Floats:
    """From 0 to 1, smoothly."""
    return (x := np.clip(x, 0, 1)) * x * (3 - 2 * x)


def _fall(s: Scene) -> tuple[Floats, Floats]:
    """Image-right outer edge of falling hair, (8, 2) head units, and its waves, (8,)."""
    p = s.person
    end = 0.92 + 0.35 * p.hair_volume if p.style == "bob" else 0.95 + _FALLING[p.style] * (p.hair_length - 0.9)
    y = np.linspace(-0.75, end, 8)
    wave = (0.06 if p.style == "waves" else 0.015) * np.sin(5.5 * y + p.parting * 9) * _ramp(y + 0.6)
    x = 0.86 + (0.18 + 0.75 * p.hair_volume) * _ramp(y + 0.75) + 0.06 * _ramp(y - 0.1) + wave
    if p.style == "bob":
        x = x - 0.2 * _ramp((y - 0.2) / 0.8)
    return np.stack([x, y], axis=1), wave


def _paint_strands(s: Scene, strands: Floats, within: Mask) -> None:
    dark = len(strands) * 5 // 9
    s.shade(strands[:dark], 0.016, _DARKER, 0.5, within=within, stroke=0.026)
    s.shade(strands[dark:], 0.014, _LIGHTER, 0.45, within=within, stroke=0.02)


def paint_hair_behind(s: Scene) -> None:
    """Long hair behind the neck; an afro or a bun behind the skull."""
    p = s.person
    if p.style in _FALLING:
        right, _ = _fall(s)
        whole = np.concatenate([right, right[-1] + [(-0.1, 0.05), (-0.5, 0.07)]])
        edge = closed_curve(np.concatenate([_rim(s)[4:11], whole, mirrored(whole)]))
        mask = s.lay(s.pose.place(edge, -0.1), 0.02, s.hair, gain=0.68)
        right = right[1:]
        inner = np.stack([np.full(len(right), 0.15), right[:, 1]], axis=1)
        strands = np.concatenate([_combed(s, inner, right, 18), _combed(s, inner, right, 18) * (-1, 1)])
        _paint_strands(s, s.pose.place(strands[s.rng.permutation(36)], -0.1), mask)
    elif p.style == "bun":
        x, y = 0.1 * p.parting, -1.43 - p.hair_volume
        mask = s.lay(s.pose.place(ellipse(x, y, 0.36, 0.32), -0.2), 0.02, s.hair, gain=0.9)
        rings = [ellipse(x + 0.03, y + 0.02, r, 0.8 * r, 0.4)[2:20] for r in (0.29, 0.22, 0.15, 0.08)]
        s.shade(s.pose.place(np.stack(rings), -0.2), 0.016, _DARKER, 0.5, within=mask, stroke=0.022)
    elif p.style == "afro":
        _paint_curls(s, 1.22 + 0.9 * p.hair_volume, 1.48 + 0.8 * p.hair_volume, -0.2, None)


def _paint_curls(s: Scene, side: float, top: float, depth: float, line: Floats | None) -> None:
    """Curls around the skull, or over it and down to the hairline ``line``."""
    count = 34 if line is None else 18
    t = np.linspace(2 * math.pi, 0, count, endpoint=False) if line is None else np.linspace(math.pi, 0, count)
    radius = 1 + np.where(np.arange(count) % 2 == 0, 0.035, -0.012) + s.rng.normal(0, 0.012, count)
    cloud = np.stack([side * radius * np.cos(t), -0.2 - (top - 0.2) * radius * np.sin(t)], axis=1)
    outline = s.pose.place(cloud, depth)
    if line is not None:
        wavy = line[::-4] + s.rng.uniform(-0.02, 0.03, (len(line[::-4]), 2))
        outline = np.concatenate([outline, s.on_face(wavy)])
    mask = s.lay(closed_curve(outline), 0.03, s.hair, gain=0.85 if line is None else 1.0)
    centres = s.rng.uniform(outline.min(axis=0), outline.max(axis=0), (170, 2))
    turns = s.rng.uniform(0, 2 * math.pi, (170, 1)) + np.linspace(0, 4.2, 7)
    curls = centres[:, None] + np.stack([np.cos(turns), np.sin(turns)], axis=-1) * s.px(0.055)
    s.shade(curls[:95], 0.016, _DARKER, 0.5, within=mask, stroke=0.03)
    s.shade(curls[95:], 0.012, (1.4, 1.36, 1.32), 0.4, within=mask, stroke=0.02)


def paint_hair_before(s: Scene) -> None:
    """Hair over the skull, its shadow on the forehead, and locks next to the face."""
    p = s.person
    if p.style == "bald":
        return
    line, rim = _hairline(s), _rim(s)
    outline = np.concatenate([open_curve(s.pose.place(rim)), s.on_face(line)[::-1]])
    s.shade(np.add(outline, (-s.px(0.05) * s.light.x, s.px(0.06))), 0.06, SHADOW, 0.65)
    if p.style in ("curls", "afro"):
        _paint_curls(s, 1.06 + 0.3 * p.hair_volume, 1.36 + 0.6 * p.hair_volume, 0.0, line)
        return
    is_short = p.style in ("crop", "receding")
    mask = s.lay(outline, 0.032 if is_short else 0.02, s.hair, 0.92 if is_short else 1.0)
    if is_short or p.style in ("quiff", "fringe", "bangs", "bun"):
        _paint_strands(s, _upwards(s, line, rim, 64), mask)
    else:
        band = _combed(s, line, rim, 54)
        _paint_strands(s, 0.5 * (s.on_face(band) + s.pose.place(band)), mask)
    for side in (-1, 1) if p.style in _FALLING else ():
        _paint_lock(s, side)


def _paint_lock(s: Scene, side: int) -> None:
    """Hair next to the cheek, in front of the ear."""
    outer, wave = _fall(s)
    y = outer[:, 1]
    inner = np.stack([0.8 + 0.13 * _ramp((y + 0.75) / 0.8) - 0.08 * _ramp((y - 0.4) / 0.6) + wave, y], axis=1)
    inner, outer = inner * (side, 1), outer * (side, 1)
    tip = (inner[-1:] + outer[-1:]) / 2 + (0, 0.06)
    points = s.pose.place(closed_curve(np.concatenate([inner, tip, outer[::-1]])), 0.08)
    s.shade(np.add(points, (-side * s.px(0.05), s.px(0.02))), 0.05, SHADOW, 0.55)
    mask = s.lay(points, 0.022, s.hair)
    _paint_strands(s, s.pose.place(_combed(s, inner, outer, 24), 0.08), mask)
