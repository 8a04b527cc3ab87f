"""Where arm64 may differ from amd64, and why. What is listed and does not differ is a fault as well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Expected:
    """One difference."""

    case: str
    """NAME at PLACE."""
    what: str
    amd64: str | None
    arm64: str | None
    """None: there is no such line."""
    why: str


def _of_programs() -> Iterator[Expected]:
    for place in ("chroot", "landlock"):
        yield Expected(
            *(f"an exit of the runtime's, in C at {place}", "exit code", "139", "133"),
            why="what ends glibc's _exit when its call is refused is hlt on amd64 (SIGSEGV), brk on arm64 (SIGTRAP)",
        )


EXPECTED = (
    Expected(
        *("prctl at outside", "PR_SET_SYSCALL_USER_DISPATCH", "OK", "EINVAL"),
        why="Linux has it for architectures with the generic syscall entry, of which arm64 is none in 6.12",
    ),
    Expected(
        *("kernel doors at outside", "x", "OK", "EINVAL"),
        why="",
    ),
    *_of_programs(),
)


def due(case: str) -> dict[str, str]:
    """What arm64 says otherwise in `case`."""
    return {one.what: one.arm64 for one in EXPECTED if one.case == case and one.arm64 is not None}
