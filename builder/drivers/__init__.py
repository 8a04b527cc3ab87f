"""The ways of turning a context directory into an image, by name."""

from __future__ import annotations

from collections.abc import Callable

from builder.drivers.docker import DockerDriver
from builder.drivers.driver import BuildJob, Driver
from builder.drivers.oci import OciDriver
from builder.errors import ToolMissing, UsageError
from builder.progress import Progress

__all__ = ["DRIVERS", "BuildJob", "DockerDriver", "Driver", "OciDriver", "choose_driver"]

DRIVERS: dict[str, Callable[[], Driver]] = {"docker": DockerDriver, "oci": OciDriver}
"""Calling one connects it: ToolMissing where this machine lacks what it needs."""


def choose_driver(name: str, base_kind: str, progress: Progress) -> Driver:
    """The driver called `name`; for `auto`, Docker where it can build here, else oci. Says which, and why.

    A base of kind `image` can only be had from Docker: UsageError for `oci` with one.
    """
    if base_kind == "image" and name == "oci":
        raise UsageError(
            "the oci driver cannot take an image as its base: only Docker has images",
            "--driver docker, or a base that is made of packages, such as debian:trixie",
        )
    if name == "docker" or (name == "auto" and base_kind == "image"):
        try:
            docker = DockerDriver()
        except ToolMissing as error:
            if base_kind != "image":
                raise
            hint = "only Docker has images: start an engine, or use a base of packages, such as debian:trixie"
            raise ToolMissing(error.message, hint) from None
        why = "as asked" if name == "docker" else "the base is an image"
        progress.note(f"driver docker, {why}: {docker}")
        return docker
    if name == "auto":
        try:
            docker = DockerDriver()
        except ToolMissing as error:
            progress.note(f"driver oci: {error.message}")
            return OciDriver()
        progress.note(f"driver docker, since an engine answers: {docker}")
        return docker
    if name in DRIVERS:
        progress.note(f"driver {name}, as asked")
        return DRIVERS[name]()
    raise UsageError(f"unknown driver {name!r}: it is auto, {' or '.join(DRIVERS)}")
