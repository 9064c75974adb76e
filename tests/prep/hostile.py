"""Photographs that break image tools, each with the outcome it must get. All are made of one portrait, or of nothing.

What can be read is kept, whatever its suffix says; what lacks rows is ``truncated``; what claims more pixels than
`MAX_PIXELS` is ``too_large``; what is too small or too thin for a face has ``no_face``; all else is ``unreadable``.
"""

from __future__ import annotations

from tests.prep.hostile_jpeg import JPEGS
from tests.prep.hostile_other import OTHERS
from tests.prep.hostile_png import PNGS

KINDS = [*JPEGS, *PNGS, *OTHERS]
