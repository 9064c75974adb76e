"""Sets of images that metrics must order: drawn faces, samples of models of them, and noise."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from facegan.demo import draw_portrait
from facegan.nets import NetSpec, make_generator

SIDE = 140  # px of a portrait: the face and a little hair, as prep cuts it
CENTRE = (125, 89)


def drawn_faces(count: int, size: int = 64, first: int = 0) -> Tensor:
    """uint8 (count, 3, size, size): portraits ``first`` and on, each another person."""
    cut = [drawn_face(number) for number in range(first, first + count)]
    return to_tensor([cv2.resize(each, (size, size), interpolation=cv2.INTER_AREA) for each in cut])


@cache
def drawn_face(number: int) -> np.ndarray:
    top, left = (middle - SIDE // 2 for middle in CENTRE)
    return draw_portrait(0, number).pixels[top : top + SIDE, left : left + SIDE].copy()


def learnt(faces: Tensor, count: int, components: int = 24, seed: int = 0) -> Tensor:
    """Samples of a model that is fitted at once: a Gaussian over eigenfaces (Turk & Pentland 1991)."""
    flat = faces.flatten(1).double().numpy()
    mean = flat.mean(0)
    _, scales, directions = np.linalg.svd(flat - mean, full_matrices=False)
    latents = np.random.default_rng(seed).standard_normal((count, components)) / np.sqrt(len(faces))
    pixels = mean + latents * scales[:components] @ directions[:components]
    return torch.from_numpy(pixels.clip(0, 255).round().astype(np.uint8)).view(count, *faces.shape[1:])


@torch.inference_mode()
def untrained(count: int, size: int = 64, nets: str = "dcgan") -> Tensor:
    """Samples of an untrained generator."""
    generator = make_generator(NetSpec(name=nets, size=size, width=16, norm="none"))
    generator.initialise(torch.Generator().manual_seed(0))
    latents = torch.randn(count, 100, generator=torch.Generator().manual_seed(1))
    return ((generator(latents) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def uniform_noise(count: int, size: int = 64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8))


def blurred(images: Tensor, deviation: float) -> Tensor:
    return to_tensor([cv2.GaussianBlur(image, (0, 0), deviation) for image in to_arrays(images)])


def noisy(images: Tensor, deviation: float) -> Tensor:
    noise = deviation * np.random.default_rng(0).standard_normal(tuple(images.shape))
    return torch.from_numpy((images.numpy() + noise).clip(0, 255).round().astype(np.uint8))


def compressed(images: Tensor, quality: int) -> Tensor:
    coded = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1] for image in to_arrays(images)]
    return to_tensor([np.asarray(cv2.imdecode(each, cv2.IMREAD_COLOR)) for each in coded])


def to_arrays(images: Tensor) -> list[np.ndarray]:
    return [np.ascontiguousarray(image) for image in images.permute(0, 2, 3, 1).numpy()]


def to_tensor(arrays: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def textures(count: int, size: int = 32, channels: int = 3, seed: int = 0, blur: float = 2.0) -> Tensor:
    """Clouds of one size of detail: uint8 (count, channels, size, size)."""
    noise = np.random.default_rng(seed).standard_normal((count, channels, size, size))
    clouds = ndimage.gaussian_filter(noise, (0, 0, blur, blur), mode="wrap")
    return torch.from_numpy((128 + 50 * clouds / clouds.std()).clip(0, 255).round().astype(np.uint8))
