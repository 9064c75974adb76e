"""A random person (skin, hair, features, mood), and the scene of a portrait: canvas, pose, light."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facegan.demo.paint import Canvas, Floats, Mask, Outlines, Pose, closed_curve, mirrored

Colour = NDArray[np.floating[Any]]  # (3,) red, green, blue, 0 … 255
Field = NDArray[np.float32]  # colours (3, height, width) of the canvas


def _palette(colours: str) -> Colour:
    return np.array([[*bytes.fromhex(colour)] for colour in colours.split()], float)


SKINS = _palette("f6d9c5 f0ccb2 e8be9c d6a580 be8a64 a06d4c 805339 633f2d 4c3025")  # from very light to very dark
DARK_HAIR = _palette("221b1b 34241e 4e3222 1e1e26")
LIGHT_HAIR = _palette("70482c 926238 c4985c e2be82 a44e28 843c28")
GREY_HAIR, DYED_HAIR = _palette("969494 c4c2c0 e2e0dc"), _palette("be5a82 466eaa 7850a0 3c8c82")
LIPSTICKS = _palette("b22c3a c45460 963246 ce6e6e")
IRISES = _palette("462c1c 603e22 6e6034 547652 5076a0 6e808c")
CLOTHES = _palette("3a4a6e 963c3e d2c8b8 406254 303038 d6a050 785a82 ececea 5a82a0 be7878 746e54 283e4a")

SHORT_STYLES = ("crop", "quiff", "parted", "receding", "curls", "fringe", "bald")
LONG_STYLES = ("long", "waves", "bob", "swept", "bangs", "bun", "afro")
BEARDS = ("stubble", "full", "moustache", "goatee", "full", "stubble")

SHADOW = (0.7, 0.58, 0.55)  # factors of skin in shadow: warmer as it gets darker
DEEP = (0.42, 0.3, 0.3)
_LIGHT_STEP = 8  # light changes slowly: it is computed for one canvas pixel in 8 × 8


def _pick(rng: np.random.Generator, palette: Colour) -> Colour:
    return palette[rng.integers(len(palette))] * rng.uniform(0.9, 1.08)


def _hair_colour(rng: np.random.Generator, darkness: float, age: float) -> Colour:
    draw = rng.random()
    if age > 0.7 and draw < 0.75:
        return _pick(rng, GREY_HAIR)
    if draw > 0.96:
        return _pick(rng, DYED_HAIR)
    return _pick(rng, DARK_HAIR if rng.random() < 0.2 + 1.1 * darkness else LIGHT_HAIR)


class Person:
    """A random person: lengths in head units (see `paint`), colours (3,) RGB in 0 … 255, others 0 … 1 unless noted."""

    def __init__(self, rng: np.random.Generator) -> None:
        # 0: broad jaw and thick brows … 1: narrow jaw, thin brows, lashes
        self.softness = float(np.clip(rng.normal(0.25 if rng.random() < 0.5 else 0.8, 0.12), 0, 1))
        self.age = float(rng.beta(1.3, 1.7))
        part, low = math.modf(rng.uniform(0, len(SKINS) - 1))
        light, dark = SKINS[int(low)], SKINS[min(int(low) + 1, len(SKINS) - 1)]
        self.skin = np.clip((light + (dark - light) * part) * rng.uniform(0.97, 1.03, 3), 0, 255)
        darkness, soft = float(np.clip(1.15 - self.skin[1] / 215, 0, 1)), self.softness - 0.5
        self.hair = np.clip(_hair_colour(rng, darkness, self.age), 0, 250)
        styles = LONG_STYLES if rng.random() < 0.08 + 0.86 * self.softness else SHORT_STYLES
        bare_lips = self.skin * (0.86, 0.64, 0.64)
        lipstick = LIPSTICKS[rng.integers(4)]
        made_up = rng.uniform(0.25, 0.75) if self.softness > 0.6 and rng.random() < 0.5 else 0.0
        self.mouth_open = float(rng.uniform(0.4, 1)) if rng.random() < 0.38 else 0.0  # 0: closed
        self.iris = _pick(rng, IRISES[:2] if rng.random() < darkness * 1.2 else IRISES)
        self.clothes = np.clip(_pick(rng, CLOTHES), 0, 250)
        self.lips = bare_lips + (lipstick * (0.55 + 0.45 * self.skin[0] / 255) - bare_lips) * made_up
        self.style = str(rng.choice(styles))
        self.hair_volume = float(rng.uniform(0.05, 0.2))
        self.hair_length = float(rng.uniform(1.3, 2.5))  # how far below the eyes long hair ends
        self.parting = float(rng.uniform(0.15, 0.5) * rng.choice((-1, 1)))  # its x
        self.beard = str(rng.choice(BEARDS)) if self.softness < 0.45 and rng.random() < 0.5 else ""
        self.glasses = str(rng.choice(("round", "square"))) if rng.random() < 0.14 else ""
        self.jaw = float(rng.normal(0.94 - 0.1 * soft, 0.035))
        self.chin = float(rng.normal(1.37 - 0.06 * soft, 0.035))  # its y
        self.eye_x = float(rng.normal(0.415, 0.005))  # of the eyes' centres
        self.eye_width = float(rng.normal(0.207 + 0.016 * soft, 0.007))
        self.eye_open = float(rng.normal(0.114 + 0.014 * soft, 0.009))
        self.eye_tilt = float(rng.normal(0.008, 0.011))
        self.brow_lift = float(rng.normal(0.02 + 0.02 * soft, 0.016))
        self.nose_y = float(rng.normal(0.5, 0.011))  # of the tip
        self.nose_width = float(rng.normal(0.185 - 0.03 * soft + 0.03 * darkness, 0.014))
        self.mouth_y = float(rng.normal(0.883, 0.015))
        self.mouth_width = float(rng.normal(0.32, 0.022))
        self.lip_full = float(rng.normal(0.088 + 0.02 * soft + 0.02 * darkness, 0.01))
        self.smile = float(np.clip(rng.normal(0.5, 0.27) + 0.25 * (self.mouth_open > 0), -0.2, 1))  # −0.2 … 1
        self.gaze = float(np.clip(rng.normal(0, 0.4), -1, 1))  # −1 … 1
        self.freckles = rng.random() < 0.15 and darkness < 0.5
        self.earrings = rng.random() < 0.45 and self.softness > 0.55
        self.neckline = str(rng.choice(("crew", "vee", "collar")))


class Light:
    """``x``, ``y``: its direction, −1 … 1, image-right and down; ``ambient`` 0 … 1; ``tint`` (3,) ≈ 1."""

    def __init__(self, rng: np.random.Generator) -> None:
        warmth = rng.normal(0, 0.035)
        self.tint = rng.uniform(0.86, 1.06) * np.array([1 + warmth, 1.0, 1 - 1.2 * warmth])
        self.x, self.y, self.ambient = rng.uniform((-0.75, -0.65, 0.42), (0.75, -0.05, 0.66)).tolist()


@dataclass(frozen=True)
class Scene:
    canvas: Canvas
    pose: Pose
    person: Person
    light: Light
    rng: np.random.Generator
    skin: Field  # lit
    hair: Field  # lit
    head: Mask  # the face with its forehead and bald skull

    def on_face(self, points: ArrayLike, lift: float = 0.0) -> Floats:
        return self.pose.on_face(points, lift)

    def both(self, points: ArrayLike, lift: float = 0.0) -> list[Floats]:
        """Points of the image-right half of the face, mirrored and as they are."""
        p = np.asarray(points, float)
        return [self.pose.on_face(p * (-1, 1), lift), self.pose.on_face(p, lift)]

    def shade(
        self,
        outlines: Outlines,
        soft: float,
        factor: ArrayLike,
        opacity: float,
        within: Mask | None = None,
        stroke: float = 0.0,
    ) -> None:
        """Shade outlines, or lines ``stroke`` wide, on the head or within another mask."""
        self.canvas.shade(self.canvas.shape(outlines, soft, within or self.head, stroke), factor, opacity)

    def lay(
        self,
        outlines: Outlines,
        soft: float,
        colour: ArrayLike,
        opacity: float = 1.0,
        within: Mask | None = None,
        stroke: float = 0.0,
        gain: float = 1.0,
    ) -> Mask:
        """Paint outlines, or lines ``stroke`` wide, anywhere or within a mask; returns where."""
        mask = self.canvas.shape(outlines, soft, within, stroke)
        self.canvas.lay(mask, colour, opacity, gain)
        return mask

    def tone(self, red: float, green: float, blue: float) -> Colour:
        """The colour of the skin times a factor."""
        return np.clip(self.person.skin * (red, green, blue), 0, 255)


def head_outline(person: Person) -> Floats:
    """The skull and jaw as a closed curve in head units, (N, 2)."""
    j, c = person.jaw, person.chin
    skull = [(0.0, -1.29), (0.45, -1.22), (0.8, -0.93), (0.96, -0.45), (0.975, 0.0)]
    jaw = [(0.95 * (0.4 + 0.6 * j), 0.42), (0.8 * j, 0.8), (0.55 * j, c - 0.25), (0.25 * j, c - 0.04)]
    right = [*skull, *jaw]
    return closed_curve([*right, (0.0, c), *mirrored(right[1:])])


def light_fields(person: Person, pose: Pose, light: Light, width: int, height: int) -> tuple[Field, Field]:
    """Lit skin and lit hair: an ellipsoid with Lambertian reflectance, and skin that is warmer in shadow."""
    y, x = np.mgrid[0:height:_LIGHT_STEP, 0:width:_LIGHT_STEP] + _LIGHT_STEP / 2
    dx, dy = (x - pose.x) / pose.unit, (y - pose.y) / pose.unit
    c, s = math.cos(pose.roll), math.sin(pose.roll)
    u, v = (c * dx + s * dy) / 1.25, (c * dy - s * dx - 0.05) / 1.7
    normal_x, normal_y = c * u - s * v, s * u + c * v
    normal_z = np.sqrt(np.clip(1 - u**2 - v**2, 0.06, 1))
    lambert = (normal_x * light.x + normal_y * light.y + normal_z) / math.sqrt(light.x**2 + light.y**2 + 1)
    lambert = np.clip(lambert, 0, 1.2)
    shade = light.ambient + (1.06 - light.ambient) * lambert
    skin = [person.skin[k] * shade**gamma for k, gamma in enumerate((0.85, 1.1, 1.2))]
    gloss = np.clip(lambert - 0.84, 0, None) * 0.9
    skin = [plane + (255 - plane) * gloss for plane in skin]
    # A band of gloss across the crown, towards the light.
    band = np.exp(-(((v + 0.5 - 0.1 * light.y) / 0.16) ** 2) - ((u - 0.5 * light.x) / 0.55) ** 2)
    hair = [plane * (0.2 + 0.85 * shade) + (18 + 0.2 * plane) * band for plane in person.hair]
    return upscaled(skin, width, height), upscaled(hair, width, height)


def upscaled(planes: Sequence[Floats], width: int, height: int) -> Field:
    large = np.empty((3, height, width), np.float32)
    for to, plane in zip(large, planes, strict=True):
        cv2.resize(plane.astype(np.float32), (width, height), to, interpolation=cv2.INTER_LINEAR)
    return large
