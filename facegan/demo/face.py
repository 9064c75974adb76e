"""The face: modelling, eyes, brows, nose, mouth, beard, glasses."""

from __future__ import annotations

import numpy as np

from facegan.demo.paint import Floats, closed_curve, ellipse, mirrored, open_curve
from facegan.demo.people import DEEP, SHADOW, Scene

NOSE_LIFT, MOUTH_LIFT = 0.32, 0.17  # head units of the tip and the lips above the ellipsoid


def paint_face(s: Scene) -> None:
    _model_face(s)
    _paint_nose(s)
    if s.person.beard:
        _paint_beard(s)
    _paint_mouth(s)
    _paint_eyes(s)
    _paint_brows(s)


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
    p, canvas = s.person, s.canvas
    w, o = p.eye_width, p.eye_open
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
    fall = [np.add(lid, (0, s.px(0.02))) for lid in lids]
    s.shade(fall, 0.018, (0.5, 0.46, 0.48), 0.75, within=opening, stroke=0.07)
    glint = disc(-0.037, 0.024, 0.024, x=0.035 if s.light.x > 0 else -0.035, count=12)
    s.lay(glint, 0.007, (255, 255, 252), within=s.head)
    s.lay(lids, 0.007, lash, 0.92, stroke=0.026 + 0.016 * p.softness)
    if p.softness > 0.5:
        wings = at(open_curve([(0.55 * w, -0.6 * o), (w, -0.01), (1.2 * w, -0.05)]))
        s.lay(wings, 0.007, lash, 0.65, stroke=0.024)
    canvas.shade(s.mask(at(open_curve([(w, 0.0), *lower])), 0.01, stroke=0.02), DEEP, 0.35)
    s.shade(at(open_curve([(q, r - 0.058) for q, r in upper[1:]])), 0.014, DEEP, 0.42, stroke=0.022)


def _paint_brows(s: Scene) -> None:
    p = s.person
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

    def at(points: Floats) -> Floats:
        return s.on_face(points, lift)

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
    canvas.shade(s.mask(seam, 0.008, stroke=0.022), DEEP, 0.85 if gap == 0 else 0.45)


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


def paint_glasses(s: Scene) -> None:
    p, canvas, lift = s.person, s.canvas, 0.13
    if not p.glasses:
        return
    frame = np.array([(28, 24, 26), (92, 56, 34), (60, 62, 70), (120, 36, 44)])[s.rng.integers(4)]
    lines: list[Floats] = []
    for side in (-1, 1):
        x = side * p.eye_x
        rim = ellipse(x, -0.005, 0.29, 0.26, count=36)
        if p.glasses == "square":
            off = rim - (x, -0.005)
            rim = np.sign(off) * np.abs(off / (0.29, 0.26)) ** 0.62 * (0.3, 0.225) + (x, 0.005)
        rim = s.on_face(rim, lift)
        canvas.lay(canvas.shape(rim, 1.0), (225, 235, 245), 0.07)
        arm = np.concatenate([s.on_face([(side * 0.74, -0.04)], lift), s.pose.place([(side * 0.98, -0.1)])])
        lines += [np.concatenate([rim, rim[:1]]), arm]
    lines.append(s.on_face(open_curve([(-0.15, -0.03), (0.0, -0.07), (0.15, -0.03)]), lift))
    fall = [np.add(line, (0, s.px(0.035))) for line in lines]
    s.shade(fall, 0.025, SHADOW, 0.4, stroke=0.03)
    s.lay(lines, 0.008, frame, 0.85, stroke=0.03)
