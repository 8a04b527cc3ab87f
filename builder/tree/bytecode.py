"""Compiles Python sources into bytecode that never looks at its source again.

Unchecked-hash (PEP 552): a read-only tree imports at full speed whatever its files' times are, and the same
source gives the same bytes. The interpreter that runs this compiles, and must be of the target's version.
"""

from __future__ import annotations

import posixpath
import py_compile
import sys
import warnings
from importlib.machinery import FrozenImporter
from pathlib import Path

from builder.errors import BuildError


def check_version(version: tuple[int, int], base: str) -> None:
    """BuildError unless this interpreter writes the bytecode that `version` reads."""
    running = sys.version_info[:2]
    if running != version:
        wanted, have = (".".join(map(str, v)) for v in (version, running))
        raise BuildError(
            f"the bytecode of Python {wanted} in {base} cannot be compiled by Python {have}",
            "run the assembler with the base's own interpreter for this machine",
        )


def cache_path(jail_path: str) -> str:
    """Where the import system looks for the bytecode of a source."""
    folder, name = posixpath.split(jail_path)
    tag = sys.implementation.cache_tag
    return posixpath.join(folder, "__pycache__", f"{name.removesuffix('.py')}.{tag}.pyc")


def is_frozen(jail_path: str, stdlib: str) -> bool:
    """Whether the source's module is built into the interpreter, so that bytecode in a file is never read."""
    name = posixpath.relpath(jail_path, stdlib).removesuffix(".py").removesuffix("/__init__")
    return FrozenImporter.find_spec(name.replace("/", ".")) is not None


def compile_source(source: Path, output: Path, jail_path: str) -> bool:
    """Compiles `source` into `output`; False, and no file, where it is not valid Python.

    Tracebacks show `jail_path`, whatever the source's own place is. The folder of `output` is made.
    """
    with warnings.catch_warnings():
        # What a package's author wrote is not ours to complain about.
        warnings.simplefilter("ignore")
        try:
            py_compile.compile(
                str(source),
                cfile=str(output),
                dfile=jail_path,
                doraise=True,
                optimize=0,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except py_compile.PyCompileError:
            return False
    return True
