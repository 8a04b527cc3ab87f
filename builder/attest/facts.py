"""What a build knows of its own making, and the finished image does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, order=True)
class Wheel:
    """A Python package that was installed into the image."""

    name: str
    version: str
    sha256: str
    """Of the wheel file, in hexadecimal."""


@dataclass(frozen=True, order=True)
class Deb:
    """A Debian package that the base was made of; not all of them have a file in the image."""

    name: str
    version: str
    architecture: str
    sha256: str
    """Of the .deb file, in hexadecimal."""
    source: str = ""
    """The source package: NAME, or NAME VERSION where the version is another one."""


@dataclass(frozen=True)
class BuildFacts:
    """The facts of one image's build: nothing of the machine and no time of day, so that they are the same
    wherever it is built again."""

    config: Mapping[str, Any]
    """The effective config as plain data, secrets masked: builder.config.effective."""
    epoch: int
    """SOURCE_DATE_EPOCH: seconds since 1970."""
    builder_version: str
    wheels: tuple[Wheel, ...] = ()
    debs: tuple[Deb, ...] = ()
    lock_sha256: str | None = None
    """Of config.lock; None for a config without one."""
    base_digest: str | None = None
    """sha256:HEX of a base image's manifest, where it is known."""
