"""libseccomp's tables: which system calls there are, by name, and their numbers on each architecture."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from types import MappingProxyType, ModuleType

from builder.arch import ARCHES, Arch
from builder.errors import ToolMissing

_BEYOND_EVERY_TABLE = 1024
_API_LEVEL = 3
"""What our filters need of the *target's* kernel: KILL_PROCESS, Linux 4.14 (seccomp_api_set(3))."""


@cache
def libseccomp() -> ModuleType:
    """The binding to libseccomp.so.2; ToolMissing (exit 3) where the library is not there."""
    try:
        import pyseccomp  # raises RuntimeError at import without the library, so not at our own import
    except RuntimeError:
        raise ToolMissing(
            "libseccomp.so.2, which compiles the system-call policy, is not installed",
            "apt-get install --no-install-recommends libseccomp2",
        ) from None
    try:
        # Else libseccomp asks the build machine's kernel what it may compile for another one.
        pyseccomp.set_api(_API_LEVEL)
    except NotImplementedError:
        raise ToolMissing("libseccomp.so.2 is older than 2.5", "install libseccomp 2.5 or later") from None
    return pyseccomp  # type: ignore[no-any-return]  # the binding has no types


def token(arch: Arch) -> int:
    """libseccomp's own value for `arch`."""
    return int(getattr(libseccomp().Arch, arch.seccomp))


def number(name: str, arch: Arch) -> int | None:
    """The number of the call `name` on `arch`; None where that architecture does not have it.

    libseccomp answers -1 for a name that it does not know, and less for one that only other architectures
    have: a rule for such a name would be taken, and never match.
    """
    resolved = int(libseccomp().resolve_syscall(token(arch), name))
    return resolved if resolved >= 0 else None


@cache
def table(arch: Arch) -> Mapping[int, str]:
    """Each system call of `arch` that libseccomp knows: its name by its number, in the order of numbers."""
    names = {}
    for candidate in range(_BEYOND_EVERY_TABLE):
        with suppress(ValueError):  # no such number
            names[candidate] = libseccomp().resolve_syscall(token(arch), candidate).decode()
    return MappingProxyType(names)


@cache
def known_names() -> frozenset[str]:
    """Every call that libseccomp knows on amd64 or on arm64."""
    return frozenset(name for arch in ARCHES.values() for name in table(arch).values())
