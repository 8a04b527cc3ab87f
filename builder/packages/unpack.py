"""Wheels, installed into a folder: exactly their files, the same bytes and modes on every machine."""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from builder.arch import Arch
from builder.errors import BuildError
from builder.packages import uv
from builder.packages.wheel import GENERATED, STARTUP, Content, Wheel, overlaps, read_wheel
from builder.progress import Progress


def unpack(
    files: Mapping[Path, str],
    target: Path,
    python_version: str,
    arch: Arch,
    progress: Progress,
    *,
    programs: str | None = None,
) -> None:
    """Installs wheels, each with its SHA-256, into the new folder `target`; BuildError for one not in order.

    With `programs`, the path of an interpreter, their programs are installed too, to be run by it.
    """
    with ThreadPoolExecutor(2) as pool:
        wheels = list(pool.map(read_wheel, files))
    if problem := next(overlaps(wheels), None):
        raise BuildError(problem, "leave one of the two out: the order would decide which of them is there")
    target.mkdir()
    if wheels:
        uv.install(files, target, python_version, arch, progress)
    for wheel in wheels:
        for name in wheel.dropped:
            if STARTUP.fullmatch(name) and programs is None:
                progress.note(f"{wheel.title}: {name} is left out: no package runs code when Python starts")
    _tidy(target, wheels, programs)


def _tidy(target: Path, wheels: Sequence[Wheel], programs: str | None) -> None:
    expected: dict[str, Content] = {}
    for wheel in wheels:
        expected |= wheel.files
    for path in sorted(target.rglob("*"), reverse=True):
        name = path.relative_to(target).as_posix()
        if path.is_dir() and not path.is_symlink():
            if any(path.iterdir()):
                path.chmod(0o755)
            else:
                path.rmdir()
        elif name in expected and not path.is_symlink():
            content = expected.pop(name)
            if path.stat().st_size != content.size:
                raise BuildError(f"{name!r} was not installed whole", "run this again")
            path.chmod(0o755 if content.executable else 0o644)
        elif programs is not None and name.startswith("bin/"):
            path.write_bytes(_run_by(programs, path.read_bytes()))
            path.chmod(0o755)
        else:
            path.unlink()
    if expected:
        raise BuildError(f"{min(expected)!r} was not installed", "this is a bug in sandbox-build")
    target.chmod(0o755)
    for wheel in wheels:
        for name, text in GENERATED.items():
            _write(target / wheel.info / name, text)
        _write(target / wheel.info / "RECORD", _record(wheel))


def _run_by(interpreter: str, program: bytes) -> bytes:
    """A program that uv wrote for the interpreter that runs us, for `interpreter`."""
    lines = program.split(b"\n")
    if lines[0] == b"#!/bin/sh" and lines[1].startswith(b"'''exec' "):
        # The way round the limit of a first line's length.
        return b"\n".join([b"#!" + interpreter.encode(), *lines[3:]])
    if lines[0] == b"#!" + sys.executable.encode():
        return b"\n".join([b"#!" + interpreter.encode(), *lines[1:]])
    return program


def _record(wheel: Wheel) -> bytes:
    rows = [(name, content.sha256, content.size) for name, content in wheel.files.items()]
    for name, text in GENERATED.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text).digest()).rstrip(b"=").decode()
        rows.append((f"{wheel.info}/{name}", f"sha256={digest}", len(text)))
    lines = [f"{_quoted(name)},{digest},{size}\n" for name, digest, size in sorted(rows)]
    return "".join([*lines, f"{_quoted(wheel.info)}/RECORD,,\n"]).encode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if "," in name or '"' in name else name


def _write(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o644)
