"""Drawn portraits whose keypoints are known exactly: the data of `facegan demo`, and ground truth for tests.

A portrait is a pure function of (seed, index, width, height): a person, a pose and a light are drawn at random, and
painted with soft shapes at twice the size. No photograph is used.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from facegan.demo.features import MOUTH_LIFT, NOSE_LIFT, paint_features, paint_hair_behind
from facegan.demo.paint import Canvas, Pose, closed_curve, ellipse, mirrored, open_curve
from facegan.demo.people import Field, Light, Person, Scene, head_outline, light_fields, upscaled
from facegan.errors import SettingsError
from facegan.files import disk_errors, make_folder
from facegan.system import usable_cpus

MIN_WIDTH, MIN_HEIGHT = 178, 218  # CelebA's frame; smaller faces would be close to the detector's limits
_SUPERSAMPLE = 2


@dataclass(frozen=True)
class Portrait:
    """A picture and its keypoints in pixels, the left and top edges being 0.0 and pixel centres .5."""

    pixels: NDArray[np.uint8]  # (height, width, 3) RGB
    keypoints: NDArray[np.float64]  # (4, 2): image-left eye, image-right eye, nose tip, mouth centre, as MediaPipe's


def draw_portrait(seed: int, index: int = 0, *, width: int = MIN_WIDTH, height: int = MIN_HEIGHT) -> Portrait:
    """Portrait ``index`` of the endless sequence of ``seed``; from 178 × 218 px on, numbers below 2**64."""
    if width < MIN_WIDTH or height < MIN_HEIGHT:
        raise SettingsError(f"{width} × {height} px is too small. Use at least {MIN_WIDTH} × {MIN_HEIGHT}.")
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    person, light = Person(rng), Light(rng)
    large = width * _SUPERSAMPLE, height * _SUPERSAMPLE
    pose = _pose(rng, *large)
    canvas = Canvas(_background(rng, *large), pose.unit)
    skin, hair = light_fields(person, pose, light, *large)
    outline = head_outline(person)
    chin = np.clip((outline[:, 1] - 0.3) / 1.1, 0, 1) ** 1.5  # in front of the skull's rim
    depth = 0.5 * chin * (1 - 0.5 * np.abs(outline[:, 0]))
    head = canvas.shape(pose.place(outline, depth), 0.014)
    scene = Scene(canvas, pose, person, light, rng, skin, hair, head)
    paint_hair_behind(scene)
    _paint_bust(scene)
    canvas.lay(head, skin)
    paint_features(scene)
    features = [(-person.eye_x, 0.0), (person.eye_x, 0.0), (0.0, person.nose_y), (0.0, person.mouth_y + 0.01)]
    keypoints = pose.on_face(features, [0.0, 0.0, NOSE_LIFT, MOUTH_LIFT]) / _SUPERSAMPLE
    return Portrait(_finish(canvas, light, width, height), keypoints)


def write_portraits(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Write 000001.jpg, … as JPEG of quality 95, 4:4:4, and return the paths in order; threads change no byte."""
    make_folder(folder)
    options = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]

    def write(index: int) -> Path:
        path = folder / f"{index + 1:06d}.jpg"
        data = cv2.imencode(".jpg", draw_portrait(seed, index).pixels[:, :, ::-1], options)[1]
        with disk_errors(folder):
            path.write_bytes(data.tobytes())
        return path

    with ThreadPoolExecutor(min(4, usable_cpus())) as pool:
        return list(pool.map(write, range(count)))


def _pose(rng: np.random.Generator, width: int, height: int) -> Pose:
    """CelebA's frame, loosely: the eyes near the middle, the head half the width."""
    frame = min(width / MIN_WIDTH, height / MIN_HEIGHT)
    return Pose(
        x=width * rng.uniform(0.475, 0.525),
        y=height * rng.uniform(0.485, 0.53),
        unit=36 * frame * rng.uniform(0.9, 1.12),
        roll=math.radians(np.clip(rng.normal(0, 5.5), -15, 15)),
        yaw=math.radians(np.clip(rng.normal(0, 6.5), -15, 15)),
        pitch=math.radians(np.clip(rng.normal(0, 3), -7, 7)),
    )


def _background(rng: np.random.Generator, width: int, height: int) -> Field:
    """A gradient with lights out of focus."""
    rows, columns = 28, 23
    y, x = np.mgrid[0:rows, 0:columns] / (rows - 1)
    hue, angle = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
    level, colour = rng.uniform(60, 205), rng.uniform(8, 45)
    wheel = np.cos(hue + np.array([0, 2.1, 4.2]))[:, None, None]
    slope = (x - 0.4) * math.cos(angle) + (y - 0.5) * math.sin(angle)
    small = level + colour * wheel + slope * (rng.uniform(20, 90) + 25 * np.cos(angle + wheel))
    for _ in range(rng.integers(0, 7)):
        cx, cy, size = rng.uniform(0, 0.82), rng.uniform(0, 1), rng.uniform(0.06, 0.2)
        blob = 1 / (1 + np.exp((np.hypot(x - cx, y - cy) / size - 1) * rng.uniform(4, 9)))
        small = small + blob * rng.normal(0, 26, (3, 1, 1)) + blob * rng.normal(8, 18)
    small = np.clip(small, 8, 248).astype(np.float32)
    smooth = [cv2.resize(plane, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC) for plane in small]
    return upscaled(smooth, width, height)


def _paint_bust(s: Scene) -> None:
    """Ears, neck and clothes. The shoulders lean a third of the way with the head."""
    p = s.person
    flip = np.array([[[-1.0, 1.0]], [[1.0, 1.0]]])
    ear = closed_curve([(0.93, -0.12), (1.06, -0.16), (1.12, 0.0), (1.07, 0.22), (0.97, 0.4), (0.9, 0.3)])
    ears = s.lay(s.pose.place(ear * flip, -0.15), 0.015, s.skin, gain=0.92)
    fold = s.pose.place(open_curve([(1.0, -0.08), (1.06, 0.05), (1.0, 0.24)]) * flip, -0.15)
    s.shade(fold, 0.02, (0.66, 0.52, 0.5), 0.7, within=ears, stroke=0.035)
    if p.earrings:
        stones = ellipse(1.0, 0.44, 0.045, 0.05, count=12) * flip
        s.lay(s.pose.place(stones, -0.12), 0.012, (236, 214, 150))
    body = Pose(s.pose.x, s.pose.y, s.pose.unit, s.pose.roll / 3, 0.0, 0.0)
    broad = 0.57 - 0.1 * p.softness
    half = [(broad * 0.94, 0.6), (broad, 1.3), (broad * 1.08, 1.62), (1.2, 1.95), (1.5, 2.4), (1.5, 4.0)]
    neck = s.lay(body.place(closed_curve([*half, *mirrored(half)])), 0.02, s.tone(0.9, 0.86, 0.85))
    under_jaw = s.pose.place(head_outline(p) * (0.92, 1.0) + (0, 0.17), 0.2)
    s.shade(under_jaw, 0.1, (0.6, 0.48, 0.46), 0.8, within=neck)
    drop = {"crew": 1.85, "vee": 2.3, "collar": 1.95}[p.neckline]
    wide = 2.35 - 0.45 * p.softness
    right = open_curve([(broad + 0.12, 1.58), (1.15, 1.8), (wide * 0.8, 2.05), (wide, 2.6), (wide + 0.2, 4.5)])
    half = [(0, drop), (broad * 0.62, (1.58 + drop) / 2 + 0.07), (broad + 0.12, 1.58)]
    throat = open_curve([*mirrored(half[1:]), *half])
    points = np.concatenate([throat, right[1:], right[::-1] * (-1, 1)])
    mask = s.lay(body.place(points), 0.02, p.clothes)
    shaded = closed_curve([(0.9, 1.5), (2.6, 1.6), (2.6, 5.5), (0.9, 5.5)]) * (1 if s.light.x < 0 else -1, 1)
    s.shade(body.place(shaded), 0.5, (0.66, 0.66, 0.7), 0.8, within=mask)
    s.shade(body.place(np.add(throat, (0, 0.05))), 0.03, (0.7, 0.7, 0.72), 0.7, within=mask, stroke=0.07)
    if p.neckline == "collar":
        flap = np.array([(0.1, 2.0), (broad, 1.5), (broad + 0.28, 1.62), (0.52, 2.32)])
        s.lay(body.place(flap * flip), 0.025, np.clip(p.clothes * 1.14 + 6, 0, 255))


def _finish(canvas: Canvas, light: Light, width: int, height: int) -> NDArray[np.uint8]:
    """Shrinks by area, and lets the light fall off across the picture."""
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    fall = 1 + np.float32(0.09 * light.x) * x + np.float32(0.09 * light.y) * y
    small = np.stack([cv2.resize(plane, (width, height), interpolation=cv2.INTER_AREA) for plane in canvas.planes])
    lit = small * fall * light.tint.astype(np.float32)[:, None, None] + np.float32(0.5)
    return np.dstack(list(np.clip(lit, 0, 255).astype(np.uint8)))
