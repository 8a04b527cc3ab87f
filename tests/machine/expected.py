"""Where arm64 may differ from amd64, and why. What is listed and does not differ is a fault as well."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.machine.programs import EVERYWHERE


@dataclass(frozen=True)
class Expected:
    """One difference."""

    case: str
    """NAME at PLACE."""
    what: str
    """An attack, or a line: comparing.py names them."""
    amd64: str | None
    arm64: str | None
    """None: there is no such line."""
    why: str


def _exits() -> Iterator[Expected]:
    for place in ("chroot", "landlock"):
        yield Expected(
            *(f"an exit of the runtime's, in C at {place}", "exit code", "139", "133"),
            why="what ends glibc's refused _exit: hlt on amd64 (SIGSEGV), brk on arm64 (SIGTRAP)",
        )


def _chown() -> Iterator[Expected]:
    sentence = "sandbox: denied {call}; to allow it: syscalls: {{allow: [{call}]}}\n"
    for place in EVERYWHERE:
        for what, one in {
            "stderr 5": sentence,
            "denied 5, call": '"{call}"',
            "denied 5, allow": '"syscalls: {{allow: [{call}]}}"',
        }.items():
            yield Expected(
                *(f"what is denied at {place}", what, one.format(call="chown"), one.format(call="fchownat")),
                why="arm64 has no chown(2): glibc makes fchownat(2) of it",
            )
        for call, counts in {"chown": ("1", None), "fchownat": (None, "1")}.items():
            yield Expected(
                *(f"what is denied at {place}", f"count of {call}: syscalls: {{allow: [{call}]}}", *counts),
                why="the same",
            )


EXPECTED = (
    Expected(
        *("prctl at outside", "PR_SET_SYSCALL_USER_DISPATCH", "OK", "EINVAL"),
        why="Linux 6.12 has it for architectures with the generic syscall entry, of which arm64 is none",
    ),
    *_exits(),
    *_chown(),
)


def due(case: str) -> dict[str, str]:
    """What arm64 says otherwise in `case`."""
    return {one.what: one.arm64 for one in EXPECTED if one.case == case and one.arm64 is not None}
