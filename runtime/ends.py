"""What the server holds of its children: the ends of their pipes."""

import _socket
import _struct
import posix

from runtime.loop import Event, Loop

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

MESSAGE_BYTES = 1 << 13
RIGHTS_BYTES = 8 * 4
MSG_CMSG_CLOEXEC, MSG_CTRUNC = 0x40000000, 8  # recvmsg(2)
MAX_SAID_BYTES = 1 << 12
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
        self.gone = False
        """No process of it is left."""
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


def control_pair() -> "tuple[_socket.socket, _socket.socket]":
    """A socket for orders and reports, the server's end, which does not block, and the other one."""
    kind = _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, kind)
    ours.setblocking(False)
    return ours, theirs


def receive(control: "_socket.socket") -> tuple[bytes, list[int]]:
    """The next report and the descriptors that it brings: none of them is for a program that we start.

    OSError where not all of them could be taken, for want of room for more.
    """
    message, ancillary, flags, _ = control.recvmsg(
        MESSAGE_BYTES, _socket.CMSG_SPACE(RIGHTS_BYTES), MSG_CMSG_CLOEXEC
    )
    rights = [
        number
        for _, kind, data in ancillary
        if kind == _socket.SCM_RIGHTS
        for number in _struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
    ]
    if flags & MSG_CTRUNC:
        close_all(rights)
        raise OSError("there are too many open descriptors")
    return message, rights


def close_all(descriptors: list[int]) -> None:
    """Closes what nobody waits for."""
    for descriptor in descriptors:
        posix.close(descriptor)


async def overhear(loop: Loop, said: int, log: "Any") -> None:
    """Logs what warm modules print in the zygote, until it has ended."""
    try:
        while True:
            await loop.readable(said)
            text = posix.read(said, MAX_SAID_BYTES)
            if not text:
                return
            log.warn("zygote printed", text=text.decode("utf-8", "replace"))
    finally:
        loop.forget(said)
        posix.close(said)
