"""The Python packages of an image: what config.yaml asks for, locked, and installed into the cache."""

from __future__ import annotations

from builder.packages.inputs import DIFY_FILE, Inputs, read_inputs
from builder.packages.install import Packages, open_packages
from builder.packages.lockfile import Lock, Pin, arches_of, lock_path, parse_file, read_lock
from builder.packages.locking import lock
from builder.packages.wheelhouse import fill_wheelhouse

__all__ = [
    "DIFY_FILE",
    "Inputs",
    "Lock",
    "Packages",
    "Pin",
    "arches_of",
    "fill_wheelhouse",
    "lock",
    "lock_path",
    "open_packages",
    "parse_file",
    "read_inputs",
    "read_lock",
]
