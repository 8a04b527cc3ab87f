"""What a build knows of its own making, and the finished image does not say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.base import DebianPackage
from builder.config import Config, effective

_OF_NO_ACCOUNT = ("base_mirror", "base_snapshot", "python_pip_mirror_url", "proxy", "app")
"""Keys of the config that say where bytes are fetched, not which, or that are nobody's business."""


@dataclass(frozen=True, order=True)
class Wheel:
    """A Python package that was installed into the image."""

    name: str
    version: str
    sha256: str
    """Of the wheel file, in hexadecimal."""


@dataclass(frozen=True)
class BuildFacts:
    """The facts of one image's build: nothing of the machine and no time of day, so that they are the same
    wherever it is built again."""

    config: Mapping[str, Any]
    """What image_parameters made of it."""
    epoch: int
    """SOURCE_DATE_EPOCH: seconds since 1970."""
    builder_version: str
    wheels: tuple[Wheel, ...] = ()
    debs: tuple[DebianPackage, ...] = ()
    """Those that the base was made of; not all of them have a file in the image."""
    lock_sha256: str | None = None
    """Of config.lock; None for a config without one."""
    base_digest: str | None = None
    """sha256:HEX of a base image's manifest, where it is known."""


def image_parameters(config: Config) -> dict[str, Any]:
    """The effective config as plain data, less what decides nothing of what an image is made of."""
    return {key: value for key, value in effective(config).items() if key not in _OF_NO_ACCOUNT}
