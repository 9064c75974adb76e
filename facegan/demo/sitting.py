"""One sitting for a portrait: the canvas, the pose, the person, the light, and how light falls on a head."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facegan.demo.paint import Canvas, Floats, Mask, Pose, closed_curve, mirrored
from facegan.demo.people import Colour, Person

SHADOW = (0.7, 0.58, 0.55)  # factors of skin in shadow: warmer as it gets darker
DEEP = (0.42, 0.3, 0.3)
_LIGHT_STEP = 8  # light changes slowly: it is computed for one canvas pixel in 8 × 8


@dataclass(frozen=True)
class Light:
    """``x``, ``y``: where the light comes from, −1 … 1, image-right and down; ``ambient`` 0 … 1; ``tint`` (3,) ≈ 1."""

    x: float
    y: float
    ambient: float
    tint: Colour


@dataclass(frozen=True)
class Sitting:
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
        """Points of the image-right half of the face, and their mirror image."""
        p = np.asarray(points, float)
        return [self.pose.on_face(p * (-1, 1), lift), self.pose.on_face(p, lift)]

    def tone(self, red: float, green: float, blue: float) -> Colour:
        """The person's own skin, multiplied."""
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
    """The outline's depth: the skull's rim is half way back, the chin in front."""
    chin = np.clip((points[:, 1] - 0.3) / 1.1, 0, 1) ** 1.5
    return 0.5 * chin * (1 - 0.5 * np.abs(points[:, 0]))


def light_fields(
    person: Person, pose: Pose, light: Light, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Skin and hair as the light falls on them: two (3, height, width) float32 fields.

    Lambert's law on an ellipsoid, with the shadows of skin warmer than its lights.
    """
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
    # A band of gloss lies across the crown, nearer to the light.
    band = np.exp(-(((v + 0.5 - 0.1 * light.y) / 0.16) ** 2) - ((u - 0.5 * light.x) / 0.55) ** 2)
    hair_shade = 0.2 + 0.85 * shade
    hair = [plane * hair_shade + (18 + 0.2 * plane) * band for plane in person.hair]
    fields = np.empty((2, 3, height, width), np.float32)
    for field, planes in zip(fields, (skin, hair), strict=True):
        for to, plane in zip(field, planes, strict=True):
            cv2.resize(plane.astype(np.float32), (width, height), to, interpolation=cv2.INTER_LINEAR)
    return fields[0], fields[1]
