"""The face: modelling, eyes, brows, nose, mouth, beard, glasses."""

from __future__ import annotations

import numpy as np

from facegan.demo.paint import Floats, closed_curve, ellipse, mirrored, open_curve
from facegan.demo.people import DEEP, SHADOW, Scene

NOSE_LIFT, MOUTH_LIFT = 0.32, 0.17  # head units of the tip and the lips above the ellipsoid


def model_face(s: Scene) -> None:
    """Soft lights and shadows: sockets, cheeks, temples, chin."""
    p, canvas, soft = s.person, s.canvas, s.px(0.11)
    glow = 1 + 0.1 * (1 - p.skin[0] / 300)
    canvas.shade(canvas.shape(s.both(ellipse(p.eye_x, -0.06, 0.27, 0.16)), soft, s.head), SHADOW, 0.42)
    canvas.shade(canvas.shape(s.both(ellipse(0.17, -0.04, 0.06, 0.16)), s.px(0.05), s.head), SHADOW, 0.35)
    cheeks = canvas.shape(s.both(ellipse(0.56, 0.43, 0.2, 0.15)), soft, s.head)
    canvas.shade(cheeks, (1.06 * glow, 0.9 * glow, 0.89 * glow), 0.8)
    hollows = canvas.shape(s.both(ellipse(0.78, 0.78, 0.13, 0.3, 0.4)), soft, s.head)
    canvas.shade(hollows, SHADOW, 0.3 + 0.2 * (1 - p.softness))
    if p.age > 0.62:
        folds = s.both(open_curve([(0.2, 0.52), (0.33, 0.66), (0.4, 0.86)]))
        canvas.shade(canvas.strokes(folds, s.px(0.05), s.px(0.03), s.head), SHADOW, 0.9 * (p.age - 0.35))
        bags = s.both(open_curve([(0.3, 0.13), (0.44, 0.19), (0.57, 0.14)]))
        canvas.shade(canvas.strokes(bags, s.px(0.03), s.px(0.02), s.head), SHADOW, 0.5 * (p.age - 0.35))
    brow = s.on_face(ellipse(0, -0.62, 0.42, 0.2))
    canvas.shade(canvas.shape(brow, s.px(0.16), s.head), (1.1, 1.1, 1.1), 0.6)
    chin = s.on_face(ellipse(0, p.chin - 0.17, 0.16, 0.08))
    canvas.shade(canvas.shape(chin, soft, s.head), (1.1, 1.08, 1.07), 0.8)
    if p.freckles:
        spots = s.rng.normal((0, 0.36), (0.4, 0.12), (36, 2))
        dots = s.on_face(spots[:, None] + [(-0.004, 0), (0.004, 0)])
        canvas.shade(canvas.strokes(dots, s.px(0.022), s.px(0.006), s.head), (0.78, 0.64, 0.56), 0.6)


def paint_eyes(s: Scene) -> None:
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
    opening = canvas.shape(at(closed_curve([*upper, *lower])), s.px(0.008), s.head)
    canvas.lay(opening, np.minimum((232, 226, 222), 110 + 0.62 * p.skin))
    canvas.lay(canvas.shape(disc(0.0, 0.112, 0.112), s.px(0.012), opening), p.iris * 0.55)
    canvas.lay(canvas.shape(disc(0.022, 0.078, 0.07), s.px(0.02), opening), p.iris * 1.25)
    canvas.lay(canvas.shape(disc(0.0, 0.052, 0.052), s.px(0.01), opening), (14, 11, 12))
    lids = at(open_curve(upper))
    fall = [np.add(lid, (0, s.px(0.02))) for lid in lids]
    canvas.shade(canvas.strokes(fall, s.px(0.07), s.px(0.018), opening), (0.5, 0.46, 0.48), 0.75)
    glint = disc(-0.037, 0.024, 0.024, x=0.035 if s.light.x > 0 else -0.035, count=12)
    canvas.lay(canvas.shape(glint, s.px(0.007), s.head), (255, 255, 252))
    lash = s.tone(*DEEP) * 0.5
    canvas.lay(canvas.strokes(lids, s.px(0.026 + 0.016 * p.softness), s.px(0.007)), lash, 0.92)
    if p.softness > 0.5:
        wings = at(open_curve([(0.55 * w, -0.6 * o), (w, -0.01), (1.2 * w, -0.05)]))
        canvas.lay(canvas.strokes(wings, s.px(0.024), s.px(0.007)), lash, 0.65)
    under = at(open_curve([(w, 0.0), *lower]))
    canvas.shade(canvas.strokes(under, s.px(0.02), s.px(0.01)), DEEP, 0.35)
    crease = at(open_curve([(q, r - 0.058) for q, r in upper[1:]]))
    canvas.shade(canvas.strokes(crease, s.px(0.022), s.px(0.014), s.head), DEEP, 0.42)


def paint_brows(s: Scene) -> None:
    p = s.person
    y, thick = -0.275 - p.brow_lift, 0.062 - 0.03 * p.softness
    top = [(0.19, y + 0.035), (0.36, y - 0.03), (0.55, y - 0.045), (0.74, y + 0.035)]
    under = [(0.55, y - 0.045 + thick), (0.36, y - 0.02 + 1.5 * thick), (0.2, y + 0.05 + 1.3 * thick)]
    # Fair brows would be lost on the skin.
    colour = np.minimum(p.hair * 0.7, s.tone(0.5, 0.42, 0.4))
    brows = s.canvas.shape(s.both(closed_curve([*top, *under])), s.px(0.018), s.head)
    s.canvas.lay(brows, 0.85 * colour, 0.88)


def paint_nose(s: Scene) -> None:
    """The tip is (0, nose_y), NOSE_LIFT head units in front of the face."""
    p, canvas, lift = s.person, s.canvas, NOSE_LIFT
    y, w = p.nose_y, p.nose_width
    shaded = 1 if s.light.x < 0 else -1
    flank = closed_curve(
        [(0.05, -0.1), (0.1, 0.2), (w * 1.05, y - 0.02), (w * 0.95, y + 0.1), (0.05, y + 0.06), (0.055, 0.2)]
    )
    for side, strength in ((shaded, 0.5 + 0.35 * abs(s.light.x)), (-shaded, 0.25)):
        canvas.shade(canvas.shape(s.on_face(flank * (side, 1), 0.14), s.px(0.045), s.head), SHADOW, strength)
    below = ellipse(0, y + 0.13, w * 1.05, 0.055)
    canvas.shade(canvas.shape(s.on_face(below, 0.21), s.px(0.035), s.head), SHADOW, 0.75)
    ridge = open_curve([(0.0, -0.02), (0.0, 0.2), (0.0, y - 0.1)])
    canvas.shade(canvas.strokes([s.on_face(ridge, 0.18)], s.px(0.06), s.px(0.03), s.head), (1.13, 1.12, 1.12), 0.8)
    tip = ellipse(0, y - 0.01, 0.085, 0.07)
    canvas.shade(canvas.shape(s.on_face(tip, lift), s.px(0.04), s.head), (1.17, 1.14, 1.13), 0.95)
    wing = open_curve([(w * 0.86, y - 0.06), (w * 1.08, y + 0.03), (w * 0.95, y + 0.1), (w * 0.72, y + 0.1)])
    canvas.shade(canvas.strokes(s.both(wing, 0.17), s.px(0.025), s.px(0.016), s.head), DEEP, 0.5)
    nostrils = s.both(ellipse(w * 0.48, y + 0.1, 0.048, 0.022, -0.25), 0.23)
    canvas.shade(canvas.shape(nostrils, s.px(0.011), s.head), DEEP, 0.9)


def paint_mouth(s: Scene) -> None:
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
    low = [corner, (0.62 * w, bottom + 0.55 * full - 0.25 * curl), (0.3 * w, bottom + full * 1.1),
           (0.0, bottom + 1.2 * full)]  # fmt: skip

    def across(half: list[tuple[float, float]]) -> Floats:
        return open_curve(np.concatenate([np.asarray(half), mirrored(half[:-1])]))

    upper_line, lower_line = across(upper_edge), across(lower_edge)
    shadow = ellipse(0, bottom + full * 1.2 + 0.075, w * 0.55, 0.04)
    canvas.shade(canvas.shape(at(shadow), s.px(0.035), s.head), SHADOW, 0.65)
    dimples = s.both(ellipse(w + 0.035, y - curl, 0.02, 0.04), lift)
    canvas.shade(canvas.shape(dimples, s.px(0.025), s.head), SHADOW, 0.7)
    if gap > 0:
        hole = canvas.shape(at(np.concatenate([upper_line, lower_line[::-1]])), s.px(0.008), s.head)
        canvas.lay(hole, (70, 26, 28))
        teeth = across([(0.84 * w, y - 0.8 * curl), (0.6 * w, top + 0.62 * gap - 0.42 * curl), (0.0, top + 0.72 * gap)])
        canvas.lay(canvas.shape(at(np.concatenate([upper_line, teeth[::-1]])), s.px(0.01), hole), (238, 232, 222))
    soft = s.px(0.014)
    upper = canvas.shape(at(np.concatenate([across(up), upper_line[::-1]])), soft, s.head)
    lower = canvas.shape(at(np.concatenate([lower_line, across(low)[::-1]])), soft, s.head)
    canvas.lay(upper, p.lips * 0.86, 0.9)
    canvas.lay(lower, p.lips * 1.04, 0.9)
    shine = ellipse(-0.25 * w * np.sign(-s.light.x), bottom + 0.55 * full, 0.3 * w, 0.22 * full)
    canvas.shade(canvas.shape(at(shine), s.px(0.025), lower), (1.25, 1.28, 1.28), 0.9)
    seam = [at(upper_line)] if gap == 0 else [at(upper_line), at(lower_line)]
    canvas.shade(canvas.strokes(seam, s.px(0.022), s.px(0.008)), DEEP, 0.85 if gap == 0 else 0.45)


def paint_beard(s: Scene) -> None:
    """Painted before the mouth."""
    p, canvas = s.person, s.canvas
    if not p.beard:
        return
    y, w, c = p.mouth_y, p.mouth_width, p.chin
    strength = 0.36 if p.beard == "stubble" else 0.9
    colour = p.hair * 0.85 if p.beard != "stubble" else 0.65 * p.hair + 0.25 * p.skin
    areas: list[Floats] = []
    if p.beard in ("stubble", "full"):
        half = [(0.0, y - 0.24), (0.2, y - 0.27), (w + 0.1, y - 0.1), (0.6, y - 0.1), (0.8, y - 0.4), (0.9, 0.1),
                (1.0, 0.1), (0.97, 0.6), (0.86, 0.98), (0.56, c), (0.0, c + 0.07)]  # fmt: skip
        areas.append(closed_curve([*half, *mirrored(half[1:-1])]))
    if p.beard in ("moustache", "goatee"):
        half = [(0.0, y - 0.21), (0.15, y - 0.22), (w + 0.04, y - 0.02), (w, y + 0.04), (0.12, y - 0.08)]
        areas.append(closed_curve([*half, *mirrored(half)]))
    if p.beard == "goatee":
        half = [(0.0, y + 0.22), (0.16, y + 0.22), (w - 0.02, y + 0.02), (w + 0.06, y + 0.04),
                (0.3, c - 0.06), (0.0, c + 0.06)]  # fmt: skip
        areas.append(closed_curve([*half, *mirrored(half[1:-1])]))
    for area in areas:
        # The jaw's rim turns with the outline, so that a beard covers it.
        depth = np.where(area[:, 1] > c - 0.12, 0.5, 0.0)
        points = np.where(depth[:, None] > 0, s.pose.place(area, depth), s.on_face(area, 0.03))
        stubble = p.beard == "stubble"
        mask = canvas.shape(points, s.px(0.05 if stubble else 0.032), s.head if stubble else None)
        canvas.lay(mask, colour, strength)
        if p.beard != "stubble":
            root = s.rng.uniform((-0.85, y - 0.3), (0.85, c), (160, 2))
            ends = root + np.stack([0.05 * root[:, 0], np.full(160, 0.09)], axis=1)
            hairs = s.on_face(np.stack([root, ends], axis=1), 0.03)
            canvas.shade(canvas.strokes(hairs[:80], s.px(0.02), s.px(0.01), mask), (1.5, 1.45, 1.4), 0.5)
            canvas.shade(canvas.strokes(hairs[80:], s.px(0.02), s.px(0.01), mask), (0.6, 0.6, 0.6), 0.6)


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
        lens = canvas.shape(rim, 1.0)
        canvas.lay(lens, (225, 235, 245), 0.07)
        lines.append(np.concatenate([rim, rim[:1]]))
        lines.append(np.concatenate([s.on_face([(side * 0.74, -0.04)], lift), s.pose.place([(side * 0.98, -0.1)])]))
    lines.append(s.on_face(open_curve([(-0.15, -0.03), (0.0, -0.07), (0.15, -0.03)]), lift))
    fall = [np.add(line, (0, s.px(0.035))) for line in lines]
    canvas.shade(canvas.strokes(fall, s.px(0.03), s.px(0.025), s.head), SHADOW, 0.4)
    canvas.lay(canvas.strokes(lines, s.px(0.03), s.px(0.008)), frame, 0.85)
