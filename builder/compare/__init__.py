"""Two images, compared: where they differ, which file it is, and why."""

from __future__ import annotations

from builder.compare.entries import Difference
from builder.compare.images import Compared, Image, Sent, compare, pairs

__all__ = ["Compared", "Difference", "Image", "Sent", "compare", "pairs"]
