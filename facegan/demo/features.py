"""The head's features: hair behind it, face, beard and glasses, hair over the forehead and the sides."""

from __future__ import annotations

import functools
import math

import numpy as np

from facegan.demo.paint import Floats, Mask, closed_curve, ellipse, mirrored, open_curve, resampled
from facegan.demo.people import DEEP, SHADOW, Scene

NOSE_LIFT, MOUTH_LIFT = 0.32, 0.17  # head units of the tip and the lips above the ellipsoid
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


def paint_features(s: Scene) -> None:
    """What is in front of the head."""
    _model_face(s)
    _paint_nose(s)
    _paint_beard(s)
    _paint_mouth(s)
    _paint_eyes(s)
    _paint_hair_before(s)
    if s.person.glasses:
        _paint_glasses(s)


def _model_face(s: Scene) -> None:
    """Soft lights and shadows: sockets, cheeks, hollows, folds and bags of age, brow, chin, freckles."""
    p = s.person
    glow = 1 + 0.1 * (1 - p.skin[0] / 300)
    s.shade(s.both(ellipse(p.eye_x, -0.06, 0.27, 0.16)), 0.11, SHADOW, 0.42)
    s.shade(s.both(ellipse(0.17, -0.04, 0.06, 0.16)), 0.05, SHADOW, 0.35)
    s.shade(s.both(ellipse(0.56, 0.43, 0.2, 0.15)), 0.11, (1.06 * glow, 0.9 * glow, 0.89 * glow), 0.8)
    s.shade(s.both(ellipse(0.78, 0.78, 0.13, 0.3, 0.4)), 0.11, SHADOW, 0.3 + 0.2 * (1 - p.softness))
    if p.age > 0.62:
        folds, bags = [(0.2, 0.52), (0.33, 0.66), (0.4, 0.86)], [(0.3, 0.13), (0.44, 0.19), (0.57, 0.14)]
        s.shade(s.both(open_curve(folds)), 0.03, SHADOW, 0.9 * (p.age - 0.35), stroke=0.05)
        s.shade(s.both(open_curve(bags)), 0.02, SHADOW, 0.5 * (p.age - 0.35), stroke=0.03)
    s.shade(s.on_face(ellipse(0, -0.62, 0.42, 0.2)), 0.16, (1.1, 1.1, 1.1), 0.6)
    s.shade(s.on_face(ellipse(0, p.chin - 0.17, 0.16, 0.08)), 0.11, (1.1, 1.08, 1.07), 0.8)
    if p.freckles:
        spots = s.rng.normal((0, 0.36), (0.4, 0.12), (36, 2))[:, None] + [(-0.004, 0), (0.004, 0)]
        s.shade(s.on_face(spots), 0.006, (0.78, 0.64, 0.56), 0.6, stroke=0.022)


def _paint_eyes(s: Scene) -> None:
    """The keypoint is (±eye_x, 0), the middle of the pupil when it looks ahead."""
    p, w, o = s.person, s.person.eye_width, s.person.eye_open
    squint = 1 - 0.18 * max(p.smile, 0) * p.mouth_open

    def at(points: Floats | list[tuple[float, float]]) -> list[Floats]:
        # x grows from the nose outwards, 0, 0 is the eye's centre.
        q = np.asarray(points, float)
        return s.both(np.stack([p.eye_x + q[:, 0], q[:, 1] - p.eye_tilt * q[:, 0] / w], axis=1))

    def disc(y: float, rx: float, ry: float, x: float = 0.0, count: int = 20) -> list[Floats]:
        # x is image-right in both eyes, as a gaze is, and a glint.
        return [s.on_face(ellipse(side * p.eye_x + p.gaze * 0.02 + x, y, rx, ry, count=count)) for side in (-1, 1)]

    upper = [(-w, 0.025), (-0.72 * w, -0.52 * o), (-0.2 * w, -o * squint), (0.42 * w, -0.86 * o * squint), (w, -0.005)]
    lower = [(0.5 * w, 0.54 * o * squint), (-0.1 * w, 0.68 * o * squint), (-0.7 * w, 0.44 * o)]
    white = np.minimum((232, 226, 222), 110 + 0.62 * p.skin)
    opening = s.lay(at(closed_curve([*upper, *lower])), 0.008, white, within=s.head)
    s.lay(disc(0.0, 0.112, 0.112), 0.012, p.iris * 0.55, within=opening)
    s.lay(disc(0.022, 0.078, 0.07), 0.02, p.iris * 1.25, within=opening)
    s.lay(disc(0.0, 0.052, 0.052), 0.01, (14, 11, 12), within=opening)
    lids, lash = at(open_curve(upper)), s.tone(*DEEP) * 0.5
    fall = [np.add(lid, (0, 0.02 * s.pose.unit)) for lid in lids]
    s.shade(fall, 0.018, (0.5, 0.46, 0.48), 0.75, within=opening, stroke=0.07)
    glint = disc(-0.037, 0.024, 0.024, x=0.035 if s.light.x > 0 else -0.035, count=12)
    s.lay(glint, 0.007, (255, 255, 252), within=s.head)
    s.lay(lids, 0.007, lash, 0.92, stroke=0.026 + 0.016 * p.softness)
    if p.softness > 0.5:
        wings = at(open_curve([(0.55 * w, -0.6 * o), (w, -0.01), (1.2 * w, -0.05)]))
        s.lay(wings, 0.007, lash, 0.65, stroke=0.024)
    s.canvas.shade(s.canvas.shape(at(open_curve([(w, 0.0), *lower])), 0.01, stroke=0.02), DEEP, 0.35)
    s.shade(at(open_curve([(q, r - 0.058) for q, r in upper[1:]])), 0.014, DEEP, 0.42, stroke=0.022)
    # The brows.
    y, thick = -0.275 - p.brow_lift, 0.062 - 0.03 * p.softness
    top = [(0.19, y + 0.035), (0.36, y - 0.03), (0.55, y - 0.045), (0.74, y + 0.035)]
    under = [(0.55, y - 0.045 + thick), (0.36, y - 0.02 + 1.5 * thick), (0.2, y + 0.05 + 1.3 * thick)]
    colour = np.minimum(p.hair * 0.7, s.tone(0.5, 0.42, 0.4))  # fair brows would be lost on the skin
    s.lay(s.both(closed_curve([*top, *under])), 0.018, 0.85 * colour, 0.88, within=s.head)


def _paint_nose(s: Scene) -> None:
    """The tip is (0, nose_y), NOSE_LIFT head units in front of the face."""
    y, w = s.person.nose_y, s.person.nose_width
    shaded = 1 if s.light.x < 0 else -1
    flank = [(0.05, -0.1), (0.1, 0.2), (w * 1.05, y - 0.02), (w * 0.95, y + 0.1), (0.05, y + 0.06), (0.055, 0.2)]
    for side, strength in ((shaded, 0.5 + 0.35 * abs(s.light.x)), (-shaded, 0.25)):
        s.shade(s.on_face(closed_curve(flank) * (side, 1), 0.14), 0.045, SHADOW, strength)
    s.shade(s.on_face(ellipse(0, y + 0.13, w * 1.05, 0.055), 0.21), 0.035, SHADOW, 0.75)
    ridge = open_curve([(0.0, -0.02), (0.0, 0.2), (0.0, y - 0.1)])
    s.shade(s.on_face(ridge, 0.18), 0.03, (1.13, 1.12, 1.12), 0.8, stroke=0.06)
    s.shade(s.on_face(ellipse(0, y - 0.01, 0.085, 0.07), NOSE_LIFT), 0.04, (1.17, 1.14, 1.13), 0.95)
    wing = open_curve([(w * 0.86, y - 0.06), (w * 1.08, y + 0.03), (w * 0.95, y + 0.1), (w * 0.72, y + 0.1)])
    s.shade(s.both(wing, 0.17), 0.016, DEEP, 0.5, stroke=0.025)
    s.shade(s.both(ellipse(w * 0.48, y + 0.1, 0.048, 0.022, -0.25), 0.23), 0.011, DEEP, 0.9)


def _paint_mouth(s: Scene) -> None:
    p, canvas, lift = s.person, s.canvas, MOUTH_LIFT
    y, w, full = p.mouth_y, p.mouth_width * (1 + 0.16 * max(p.smile, 0)), p.lip_full
    curl = 0.085 * p.smile  # how far the corners rise above the middle
    gap = 0.085 * p.mouth_open
    top, bottom = y - gap * 0.5 + 0.012, y + gap * 0.62 + 0.012
    at = functools.partial(s.on_face, lift=lift)
    # Each half line goes from the image-right corner to the middle.
    corner = (w, y - curl)
    up = [corner, (0.55 * w, top - full * 0.62 - 0.35 * curl), (0.2 * w, top - full * 0.95), (0.0, top - full * 0.78)]
    upper_edge = [corner, (0.6 * w, top - 0.42 * curl), (0.25 * w, top - 0.02 * full), (0.0, top + 0.05 * full)]
    lower_edge = [corner, (0.6 * w, bottom - 0.36 * curl), (0.25 * w, bottom), (0.0, bottom + 0.02 * full)]
    low = [corner, (0.62 * w, bottom + 0.55 * full - 0.25 * curl), (0.3 * w, bottom + full * 1.1)]
    low.append((0.0, bottom + 1.2 * full))

    def across(half: list[tuple[float, float]]) -> Floats:
        return open_curve(np.concatenate([np.asarray(half), mirrored(half[:-1])]))

    upper_line, lower_line = across(upper_edge), across(lower_edge)
    s.shade(at(ellipse(0, bottom + full * 1.2 + 0.075, w * 0.55, 0.04)), 0.035, SHADOW, 0.65)
    s.shade(s.both(ellipse(w + 0.035, y - curl, 0.02, 0.04), lift), 0.025, SHADOW, 0.7)
    if gap > 0:
        hole = s.lay(at(np.concatenate([upper_line, lower_line[::-1]])), 0.008, (70, 26, 28), within=s.head)
        teeth = across([(0.84 * w, y - 0.8 * curl), (0.6 * w, top + 0.62 * gap - 0.42 * curl), (0.0, top + 0.72 * gap)])
        s.lay(at(np.concatenate([upper_line, teeth[::-1]])), 0.01, (238, 232, 222), within=hole)
    upper, lower = np.concatenate([across(up), upper_line[::-1]]), np.concatenate([lower_line, across(low)[::-1]])
    s.lay(at(upper), 0.014, p.lips * 0.86, 0.9, s.head)
    lip = s.lay(at(lower), 0.014, p.lips * 1.04, 0.9, s.head)
    shine = ellipse(-0.25 * w * np.sign(-s.light.x), bottom + 0.55 * full, 0.3 * w, 0.22 * full)
    s.shade(at(shine), 0.025, (1.25, 1.28, 1.28), 0.9, within=lip)
    seam = [at(upper_line)] if gap == 0 else [at(upper_line), at(lower_line)]
    canvas.shade(canvas.shape(seam, 0.008, stroke=0.022), DEEP, 0.85 if gap == 0 else 0.45)


def _paint_beard(s: Scene) -> None:
    """Painted before the mouth."""
    p, stubble = s.person, s.person.beard == "stubble"
    y, w, c = p.mouth_y, p.mouth_width, p.chin
    areas: list[Floats] = []
    if p.beard in ("stubble", "full"):
        inner = [(0.0, y - 0.24), (0.2, y - 0.27), (w + 0.1, y - 0.1), (0.6, y - 0.1), (0.8, y - 0.4), (0.9, 0.1)]
        half = [*inner, (1.0, 0.1), (0.97, 0.6), (0.86, 0.98), (0.56, c), (0.0, c + 0.07)]
        areas.append(closed_curve([*half, *mirrored(half[1:-1])]))
    if p.beard in ("moustache", "goatee"):
        half = [(0.0, y - 0.21), (0.15, y - 0.22), (w + 0.04, y - 0.02), (w, y + 0.04), (0.12, y - 0.08)]
        areas.append(closed_curve([*half, *mirrored(half)]))
    if p.beard == "goatee":
        half = [(0.0, y + 0.22), (0.16, y + 0.22), (w - 0.02, y + 0.02), (w + 0.06, y + 0.04), (0.3, c - 0.06)]
        half.append((0.0, c + 0.06))
        areas.append(closed_curve([*half, *mirrored(half[1:-1])]))
    for area in areas:
        # The jaw's rim turns with the outline, so that a beard covers it.
        depth = np.where(area[:, 1] > c - 0.12, 0.5, 0.0)
        points = np.where(depth[:, None] > 0, s.pose.place(area, depth), s.on_face(area, 0.03))
        colour = 0.65 * p.hair + 0.25 * p.skin if stubble else p.hair * 0.85
        place, soft, opacity = (s.head, 0.05, 0.36) if stubble else (None, 0.032, 0.9)
        mask = s.lay(points, soft, colour, opacity, place)
        if not stubble:
            root = s.rng.uniform((-0.85, y - 0.3), (0.85, c), (160, 2))
            ends = root + np.stack([0.05 * root[:, 0], np.full(160, 0.09)], axis=1)
            hairs = s.on_face(np.stack([root, ends], axis=1), 0.03)
            s.shade(hairs[:80], 0.01, (1.5, 1.45, 1.4), 0.5, within=mask, stroke=0.02)
            s.shade(hairs[80:], 0.01, (0.6, 0.6, 0.6), 0.6, within=mask, stroke=0.02)


def _paint_glasses(s: Scene) -> None:
    p, canvas, lift = s.person, s.canvas, 0.13
    frame = np.array([(28, 24, 26), (92, 56, 34), (60, 62, 70), (120, 36, 44)])[s.rng.integers(4)]
    lines: list[Floats] = []
    for side in (-1, 1):
        x = side * p.eye_x
        rim = ellipse(x, -0.005, 0.29, 0.26, count=36)
        if p.glasses == "square":
            off = rim - (x, -0.005)
            rim = np.sign(off) * np.abs(off / (0.29, 0.26)) ** 0.62 * (0.3, 0.225) + (x, 0.005)
        rim = s.on_face(rim, lift)
        canvas.lay(canvas.shape(rim, 1 / canvas.unit), (225, 235, 245), 0.07)
        arm = np.concatenate([s.on_face([(side * 0.74, -0.04)], lift), s.pose.place([(side * 0.98, -0.1)])])
        lines += [np.concatenate([rim, rim[:1]]), arm]
    lines.append(s.on_face(open_curve([(-0.15, -0.03), (0.0, -0.07), (0.15, -0.03)]), lift))
    fall = [np.add(line, (0, 0.035 * s.pose.unit)) for line in lines]
    s.shade(fall, 0.025, SHADOW, 0.4, stroke=0.03)
    s.lay(lines, 0.008, frame, 0.85, stroke=0.03)


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
    curls = centres[:, None] + np.stack([np.cos(turns), np.sin(turns)], axis=-1) * 0.055 * s.pose.unit
    s.shade(curls[:95], 0.016, _DARKER, 0.5, within=mask, stroke=0.03)
    s.shade(curls[95:], 0.012, (1.4, 1.36, 1.32), 0.4, within=mask, stroke=0.02)


def _paint_hair_before(s: Scene) -> None:
    """Hair over the skull, its shadow on the forehead, and locks next to the face."""
    p = s.person
    if p.style == "bald":
        return
    line, rim = _hairline(s), _rim(s)
    outline = np.concatenate([open_curve(s.pose.place(rim)), s.on_face(line)[::-1]])
    s.shade(np.add(outline, (-0.05 * s.pose.unit * s.light.x, 0.06 * s.pose.unit)), 0.06, SHADOW, 0.65)
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
    if p.style not in _FALLING:
        return
    edge, wave = _fall(s)
    y = edge[:, 1]
    cheek = np.stack([0.8 + 0.13 * _ramp((y + 0.75) / 0.8) - 0.08 * _ramp((y - 0.4) / 0.6) + wave, y], axis=1)
    for side in (-1, 1):
        inner, outer = cheek * (side, 1), edge * (side, 1)
        tip = (inner[-1:] + outer[-1:]) / 2 + (0, 0.06)
        points = s.pose.place(closed_curve(np.concatenate([inner, tip, outer[::-1]])), 0.08)
        s.shade(points + np.array((-side * 0.05, 0.02)) * s.pose.unit, 0.05, SHADOW, 0.55)
        mask = s.lay(points, 0.022, s.hair)
        _paint_strands(s, s.pose.place(_combed(s, inner, outer, 24), 0.08), mask)
