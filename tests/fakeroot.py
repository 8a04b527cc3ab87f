"""Root filesystems small enough to read in a test: ELF files with nothing in them, a few modules."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Mapping
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
_DT_NULL, _DT_NEEDED, _DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT = 0, 1, 4, 5, 6, 10, 11
_DT_SONAME, _DT_RPATH, _DT_RUNPATH = 14, 15, 29
_DT_VERSYM, _DT_FLAGS_1 = 0x6FFFFFF0, 0x6FFFFFFB
_DT_VERDEF, _DT_VERDEFNUM, _DT_VERNEED, _DT_VERNEEDNUM = 0x6FFFFFFC, 0x6FFFFFFD, 0x6FFFFFFE, 0x6FFFFFFF
_PT_LOAD, _PT_DYNAMIC, _PT_INTERP = 1, 2, 3
NODEFLIB, PIE = 0x800, 0x08000000
"""Of DT_FLAGS_1."""


def elf(
    *,
    needed: Iterable[str] = (),
    rpath: str = "",
    runpath: str = "",
    interpreter: str = "",
    machine: str = ARCH.elf_machine,
    soname: str = "",
    versions: Iterable[str] = (),
    wanted: Mapping[str, Iterable[str]] | None = None,
    weak: bool = False,
    flags: int = 0,
    imports: Iterable[str] = (),
) -> bytes:
    """A 64-bit ELF file whose headers say this; no code. glibc's own loader takes it for a library.

    `versions` are those that it defines, `wanted` those that it needs of a library (`weak`: all of them
    weakly), `imports` the functions that it takes from wherever they are.
    """
    strings = bytearray(b"\0")

    def text(value: str) -> int:
        strings.extend(value.encode(errors="surrogateescape") + b"\0")
        return len(strings) - len(value.encode(errors="surrogateescape")) - 1

    tags = [(_DT_NEEDED, text(name)) for name in needed]
    tags += [
        (tag, text(value))
        for tag, value in ((_DT_RPATH, rpath), (_DT_RUNPATH, runpath), (_DT_SONAME, soname))
        if value
    ]
    tags += [(_DT_FLAGS_1, flags)] if flags else []
    start = 64 + 56 * (2 + bool(interpreter))
    symbols = bytes(24) + b"".join(struct.pack("<IBBHQQ", text(name), 0x12, 0, 0, 0, 0) for name in imports)
    count = len(symbols) // 24
    defined = _verdef([text(name) for name in versions], list(versions))
    asked = _verneed(
        [(text(name), [(text(one), one) for one in ones]) for name, ones in (wanted or {}).items()], weak
    )
    parts = {
        _DT_SYMTAB: symbols,
        _DT_HASH: struct.pack("<4I", 1, count, 0, 0) + bytes(4 * count),
        _DT_VERSYM: bytes(2 * count + (-2 * count) % 8),
        _DT_VERDEF: defined,
        _DT_VERNEED: asked,
        _DT_STRTAB: bytes(strings) + bytes(-len(strings) % 8),
    }
    body = b""
    for tag, part in parts.items():
        if part:
            tags.append((tag, start + len(body)))
            body += part
    tags += [(_DT_STRSZ, len(strings)), (_DT_SYMENT, 24)]
    tags += [(_DT_VERDEFNUM, len(list(versions)))] if defined else []
    tags += [(_DT_VERNEEDNUM, len(wanted or {}))] if asked else []
    dynamic = b"".join(struct.pack("<QQ", tag, value) for tag, value in (*tags, (_DT_NULL, 0)))
    dynamic_at = start + len(body)
    interp = interpreter.encode() + b"\0"
    interp_at = dynamic_at + len(dynamic)
    size = interp_at + len(interp)

    def segment(kind: int, offset: int, length: int) -> bytes:
        align = 4096 if kind == _PT_LOAD else 8
        # Writable: the loader puts its own addresses into the dynamic section.
        return struct.pack("<IIQQQQQQ", kind, 6, offset, offset, offset, length, length, align)

    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack(
        "<HHIQQQIHHHHHH", 3, _MACHINES[machine], 1, 0, 64, 0, 0, 64, 56, 2 + bool(interpreter), 64, 0, 0
    )
    table = segment(_PT_LOAD, 0, size) + segment(_PT_DYNAMIC, dynamic_at, len(dynamic))
    table += segment(_PT_INTERP, interp_at, len(interp)) if interpreter else b""
    return header + table + body + dynamic + interp


def _elf_hash(name: str) -> int:
    """The hash of the System V ABI, which the loader compares before it compares names."""
    value = 0
    for byte in name.encode():
        value = (value << 4) + byte
        value = (value ^ (value >> 24 & 0xF0)) & 0x0FFFFFFF
    return value


def _verdef(names: list[int], versions: list[str]) -> bytes:
    last = len(names) - 1
    return b"".join(
        struct.pack("<HHHHIII", 1, 0, index + 2, 1, _elf_hash(version), 20, 28 if index < last else 0)
        + struct.pack("<II", name, 0)
        for index, (name, version) in enumerate(zip(names, versions, strict=True))
    )


def _verneed(libraries: list[tuple[int, list[tuple[int, str]]]], weak: bool) -> bytes:
    result = b""
    for index, (name, versions) in enumerate(libraries):
        size = 16 + 16 * len(versions)
        result += struct.pack("<HHIII", 1, len(versions), name, 16, size if index < len(libraries) - 1 else 0)
        for number, (version_at, version) in enumerate(versions):
            following = 16 if number < len(versions) - 1 else 0
            fields = (_elf_hash(version), 2 if weak else 0, number + 2, version_at, following)
            result += struct.pack("<IHHII", *fields)
    return result


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
