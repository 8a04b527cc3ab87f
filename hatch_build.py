"""Compiles the runtime's C for both architectures whenever the package is built or installed editable.

The compiler is the `ziglang` wheel that pyproject.toml pins: it needs no root, no system compiler and no
headers, and gives the same bytes on every machine.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CPUS = {"amd64": "x86_64", "arm64": "aarch64"}
WARNINGS = ("-std=c11", "-Wall", "-Wextra", "-Werror")
FLAGS = ("-Os", "-fno-stack-protector", "-fno-sanitize=all", "-g0", "-s", "-Wl,--build-id=none")
PROGRAMS = {
    # No writable and executable memory, every symbol resolved at load and then read-only.
    "_syscall.abi3.so": (
        *("_syscall.c", "linux-gnu.2.36", "-shared", "-fPIC", "-fvisibility=hidden"),
        *("-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"),
    ),
    "init": ("init.c", "linux-musl", "-static"),
}
"""What is compiled: source, target and the flags that it has besides."""


class NativeHook(BuildHookInterface):  # type: ignore[type-arg]  # its parameter is private to hatchling
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's
        runtime = Path(self.root) / "runtime"
        for arch, cpu in CPUS.items():
            folder = runtime / "native" / arch
            folder.mkdir(parents=True, exist_ok=True)
            for name, (source, system, *flags) in PROGRAMS.items():
                compiler = [sys.executable, "-m", "ziglang", "cc", "-target", f"{cpu}-{system}"]
                files = ["-o", str(folder / name), str(runtime / source)]
                subprocess.run([*compiler, *WARNINGS, *FLAGS, *flags, *files], check=True)  # noqa: S603 - our own
        build_data["artifacts"].append("runtime/native/**")
