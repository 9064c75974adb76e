"""Pictures that break image tools, gathered by others, where they lie beside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from facegan.faces.decode import Photo
from facegan.shards.format import has_photo_suffix
from tests.conftest import SHARED
from tests.faces.supersample import psnr
from tests.prep.fake import FakeDetector, run_chunk

NOT_READ = {
    "broken_data_stream.png": "truncated", "decompression_bomb.gif": "too_large", "negative_size.ppm": "unreadable",
    "truncated_image.png": "truncated", "ultrahdr.jpg": "truncated", "zero_width.gif": "unreadable",
}  # fmt: skip


@pytest.fixture(scope="module")
def awkward() -> Path:
    folder = SHARED / "data" / "awkward"
    if not folder.is_dir():
        pytest.skip("needs the awkward pictures beside the repository (../shared/data/awkward)")
    return folder


@pytest.mark.parametrize("orientation", range(9))
def test_a_landscape_is_upright_whatever_its_orientation(awkward: Path, orientation: int) -> None:
    path = awkward / "exif" / f"Landscape_{orientation}.jpg"
    turned = Photo(path.read_bytes())
    with Image.open(path) as image:
        assert np.array_equal(turned.pixels(), np.asarray(ImageOps.exif_transpose(image)))
    if orientation:
        # The eight were compressed one by one: at full size their noise leaves 28.9 dB and more between them.
        upright = Photo((awkward / "exif" / "Landscape_1.jpg").read_bytes())
        assert psnr(turned.pixels(2), upright.pixels(2)) >= 30


def test_every_picture_that_breaks_pillow_gets_an_outcome(awkward: Path, tmp_path: Path) -> None:
    paths = [path for path in sorted((awkward / "pillow").iterdir()) if has_photo_suffix(path.name.encode())]
    result = run_chunk(tmp_path, {path.name.encode(): path.read_bytes() for path in paths}, FakeDetector())
    assert {row.path: row.reason for row in result.rows} == {
        path.name: NOT_READ.get(path.name, "no_face") for path in paths
    }
    assert result.crashes == []
