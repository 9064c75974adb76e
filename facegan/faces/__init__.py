"""Photo → faces → pixels: decode, detect (and its models), crop."""

import os

from facegan.faces.decode import MAX_PIXELS

# Photographs are judged by their headers; this is for what a header hides. OpenCV reads it once, when it loads.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))
