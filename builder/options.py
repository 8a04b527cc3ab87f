"""What the command line asks for, besides the config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.arch import Arch
from builder.plan import DEFAULT_EPOCH


@dataclass(frozen=True)
class Options:
    """What the command line asks for, besides the config."""

    config_path: Path
    """Beside it lies the lock file."""
    arches: Sequence[Arch]
    output: Path
    cache: Path
    driver: str = "auto"
    """auto, docker or oci."""
    tag: str | None = None
    """NAME:TAG in place of the config's."""
    push: bool = False
    if_absent: bool = False
    """Push only where the registry does not have the tag, or has it of the very same image."""
    no_cache: bool = False
    allow_missing: bool = False
    epoch: int = DEFAULT_EPOCH
    """SOURCE_DATE_EPOCH: seconds since 1970."""
    wheelhouse: Path | None = None
    """A folder of wheels, looked into before the index."""
    index: bool = True
    """Whether Python packages may come from an index."""
    registry_cache: str | None = None
    """HOST[:PORT]/NAME:TAG, where locked files are taken from, and kept."""
