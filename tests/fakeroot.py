"""Root filesystems small enough to read in a test: ELF files with nothing in them, a few modules."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from builder.arch import host_arch
from builder.tree.contents import Contents, tree_contents
from builder.tree.root import Root
from builder.tree.spec import Rule, TreeSpec

ARCH = host_arch()
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = f"python{VERSION}"
LIBRARIES = f"/usr/lib/{ARCH.triplet}"
STDLIB = f"/usr/lib/{PYTHON}"

_MACHINES = {"EM_386": 3, "EM_X86_64": 62, "EM_AARCH64": 183}
_DT_NULL, _DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_RPATH, _DT_RUNPATH = 0, 1, 5, 10, 15, 29
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3


def elf(
    *,
    needed: Iterable[str] = (),
    rpath: str = "",
    runpath: str = "",
    interpreter: str = "",
    machine: str = ARCH.elf_machine,
) -> bytes:
    """A 64-bit ELF file whose headers say this; no code."""
    strings = b"\0"
    tags = []
    for tag, text in (
        *((_DT_NEEDED, name) for name in needed),
        *([(_DT_RPATH, rpath)] if rpath else []),
        *([(_DT_RUNPATH, runpath)] if runpath else []),
    ):
        tags.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    segments = 2 + bool(interpreter)
    start = 64 + 56 * segments
    tags += [(_DT_STRTAB, start), (_DT_STRSZ, len(strings)), (_DT_NULL, 0)]
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in tags)
    dynamic_at = start + len(strings)
    interp = interpreter.encode() + b"\0"
    interp_at = dynamic_at + len(dynamic)
    size = interp_at + len(interp)

    def segment(kind: int, offset: int, length: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 4, offset, offset, offset, length, length, 1)

    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, _MACHINES[machine], 1, 0, 64, 0, 0, 64, 56, segments, 64, 0, 0)
    table = segment(_PT_LOAD, 0, size) + segment(_PT_DYNAMIC, dynamic_at, len(dynamic))
    table += segment(_PT_INTERP, interp_at, len(interp)) if interpreter else b""
    return header + table + strings + dynamic + interp


class FakeRoot(Root):
    """A folder that is filled by jail paths."""

    def write(self, jail_path: str, content: bytes | str = b"", *, mode: int = 0o644) -> Path:
        """Writes a file, its folders made."""
        path = self.host(jail_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def symlink(self, jail_path: str, target: str) -> Path:
        """Makes a link, its folders made."""
        path = self.host(jail_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
        return path


def python_root(directory: Path) -> FakeRoot:
    """A base with an interpreter of the version that runs the tests, as Debian lays it out."""
    directory.mkdir(exist_ok=True)
    root = FakeRoot(directory)
    for name in ("bin", "lib", "lib64"):
        root.host(f"/usr/{name}").mkdir(parents=True)
        root.symlink(f"/{name}", f"usr/{name}")
    program = elf(needed=["libc.so.6", "libm.so.6"], interpreter=ARCH.loader)
    root.write(f"/usr/bin/{PYTHON}", program, mode=0o755)
    root.symlink("/usr/bin/python3", PYTHON)
    root.write(f"{LIBRARIES}/ld-real.so", elf(), mode=0o755)
    folder = "/usr" + ARCH.loader.rpartition("/")[0]
    root.symlink(f"{folder}/{Path(ARCH.loader).name}", f"../lib/{ARCH.triplet}/ld-real.so")
    root.write(f"{LIBRARIES}/libc.so.6", elf())
    root.write(f"{LIBRARIES}/libm.so.6.1", elf(needed=["libc.so.6"]))
    root.symlink(f"{LIBRARIES}/libm.so.6", "libm.so.6.1")
    root.write(f"{STDLIB}/os.py", "name = 'posix'\n")
    root.write(f"{STDLIB}/json/__init__.py", "def loads(text):\n    raise ValueError(text)\n")
    root.write(f"{STDLIB}/lib-dynload/_ok.so", elf(needed=["libc.so.6"]))
    return root


def spec(**changes: object) -> TreeSpec:
    """A spec for python_root with no rules but the one about caches."""
    plain = TreeSpec(
        arch=ARCH.name,
        base="a test's base",
        python_path=f"/usr/bin/{PYTHON}",
        python_lib_path=None,
        prune=(Rule("**/__pycache__", "compiled anew"),),
        epoch=1_700_000_000,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]  # the names are TreeSpec's own


def contents(root: FakeRoot, **changes: object) -> Contents:
    """What the tree of the usual spec, with `changes`, holds of the base `root`."""
    return tree_contents(spec(**changes), root, lambda _: None)


def only_warning(found: Contents) -> str:
    """The one warning that there is."""
    (warning,) = found.warnings
    return warning
