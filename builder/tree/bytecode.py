"""Compiles Python sources into bytecode that never looks at its source again.

Unchecked-hash (PEP 552): a read-only tree imports at full speed whatever its files' times are, and the same
source gives the same bytes. The interpreter that runs this compiles, and must be of the target's version.
"""

from __future__ import annotations

import hashlib
import marshal
import os
import posixpath
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import FrozenImporter
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path
from types import CodeType

from builder.errors import BuildError
from builder.whole_file import whole_file

_UNCHECKED_HASH = (0b01).to_bytes(4, "little")
"""The flags of PEP 552: the hash of the source follows, and is not to be compared with it."""

_HASH_BYTES = hashlib.sha256().digest_size


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


class Compiler:
    """Compiles, or takes what an earlier build compiled out of `cache`, a folder (None: each time anew).

    An entry is named after all that decides it, and begins with the hash of the rest: a damaged one is passed
    over and made anew.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache

    def compile(self, content: bytes, jail_path: str) -> bytes | None:
        """The .pyc of the source `content`; None where that is not valid Python.

        Tracebacks show `jail_path`, whatever the source's own place is.
        """
        if self._cache is None:
            return _compile(content, jail_path)
        facts = (MAGIC_NUMBER, os.fsencode(jail_path), content)
        name = hashlib.sha256(b"".join(hashlib.sha256(fact).digest() for fact in facts)).hexdigest()
        entry = self._cache / name[:2] / name[2:]
        try:
            stored = entry.read_bytes()
        except FileNotFoundError:
            stored = b""
        if stored and hashlib.sha256(stored[_HASH_BYTES:]).digest() == stored[:_HASH_BYTES]:
            return stored[_HASH_BYTES:]
        compiled = _compile(content, jail_path)
        if compiled is not None:
            _store(entry, hashlib.sha256(compiled).digest() + compiled)
        return compiled


def _store(entry: Path, content: bytes) -> None:
    """Writes a file of the cache whole or not at all, also beside another build that does the same."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    # By a name that is nobody else's: in containers two processes have the same number.
    with whole_file(entry) as file:
        file.write(content)


def _compile(content: bytes, jail_path: str) -> bytes | None:
    with warnings.catch_warnings():
        # What a package's author wrote is not ours to complain about.
        warnings.simplefilter("ignore")
        try:
            code = compile(content, jail_path, "exec", dont_inherit=True, optimize=0)
        # ValueError: null bytes, or bytes that are no text. The others: nested deeper than a compiler goes.
        except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError):
            return None
    held = _hold_texts(code)
    compiled = MAGIC_NUMBER + _UNCHECKED_HASH + source_hash(content) + marshal.dumps(code)
    del held
    return compiled


def _hold_texts(code: CodeType) -> list[str]:
    """References to every text of the code, to be kept while it is written.

    What marshal writes of a text depends on the process: on whether it has more than one reference, which
    any module or path of this process may hold, and, for the one-letter texts that Python has once and for
    all, on whether something interned it. Held and interned, the bytes depend on the source alone.
    """
    # Only texts that are the same object everywhere may be interned: it makes others last for ever.
    return [sys.intern(text) if len(text) < 2 else text for text in _texts(code)]


def _texts(constant: object) -> Iterator[str]:
    """Every str that is part of a constant."""
    if isinstance(constant, str):
        yield constant
    elif isinstance(constant, tuple | frozenset):
        for member in constant:
            yield from _texts(member)
    elif isinstance(constant, CodeType):
        names = (constant.co_names, constant.co_varnames, constant.co_cellvars, constant.co_freevars)
        yield from _texts((constant.co_filename, constant.co_name, constant.co_qualname, *names))
        yield from _texts(constant.co_consts)
