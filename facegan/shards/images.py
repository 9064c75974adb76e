"""A sample's image: pixels ↔ file bytes."""

from __future__ import annotations

import cv2
import numpy as np
import simplejpeg


def encode_image(rgb: np.ndarray, image_format: str) -> bytes:
    """RGB uint8 (height, width, 3) → file bytes: uncompressed PNG, JPEG at quality 95 and 4:4:4, or lossless WebP."""
    if image_format == "jpg":
        return simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality=95, colorspace="RGB", colorsubsampling="444")
    options = {
        "png": (".png", [cv2.IMWRITE_PNG_COMPRESSION, 0]),
        "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),  # above 100 is OpenCV's word for lossless
    }
    suffix, flags = options[image_format]
    done, data = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), flags)
    if not done:
        raise ValueError(f"OpenCV can't encode {image_format}")
    return data.tobytes()


def decode_image(data: bytes | memoryview) -> np.ndarray | None:
    """File bytes → RGB uint8 (height, width, 3); None where they are no image. Frees the interpreter while it works."""
    if len(data) == 0:
        return None
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if stored is None else cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
