"""How sharp a face is."""

from __future__ import annotations

import cv2
import numpy as np

from facegan.faces.grey import grey


def sharpness(rgb: np.ndarray) -> float:
    """Variance of the Laplacian of the picture in grey (0 … 255): the lower, the more blurred.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study". The Laplacian is the
    one of four neighbours, mirrored at the edges. All is done in integers but the last division.
    """
    laplacian = cv2.Laplacian(grey(rgb), cv2.CV_16S, ksize=1).astype(np.int64)
    count, total = laplacian.size, int(laplacian.sum())
    return (count * int((laplacian * laplacian).sum()) - total * total) / count**2
