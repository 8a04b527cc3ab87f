"""What the server holds of its children: the ends of their pipes."""

import posix

from runtime.loop import Event, Loop

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

FIRST_DESCRIPTOR = 10
"""Programs that the server starts get theirs below; of the server's own, none is there."""


class PoolDown(Exception):
    """Nothing can be run now: why."""


class Spare:
    """One process that is locked down and waits for its job, or has it: the server's ends of its pipes."""

    ENDS = ("stdin", "stdout", "stderr", "stderr_write", "job", "status", "pidfd", "listener", "stacks")

    def __init__(self, loop: Loop, number: int, pid: int, ends: list[int], fresh: bool) -> None:
        self.number = number
        self.pid = pid
        self.stdin, self.stdout, self.stderr, self.stderr_write, self.job, self.status, self.pidfd = ends
        for descriptor in (self.stdin, self.job):
            posix.set_blocking(descriptor, False)
        self.listener = self.stacks = -1
        self.heard = Event(loop)
        """The listener has come."""
        self.ended = Event(loop)
        self.fresh = fresh
        self.scratch = ""
        self.facts: dict[str, Any] = {}
        self.lost = False
        """It ended because its zygote did."""
        self.quarantined = False
        """Something of it could not be ended: its number is never used again."""
        self.wait_status = 0
        self.cpu_s = self.cpu_before_s = 0.0
        self.peak_memory_bytes = 0

    def end(self, status: int, cpu_s: float, peak_memory_bytes: int) -> None:
        """It has ended so, and has used that."""
        self.wait_status, self.cpu_s, self.peak_memory_bytes = status, cpu_s, peak_memory_bytes
        self.ended.set()


class Errand:
    """One that is under way: its answer comes by a pipe."""

    def __init__(self, loop: Loop) -> None:
        self.begun = Event(loop)
        self.answer = -1


def reserve_descriptors() -> None:
    """Has every descriptor below FIRST_DESCRIPTOR taken, so that none of the server's own is there."""
    while True:
        descriptor = posix.dup(2)
        if descriptor >= FIRST_DESCRIPTOR:
            posix.close(descriptor)
            return


def nothing_to_read() -> int:
    """A descriptor that gives nothing to read: /dev/null need not be there."""
    read, write = posix.pipe2(posix.O_CLOEXEC)
    posix.close(write)
    return read
