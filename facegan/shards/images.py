"""A sample's image: pixels ↔ file bytes."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import simplejpeg


def encode_image(pixels: np.ndarray, image_format: str) -> bytes:
    """RGB uint8 (height, width, 3), or grey (height, width, 1) → file bytes: uncompressed PNG, JPEG at quality 95 and
    4:4:4, or lossless WebP. WebP knows no grey: its files hold the one channel three times, in as many bytes as once.
    """
    is_grey = pixels.shape[2] == 1
    if image_format == "png":
        return _uncompressed_png(pixels)
    if image_format == "jpg":
        colours = ("GRAY", "Gray") if is_grey else ("RGB", "444")
        return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), 95, *colours)
    if image_format == "webp":
        above_100_is_lossless = [cv2.IMWRITE_WEBP_QUALITY, 101]
        bgr = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR if is_grey else cv2.COLOR_RGB2BGR)
        return cv2.imencode(".webp", bgr, above_100_is_lossless)[1].tobytes()
    raise ValueError(f"no image format '{image_format}'")


def _uncompressed_png(pixels: np.ndarray) -> bytes:
    """W3C PNG, second edition: rows unfiltered, deflate's stored blocks. A tenth of the time of OpenCV's encoder."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + channels * width), np.uint8)  # each row begins with its filter's type, 0: none
    rows[:, 1:] = pixels.reshape(height, channels * width)
    header = struct.pack(">IIBBBBB", width, height, 8, _PNG_COLOURS[channels], 0, 0, 0)  # 8 bits
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 0)), (b"IEND", b""))
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
        for kind, data in parts
    )
    return _PNG_SIGNATURE + b"".join(chunks)


def decode_image(data: bytes | memoryview) -> np.ndarray | None:
    """File bytes → RGB uint8 (height, width, 3), grey as three equal channels; None where they are no image. Frees the
    interpreter while it works."""
    if len(data) == 0:
        return None
    stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return None if stored is None else cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)


def channels_problem(data: bytes, rgb: np.ndarray, channels: int) -> str:
    """What is wrong with the channels of an image that has to have 1 or 3; its file, and its pixels as RGB."""
    found = _file_channels(data)
    if found is None:  # WebP: grey is three times the same
        found = 1 if channels == 1 and is_grey(rgb) else 3
    return "" if found == channels else f"has {found} channel{'s' if found > 1 else ''}"


def _file_channels(data: bytes) -> int | None:
    if data[:8] == _PNG_SIGNATURE:
        return next((n for n, colours in _PNG_COLOURS.items() if colours == data[_PNG_COLOURS_AT]), None)
    if data[:3] == b"\xff\xd8\xff":
        return 1 if simplejpeg.decode_jpeg_header(data)[2] == "Gray" else 3
    return None


def decode_into(data: memoryview, out: np.ndarray) -> bool:
    """File bytes → ``out``, contiguous uint8 (height, width, 3), RGB, or (height, width, 1), grey; False, and ``out``
    untouched, where they are no image of that size, or one with colours for a grey ``out``: threads that meet at one
    place of a cache never see half of a damaged image there.

    JPEGs by simplejpeg, all else by OpenCV. What `encode_image` writes as PNG is read by `facegan.shards.stored`, many
    times faster. Frees the interpreter while it works.
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg_into(data, out)
    height, width, channels = out.shape
    rgb = decode_image(data)
    if rgb is None or rgb.shape[:2] != (height, width) or not (channels == 3 or is_grey(rgb)):
        return False
    out[:] = rgb[..., :channels]
    return True


def is_grey(rgb: np.ndarray) -> bool:
    """Whether all channels of (height, width, 3) are the same."""
    return bool((rgb == rgb[..., :1]).all())


_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_COLOURS = {1: 0, 3: 2}  # by channels, IHDR's types of colour: grey, RGB
_PNG_COLOURS_AT = 25


def _jpeg_into(data: memoryview, out: np.ndarray) -> bool:
    wanted = "GRAY" if out.shape[2] == 1 else "RGB"
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if (height, width) != out.shape[:2] or (wanted == "GRAY" and colours != "Gray"):
            return False
        pixels = simplejpeg.decode_jpeg(data, wanted)
    except ValueError:
        return False
    out[:] = pixels
    return True
