"""Programs of the other architecture on this machine: binfmt_misc set up as a test needs it, and put back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from builder.arch import ARCHES, host_arch
from builder.emulation import BINFMT

OTHER = next(arch for arch in ARCHES.values() if arch != host_arch())

# What Debian's qemu-user-static registers: the beginning of each ELF file of the architecture.
_MAGIC = {
    "amd64": r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x3e\x00",
    "arm64": r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
}
_MASK = r"\xff\xff\xff\xff\xff\xfe\xfe\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
_NAME = f"sandbox-tests-{os.getpid()}"


@contextmanager
def no_emulator() -> Iterator[None]:
    """Nothing runs the other architecture meanwhile, however this machine is set up."""
    if not (BINFMT / "status").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True)
    before = [path for path in BINFMT.iterdir() if path.name not in ("register", "status")]
    enabled = [path for path in before if path.read_text().startswith("enabled")]
    for path in enabled:
        path.write_text("0")
    try:
        yield
    finally:
        for path in enabled:
            path.write_text("1")


@contextmanager
def registered(flags: str) -> Iterator[None]:
    """qemu is registered for the other architecture, with these flags of binfmt_misc."""
    qemu = f"/usr/bin/qemu-{OTHER.machine}-static"
    line = f":{_NAME}:M:0:{_MAGIC[OTHER.name]}:{_MASK}:{qemu}:{flags}"
    (BINFMT / "register").write_text(line)
    try:
        yield
    finally:
        (BINFMT / _NAME).write_text("-1")


@contextmanager
def emulator() -> Iterator[None]:
    """qemu runs the other architecture, wherever the root is."""
    with no_emulator(), registered("F"):
        yield
