"""What an sdist says of its build: read on this machine, in bounded memory, and nothing of it is unpacked."""

from __future__ import annotations

import gzip
import tarfile
import tomllib
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from packaging.requirements import InvalidRequirement, Requirement

from builder.errors import BuildError
from builder.packages.boundedzip import ENTRIES, OversizeError, check_method, opened

_DEFAULT_REQUIRES = ("setuptools>=40.8.0",)
"""Of a project that does not say what builds it (PEP 518; as pip and build have it)."""
_PYPROJECT_BYTES = 1 << 20
_TAR_BYTES = 2 << 30
_CHUNK_BYTES = 1 << 20
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
_OTHER = "ask for another version"


def static_requires(sdist: Path) -> list[str]:
    """What pyproject.toml says that the build needs."""
    text = _member(sdist, "pyproject.toml")
    if text is None:
        return list(_DEFAULT_REQUIRES)
    try:
        system = tomllib.loads(text.decode()).get("build-system", {})
        requires = system.get("requires", list(_DEFAULT_REQUIRES))
    except (ValueError, AttributeError, RecursionError):
        raise BuildError(f"{sdist.name}: its pyproject.toml cannot be read", _OTHER) from None
    return requirements_of(requires, sdist.name)


def requirements_of(texts: object, whose: str) -> list[str]:
    """Requirements that a package's code or files gave; BuildError for what cannot be locked."""
    found = []
    for text in texts if isinstance(texts, list) else [texts]:
        try:
            requirement = Requirement(str(text))
        except (InvalidRequirement, TypeError):
            raise BuildError(f"{whose}: {str(text)[:100]!r} is no requirement", _OTHER) from None
        if requirement.url:
            raise BuildError(f"{whose}: {requirement.name} from a URL cannot be locked", _OTHER)
        found.append(str(requirement))
    return found


def _member(sdist: Path, name: str) -> bytes | None:
    """A file at the top of the sdist's project; None where there is none."""
    try:
        if sdist.suffix == ".zip":
            with opened(sdist) as archive:
                for one in archive.infolist():
                    if _is_top(one.filename, name):
                        check_method(one)
                        return archive.open(one).read(_PYPROJECT_BYTES)
            return None
        with gzip.open(sdist) as tar:
            return _tar_member(tar, name)  # type: ignore[arg-type] # GzipFile is one in all but name
    except OversizeError as error:
        raise BuildError(f"{sdist.name}: {error}", _OTHER) from None
    except (
        *(tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError),
        *(NotImplementedError, RuntimeError, ValueError),
    ) as error:
        raise BuildError(f"{sdist.name}: it is no whole sdist: {error}", _OTHER) from None


def _tar_member(tar: BinaryIO, name: str) -> bytes | None:
    """Header by header: `tarfile` would read an extended header of any size into memory.

    What extended headers say is passed over: the path that is looked for needs none.
    """
    total = 0
    for _ in range(ENTRIES):
        try:
            entry = tarfile.TarInfo.frombuf(tar.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined]
            return None  # a block of zeros, or nothing more
        if entry.size < 0:
            raise ValueError("a size below zero")
        has_data = entry.isreg() or entry.type in (
            *_EXTENSIONS,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if entry.isreg() and _is_top(entry.name, name):
            return _exactly(tar, min(entry.size, _PYPROJECT_BYTES))
        left = -(-entry.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE if has_data else 0
        total += tarfile.BLOCKSIZE + left
        if total > _TAR_BYTES:
            raise OversizeError(f"unpacked it has more than {_TAR_BYTES >> 20} MiB")
        while left:
            left -= len(_exactly(tar, min(left, _CHUNK_BYTES)))
    raise OversizeError(f"it has more than {ENTRIES} entries")


def _exactly(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) != size:
        raise EOFError("it ends too early")
    return content


def _is_top(path: str, name: str) -> bool:
    return path.removeprefix("./").split("/")[1:] == [name]
