"""Bytes of a photograph → upright RGB pixels, or the reason why not.

Rules: 8-bit JPEG by libjpeg-turbo (simplejpeg), grey and RGB PNG by OpenCV, all else by Pillow. The size is read
from the header before any pixel is decoded: 100 megapixels are the most, 50 for WebP and AVIF. EXIF orientation is
applied. Grey and palette become RGB, alpha is laid over white, 16-bit values are divided by 257 (above 50 megapixels
the lower byte is dropped), animations give their first frame, ICC profiles are ignored. What lacks rows is truncated.
"""

from __future__ import annotations

import io
import struct
import warnings

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from facegan.faces.structure import (
    MAX_PIXELS,
    PNG_SIGNATURE,
    bare_png,
    has_too_many_scans,
    is_cut,
    is_heic,
    is_webp_or_avif,
    tidied,
    tiff_lacks_strips,
)

_MAX_PIXELS_HEAVY = 50_000_000  # where the decoder holds the picture several times, and 100 would take 1.6 GB
_BAND_PIXELS = 1 << 22

_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
_PILLOW_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")  # others may run programs (EPS)
_BYTE_OF = ((np.arange(65536) + 128) // 257).astype(np.uint8)
# libjpeg's errors and warnings (jerror.h) after which the pixels are not the photographer's any more.
_JPEG_DAMAGE = ("bad Huffman code", "bad arithmetic code", "found marker", "progression", "extraneous bytes",
                "Invalid JPEG file structure")  # fmt: skip
# numpy.rot90's quarter turns and a left-right flip before them that undo each EXIF orientation (Exif 2.3, tag 0x0112).
_UNDO_ORIENTATION = {1: (0, False), 2: (0, True), 3: (2, False), 4: (2, True), 5: (1, True), 6: (3, False),
                     7: (3, True), 8: (1, False)}  # fmt: skip


class Rejected(Exception):
    """This photograph gives no sample. ``reason`` is one of `facegan.shards.layout.REASONS`.

    Attributes:
        no_decoder: it is a HEIC, which no installed library decodes.
    """

    def __init__(self, reason: str, *, no_decoder: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.no_decoder = no_decoder


class Photo:
    """One photograph, decoded when and as large as it is needed.

    Attributes:
        width, height: of the upright photograph, pixels.

    Raises:
        Rejected: ``unreadable``, ``truncated`` or ``too_large``; from the constructor or from `pixels`.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._decoded: dict[int, np.ndarray] = {}
        # What libjpeg-turbo's simple interface says of a JPEG that it reads; CMYK goes through Pillow.
        header = _jpeg_header(data)
        self._is_simple_jpeg = header is not None and header[2] not in ("CMYK", "YCCK")
        width, height = header[:2] if header else _header_size(data)
        if width * height > (_MAX_PIXELS_HEAVY if is_webp_or_avif(data) else MAX_PIXELS):
            raise Rejected("too_large")
        if width == 0 or height == 0 or (data[:2] == b"\xff\xd8" and has_too_many_scans(data)):
            raise Rejected("unreadable")
        self._orientation = _orientation(data)
        self._stored = (width, height)
        self.width, self.height = (height, width) if self._orientation > 4 else (width, height)

    def pixels(self, shrink: int = 1) -> np.ndarray:
        """Upright RGB pixels, uint8 (ceil(height / shrink), ceil(width / shrink), 3); ``shrink`` is 1, 2, 4 or 8.

        One pixel of the shrunk picture stands for exactly ``shrink`` × ``shrink`` pixels of the photograph: JPEGs are
        decoded at that scale (ITU-T T.81's DCT cut short), others are averaged.
        """
        if shrink not in self._decoded:
            self._decoded[shrink] = self._decode(shrink)
        return self._decoded[shrink]

    def _decode(self, shrink: int) -> np.ndarray:
        # A block that the edge cuts off lies at the far end as stored; turned, it would shift all that follow it.
        shifts = self._orientation > 1 and any(side % shrink for side in self._stored)
        if self._is_simple_jpeg and not shifts:
            rgb = _decode_jpeg(self._data, self._stored, shrink)
            if rgb is not None:
                return _upright(rgb, self._orientation)
        if shrink == 1:
            return _upright(_decode_other(self._data), self._orientation)
        return _average(self.pixels(1), shrink)


def _header_size(data: bytes) -> tuple[int, int]:
    """Width and height as stored, from the header alone."""
    if data[:8] == PNG_SIGNATURE and data[12:16] == b"IHDR" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    with _pillow(data) as image:
        return image.size


def _orientation(data: bytes) -> int:
    marks = {b"\xff\xd8": (b"Exif\0",), b"\x89P": (b"eXIf", b"Raw profile type exif")}.get(data[:2])
    if marks and not any(mark in data for mark in marks):
        return 1  # Pillow's parser costs as much as decoding a small photograph
    try:
        with _pillow(data) as image, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if image.format == "TIFF":
                return 1  # Pillow turns these itself
            if image.format == "PNG":
                image.load()  # eXIf may stand behind the pixels
            value = _exif(image).get(0x0112, 1)
    except Exception:  # a broken EXIF block says nothing of the pixels: Pillow raises a dozen kinds of error for it
        return 1
    return value if value in _UNDO_ORIENTATION else 1


def _exif(image: Image.Image) -> Image.Exif:
    """EXIF alone: Pillow's own getexif falls back to XMP, which cameras and editors keep less carefully."""
    block = image.info.get("exif")
    if block is None and "Raw profile type exif" in image.info:  # as ImageMagick writes it
        block = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    exif = Image.Exif()
    exif.load(block or b"")
    return exif


def _upright(rgb: np.ndarray, orientation: int) -> np.ndarray:
    turns, flip = _UNDO_ORIENTATION[orientation]
    if flip:
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns or flip else rgb


def _jpeg_header(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and colour space; None for what is no JPEG, or one beyond libjpeg-turbo's simple interface."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    except (ValueError, KeyError):  # KeyError: a header without a colour space
        return None
    return int(width), int(height), colours


def _decode_jpeg(data: bytes, stored: tuple[int, int], shrink: int) -> np.ndarray | None:
    """RGB pixels, or None where libjpeg-turbo's simple interface does not know this kind of JPEG (or this scale)."""
    size = (-(-stored[1] // shrink), -(-stored[0] // shrink))

    def decode(whole: bytes, strict: bool) -> np.ndarray | None:
        least = {"min_height": size[0], "min_width": size[1]} if shrink > 1 else {}
        rgb = simplejpeg.decode_jpeg(whole, "RGB", strict=strict, **least)
        return rgb if rgb.shape[:2] == size else None

    try:
        return decode(data, strict=True)
    except ValueError:
        # Premature end is said of files that lack rows and of files that lack only their end marker. With the marker
        # put back, libjpeg complains of the former alone.
        data = tidied(data) + b"\xff\xd9"
    try:
        return decode(data, strict=True)
    except ValueError as error:
        problem = str(error)
    if "remature end" in problem:
        raise Rejected("truncated")
    if "extraneous bytes before marker 0xd9" in problem:  # behind the last row
        return decode(data, strict=False)
    if any(damage in problem for damage in _JPEG_DAMAGE):
        raise Rejected("unreadable")
    return None


def _decode_other(data: bytes) -> np.ndarray:
    if _is_plain_png(data):
        width, height, bits = struct.unpack(">IIB", data[16:25])
        depth = 0 if bits == 16 and width * height > _MAX_PIXELS_HEAVY else cv2.IMREAD_ANYDEPTH  # 0: the higher 8 bits
        rgb = cv2.imdecode(np.frombuffer(data, np.uint8), _AS_STORED | depth)
        if rgb is not None:
            return rgb if rgb.dtype == np.uint8 else _to_8_bits(rgb)
    if data[:8] == PNG_SIGNATURE:
        data, problem = bare_png(data)
        if problem:
            raise Rejected(problem)
    with _pillow(data) as image:
        try:
            if isinstance(image, TiffImageFile) and tiff_lacks_strips(image.tag_v2, *image.size):
                raise Rejected("truncated")
            image.load()
            return _to_rgb(image)
        except Rejected:
            raise
        except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, …
            truncated = "truncated" in str(error).lower() or isinstance(error, EOFError)
            raise Rejected("truncated" if truncated else "unreadable") from error


def _is_plain_png(data: bytes) -> bool:
    """8- or 16-bit grey or RGB without transparency, and whole: what OpenCV decodes as we want it."""
    if data[:8] != PNG_SIGNATURE or len(data) < 45 or data[-8:-4] != b"IEND":
        return False
    plain = data[24] in (8, 16) and data[25] in (0, 2)  # bit depth, colour type
    return plain and b"tRNS" not in data[: data.find(b"IDAT")]


def _pillow(data: bytes) -> Image.Image:
    Image.init()  # asked for formats by name, Pillow does not load their plugins itself
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of sizes that MAX_PIXELS judges, and of bad EXIF
            return Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS)
    except Image.DecompressionBombError as error:
        raise Rejected("too_large") from error
    except Exception as error:  # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, …
        heic = is_heic(data)
        raise Rejected("truncated" if is_cut(data) and not heic else "unreadable", no_decoder=heic) from error


def _to_rgb(image: Image.Image) -> np.ndarray:
    """In bands of rows: a picture of `MAX_PIXELS` is held once by Pillow and once here, and never a third time."""
    width, height = image.size
    of_12_bits = isinstance(image, TiffImageFile) and image.tag_v2.get(258) == (12,)  # BitsPerSample
    rows = max(1, _BAND_PIXELS // width)
    if rows >= height:
        return _band_to_rgb(image, of_12_bits)
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        rgb[top : top + rows] = _band_to_rgb(image.crop((0, top, width, min(top + rows, height))), of_12_bits)
    return rgb


def _band_to_rgb(image: Image.Image, of_12_bits: bool) -> np.ndarray:
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        grey = _to_8_bits(values << 4 | values >> 8 if of_12_bits else values)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "F":
        raise Rejected("unreadable")  # floats have no range by which they could become 8 bits
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return np.array(Image.alpha_composite(white, over).convert("RGB"))
    return np.array(image.convert("RGB"))


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    """0 … 65535 → 0 … 255, rounded: 257 × 255 = 65535. Other integers are clipped first."""
    return _BYTE_OF[values if values.dtype == np.uint16 else values.clip(0, 65535)]


def _average(rgb: np.ndarray, shrink: int) -> np.ndarray:
    height, width = rgb.shape[:2]
    bottom, right = -height % shrink, -width % shrink
    if bottom or right:  # so that every block is whole; the repeated edge weighs nothing inside the photograph
        rgb = cv2.copyMakeBorder(rgb, 0, bottom, 0, right, cv2.BORDER_REPLICATE)
    return cv2.resize(rgb, (rgb.shape[1] // shrink, rgb.shape[0] // shrink), interpolation=cv2.INTER_AREA)
