"""Compiles runtime/_syscall.c for both architectures whenever the package is built or installed editable.

The compiler is the `ziglang` wheel that pyproject.toml pins: it needs no root, no system compiler and no
headers, and gives the same bytes on every machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TARGETS = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}
FLAGS = (
    *("-shared", "-fPIC", "-Os", "-std=c11", "-Wall", "-Wextra", "-Werror"),
    *("-fvisibility=hidden", "-fno-stack-protector", "-fno-sanitize=all", "-g0", "-s"),
    # No writable and executable memory, every symbol resolved at load and then read-only.
    *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack", "-Wl,--build-id=none"),
)


class NativeHook(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is private to hatchling
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        root = Path(self.root)
        for arch, target in TARGETS.items():
            output = root / "runtime" / "native" / arch / "_syscall.abi3.so"
            output.parent.mkdir(parents=True, exist_ok=True)
            source = root / "runtime" / "_syscall.c"
            compiler = [sys.executable, "-m", "ziglang", "cc", "-target", target, *FLAGS]
            subprocess.run([*compiler, "-o", str(output), str(source)], check=True)  # noqa: S603 - our own words
        build_data["artifacts"].append("runtime/native/**")
