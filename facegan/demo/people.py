"""A random person (skin, hair, features, mood), and the scene of a portrait: canvas, pose, light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facegan.demo.paint import Canvas, Floats, Mask, Pose, closed_curve, mirrored

Colour = NDArray[np.floating[Any]]  # (3,) red, green, blue, 0 … 255

# From very light to very dark, about even in lightness.
SKINS = np.array(
    [
        (246, 217, 197),
        (240, 204, 178),
        (232, 190, 156),
        (214, 165, 128),
        (190, 138, 100),
        (160, 109, 76),
        (128, 83, 57),
        (99, 63, 45),
        (76, 48, 37),
    ],
    float,
)
DARK_HAIR = np.array([(34, 27, 27), (52, 36, 30), (78, 50, 34), (30, 30, 38)], float)
LIGHT_HAIR = np.array(
    [(112, 72, 44), (146, 98, 56), (196, 152, 92), (226, 190, 130), (164, 78, 40), (132, 60, 40)], float
)
GREY_HAIR = np.array([(150, 148, 148), (196, 194, 192), (226, 224, 220)], float)
DYED_HAIR = np.array([(190, 90, 130), (70, 110, 170), (120, 80, 160), (60, 140, 130)], float)
IRISES = np.array([(70, 44, 28), (96, 62, 34), (110, 96, 52), (84, 118, 82), (80, 118, 160), (110, 128, 140)], float)
CLOTHES = np.array(
    [
        (58, 74, 110), (150, 60, 62), (210, 200, 184), (64, 98, 84), (48, 48, 56), (214, 160, 80),
        (120, 90, 130), (236, 236, 234), (90, 130, 160), (190, 120, 120), (116, 110, 84), (40, 62, 74),
    ],
    float,
)  # fmt: skip

SHORT_STYLES = ("crop", "quiff", "parted", "receding", "curls", "fringe", "bald")
LONG_STYLES = ("long", "waves", "bob", "swept", "bangs", "bun", "afro")

SHADOW = (0.7, 0.58, 0.55)  # factors of skin in shadow: warmer as it gets darker
DEEP = (0.42, 0.3, 0.3)
_LIGHT_STEP = 8  # light changes slowly: it is computed for one canvas pixel in 8 × 8


@dataclass(frozen=True)
class Person:
    """Lengths are head units (see `paint`), colours (3,) RGB in 0 … 255, other numbers 0 … 1 unless noted."""

    skin: Colour
    hair: Colour
    iris: Colour
    clothes: Colour
    lips: Colour
    style: str
    hair_volume: float
    hair_length: float  # how far below the eyes long hair ends
    parting: float  # x of the parting
    beard: str  # "", "stubble", "full", "moustache" or "goatee"
    glasses: str  # "", "round" or "square"
    softness: float  # 0 broad jaw and thick brows … 1 narrow jaw, thin brows, lashes
    age: float
    jaw: float
    chin: float  # y of the chin
    eye_x: float  # x of the eyes' centres
    eye_width: float
    eye_open: float
    eye_tilt: float
    brow_lift: float
    nose_y: float  # y of the tip
    nose_width: float
    mouth_y: float
    mouth_width: float
    lip_full: float
    smile: float  # −0.2 … 1
    mouth_open: float  # 0: closed
    gaze: float  # −1 … 1
    freckles: bool
    earrings: bool
    neckline: str  # "crew", "vee" or "collar"


def _mix(rng: np.random.Generator, palette: Colour) -> Colour:
    """A colour between two neighbours in a palette."""
    at = rng.uniform(0, len(palette) - 1)
    low = int(at)
    return palette[low] + (palette[min(low + 1, len(palette) - 1)] - palette[low]) * (at - low)


def _pick(rng: np.random.Generator, palette: Colour) -> Colour:
    return palette[rng.integers(len(palette))] * rng.uniform(0.9, 1.08)


def _hair_colour(rng: np.random.Generator, darkness: float, age: float) -> Colour:
    draw = rng.random()
    if age > 0.7 and draw < 0.75:
        return _pick(rng, GREY_HAIR)
    if draw > 0.96:
        return _pick(rng, DYED_HAIR)
    return _pick(rng, DARK_HAIR if rng.random() < 0.2 + 1.1 * darkness else LIGHT_HAIR)


def random_person(rng: np.random.Generator) -> Person:
    softness = float(np.clip(rng.normal(0.25 if rng.random() < 0.5 else 0.8, 0.12), 0, 1))
    age = float(rng.beta(1.3, 1.7))
    skin = np.clip(_mix(rng, SKINS) * rng.uniform(0.97, 1.03, 3), 0, 255)
    darkness = float(np.clip(1.15 - skin[1] / 215, 0, 1))
    hair = np.clip(_hair_colour(rng, darkness, age), 0, 250)
    styles = LONG_STYLES if rng.random() < 0.08 + 0.86 * softness else SHORT_STYLES
    bare_lips = skin * (0.86, 0.64, 0.64)
    lipstick = np.array([(178, 44, 58), (196, 84, 96), (150, 50, 70), (206, 110, 110)], float)[rng.integers(4)]
    made_up = rng.uniform(0.25, 0.75) if softness > 0.6 and rng.random() < 0.5 else 0.0
    beards = ("stubble", "full", "moustache", "goatee", "full", "stubble")
    soft = softness - 0.5
    mouth_open = float(rng.uniform(0.4, 1)) if rng.random() < 0.38 else 0.0
    return Person(
        skin=skin,
        hair=hair,
        iris=_pick(rng, IRISES[:2] if rng.random() < darkness * 1.2 else IRISES),
        clothes=np.clip(_pick(rng, CLOTHES), 0, 250),
        lips=bare_lips + (lipstick * (0.55 + 0.45 * skin[0] / 255) - bare_lips) * made_up,
        style=str(rng.choice(styles)),
        hair_volume=float(rng.uniform(0.05, 0.2)),
        hair_length=float(rng.uniform(1.3, 2.5)),
        parting=float(rng.uniform(0.15, 0.5) * rng.choice((-1, 1))),
        beard=str(rng.choice(beards)) if softness < 0.45 and rng.random() < 0.5 else "",
        glasses=str(rng.choice(("round", "square"))) if rng.random() < 0.14 else "",
        softness=softness,
        age=age,
        jaw=float(rng.normal(0.94 - 0.1 * soft, 0.035)),
        chin=float(rng.normal(1.37 - 0.06 * soft, 0.035)),
        eye_x=float(rng.normal(0.415, 0.005)),
        eye_width=float(rng.normal(0.207 + 0.016 * soft, 0.007)),
        eye_open=float(rng.normal(0.114 + 0.014 * soft, 0.009)),
        eye_tilt=float(rng.normal(0.008, 0.011)),
        brow_lift=float(rng.normal(0.02 + 0.02 * soft, 0.016)),
        nose_y=float(rng.normal(0.5, 0.011)),
        nose_width=float(rng.normal(0.185 - 0.03 * soft + 0.03 * darkness, 0.014)),
        mouth_y=float(rng.normal(0.883, 0.015)),
        mouth_width=float(rng.normal(0.32, 0.022)),
        lip_full=float(rng.normal(0.088 + 0.02 * soft + 0.02 * darkness, 0.01)),
        smile=float(np.clip(rng.normal(0.5, 0.27) + 0.25 * (mouth_open > 0), -0.2, 1)),
        mouth_open=mouth_open,
        gaze=float(np.clip(rng.normal(0, 0.4), -1, 1)),
        freckles=bool(rng.random() < 0.15 and darkness < 0.5),
        earrings=bool(rng.random() < 0.45 and softness > 0.55),
        neckline=str(rng.choice(("crew", "vee", "collar"))),
    )


@dataclass(frozen=True)
class Light:
    """``x``, ``y``: direction of the light, −1 … 1, image-right and down; ``ambient`` 0 … 1; ``tint`` (3,) ≈ 1."""

    x: float
    y: float
    ambient: float
    tint: Colour


@dataclass(frozen=True)
class Scene:
    canvas: Canvas
    pose: Pose
    person: Person
    light: Light
    rng: np.random.Generator
    skin: NDArray[np.float32]  # (3, height, width): lit skin
    hair: NDArray[np.float32]  # (3, height, width): lit hair
    head: Mask  # the face with its forehead and bald skull

    def px(self, length: float) -> float:
        """Head units as canvas pixels."""
        return length * self.pose.unit

    def on_face(self, points: ArrayLike, lift: float = 0.0) -> Floats:
        return self.pose.on_face(points, lift)

    def both(self, points: ArrayLike, lift: float = 0.0) -> list[Floats]:
        """Points of the image-right half of the face, mirrored and as they are."""
        p = np.asarray(points, float)
        return [self.pose.on_face(p * (-1, 1), lift), self.pose.on_face(p, lift)]

    def tone(self, red: float, green: float, blue: float) -> Colour:
        """The colour of the skin times a factor."""
        return np.clip(self.person.skin * (red, green, blue), 0, 255)


def head_outline(person: Person) -> Floats:
    """The skull and jaw as a closed curve in head units, (N, 2)."""
    j, c = person.jaw, person.chin
    right = [
        (0.0, -1.29), (0.45, -1.22), (0.8, -0.93), (0.96, -0.45), (0.975, 0.0),
        (0.95 * (0.4 + 0.6 * j), 0.42), (0.8 * j, 0.8), (0.55 * j, c - 0.25), (0.25 * j, c - 0.04),
    ]  # fmt: skip
    return closed_curve([*right, (0.0, c), *mirrored(right[1:])])


def head_depth(points: Floats) -> Floats:
    """Depth of the outline: the skull's rim is at 0, the chin in front."""
    chin = np.clip((points[:, 1] - 0.3) / 1.1, 0, 1) ** 1.5
    return 0.5 * chin * (1 - 0.5 * np.abs(points[:, 0]))


def light_fields(
    person: Person, pose: Pose, light: Light, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lit skin and lit hair, two (3, height, width) float32 fields: an ellipsoid with Lambertian reflectance, and skin
    that is warmer in shadow."""
    grid_h, grid_w = -(-height // _LIGHT_STEP), -(-width // _LIGHT_STEP)
    y, x = np.mgrid[0:grid_h, 0:grid_w] * _LIGHT_STEP + _LIGHT_STEP / 2
    dx, dy = (x - pose.x) / pose.unit, (y - pose.y) / pose.unit
    c, s = math.cos(pose.roll), math.sin(pose.roll)
    u, v = (c * dx + s * dy) / 1.25, (c * dy - s * dx - 0.05) / 1.7
    normal_x, normal_y = c * u - s * v, s * u + c * v
    normal_z = np.sqrt(np.clip(1 - u**2 - v**2, 0.06, 1))
    length = math.sqrt(light.x**2 + light.y**2 + 1)
    lambert = np.clip((normal_x * light.x + normal_y * light.y + normal_z) / length, 0, 1.2)
    shade = light.ambient + (1.06 - light.ambient) * lambert
    skin = [person.skin[k] * shade**gamma for k, gamma in enumerate((0.85, 1.1, 1.2))]
    gloss = np.clip(lambert - 0.84, 0, None) * 0.9
    skin = [plane + (255 - plane) * gloss for plane in skin]
    # A band of gloss across the crown, towards the light.
    band = np.exp(-(((v + 0.5 - 0.1 * light.y) / 0.16) ** 2) - ((u - 0.5 * light.x) / 0.55) ** 2)
    hair_shade = 0.2 + 0.85 * shade
    hair = [plane * hair_shade + (18 + 0.2 * plane) * band for plane in person.hair]
    fields = np.empty((2, 3, height, width), np.float32)
    for field, planes in zip(fields, (skin, hair), strict=True):
        for to, plane in zip(field, planes, strict=True):
            cv2.resize(plane.astype(np.float32), (width, height), to, interpolation=cv2.INTER_LINEAR)
    return fields[0], fields[1]
