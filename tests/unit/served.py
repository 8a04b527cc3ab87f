"""What the tests of a server's settings share: an image's runtime.json, an environment, a mounted file."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from builder.arch import ARCHES
from builder.config import load_config
from builder.plan import make_plan

Image = Callable[[str], dict[str, Any]]

KEYED = {"API_KEY": "of-the-environment"}


@cache
def runtime_json(text: str) -> dict[str, Any]:
    """runtime.json of a config, given as text: what the builder makes of it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(text)
        config, _ = load_config(path, {})
    # Which interpreter it is the assembler finds out.
    return {**make_plan(config, ARCHES["amd64"]).spec.runtime, "python": "/usr/bin/python3.13"}


def environ(variables: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in variables.items()}


def mounted(folder: Path, content: Any) -> str:
    """The path of a file with `content`: bytes, or what is to be JSON."""
    path = folder / "mounted"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)
