"""What an image is, wherever it lies: in an output folder, or in a registry."""

from __future__ import annotations

from builder.inspection.facts import Check, Inspected
from builder.inspection.local import inspect_local
from builder.inspection.remote import inspect_remote
from builder.inspection.text import lines

__all__ = ["Check", "Inspected", "inspect_local", "inspect_remote", "lines"]
