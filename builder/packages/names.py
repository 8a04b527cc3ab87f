"""What the names of wheels and sdists say."""

from __future__ import annotations

from pathlib import Path

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from builder.errors import BuildError


def identity(filename: str) -> tuple[str, Version, bool] | None:
    """(normalized name, version, whether it is a wheel) of a file; None where its name says nothing."""
    try:
        if filename.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(filename)
            return name, version, True
        name, version = parse_sdist_filename(filename)
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None
    return name, version, False


def safe_name(filename: str) -> str:
    """`filename`, when it names a wheel or an sdist and nothing else; it was said by an index."""
    if "/" in filename or "\0" in filename or identity(filename) is None:
        raise BuildError(
            f"{filename!r} is the name of no wheel and no sdist", "another index may name it better"
        )
    return filename


def is_of(wheel: Path, name: str, version: str) -> bool:
    """Whether a wheel's file name says this name and version, in whatever spelling."""
    try:
        return identity(wheel.name) == (canonicalize_name(name), Version(version), True)
    except InvalidVersion:
        return False
