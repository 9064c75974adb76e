"""How sharp a face is."""

from __future__ import annotations

import cv2
import numpy as np


def sharpness(rgb: np.ndarray) -> float:
    """Variance of the Laplacian of the picture in grey (0 … 255): the lower, the more blurred.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy: a comparative study". Grey is ITU-R
    BT.601's luma, 0.299 R + 0.587 G + 0.114 B, rounded; the Laplacian is the one of four neighbours, mirrored at the
    edges. All is done in integers but the last division.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    laplacian = cv2.Laplacian(grey, cv2.CV_16S, ksize=1).astype(np.int64)
    count, total = laplacian.size, int(laplacian.sum())
    return (count * int((laplacian * laplacian).sum()) - total * total) / count**2
