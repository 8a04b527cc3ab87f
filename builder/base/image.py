"""An image reference as base: its files are in Docker, and the Dockerfile says FROM."""

from __future__ import annotations

from builder.arch import Arch


class ImageBase:
    """The image `reference`."""

    def __init__(self, reference: str) -> None:
        self.reference = reference

    def rootfs(self, arch: Arch) -> None:
        """None: only Docker can have it."""

    def build_rootfs(self) -> None:
        """None: only Docker can have it."""
