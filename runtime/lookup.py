"""Asks name servers without waiting for them: a child of its own for each name.

The child asks the C library, so /etc/hosts, search lists, options and answers over TCP are what they are for
every other program of the container, and an answer that does harm does it to a process that ends anyway.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would import enum
import _socket
import posix

from runtime.destinations import parse_address
from runtime.loop import Loop, Task

SIGKILL = 9
MAX_DESCRIPTOR = 1 << 12  # above the proxy's limit of open files (egress.py)
MAX_AT_ONCE = 32
MAX_ANSWER_BYTES = 1 << 12
MAX_ADDRESSES = 8


class Busy(Exception):
    """MAX_AT_ONCE names are being looked up."""


class Lookup:
    """Addresses of names. Whoever asks for one that is being looked up waits with the first."""

    def __init__(self, loop: Loop, timeout_s: float) -> None:
        self.loop = loop
        self.timeout_s = timeout_s
        self._running: dict[str, Task] = {}

    async def addresses(self, name: str) -> list[bytes]:
        """The packed addresses of `name`, in the order to try them; none where none came in time."""
        task = self._running.get(name)
        if task is None:
            if len(self._running) >= MAX_AT_ONCE:
                raise Busy
            task = self._running[name] = self.loop.spawn(self._ask(name))
        found: list[bytes] = await task.join()
        return found

    async def _ask(self, name: str) -> list[bytes]:
        read, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        child = posix.fork()
        if child == 0:
            _answer(name, write)
        posix.close(write)
        ends, answer = self.loop.now() + self.timeout_s, b""
        try:
            while len(answer) < MAX_ANSWER_BYTES:
                if not await self.loop.readable(read, max(0.0, ends - self.loop.now())):
                    return []  # what has come so far need not be whole
                part = posix.read(read, MAX_ANSWER_BYTES)
                if not part:
                    break
                answer += part
            packed = (parse_address(line) for line in answer.decode("ascii", "replace").split("\n"))
            return [address for address in dict.fromkeys(packed) if address][:MAX_ADDRESSES]
        finally:
            del self._running[name]
            self.loop.forget(read)
            posix.close(read)
            posix.kill(child, SIGKILL)
            posix.waitpid(child, 0)


def _answer(name: str, write: int) -> None:
    """The child: writes the addresses, one a line, and ends."""
    try:
        posix.closerange(0, write)
        posix.closerange(write + 1, MAX_DESCRIPTOR)
        for number in (_signal.SIGTERM, _signal.SIGINT):
            _signal.signal(number, _signal.SIG_DFL)
        # Bytes: a str would go through the codec `idna`, more to import than all of this program.
        found = _socket.getaddrinfo(name.encode(), None, 0, _socket.SOCK_STREAM)
        posix.write(write, "\n".join(str(address[0]) for *_, address in found).encode()[:MAX_ANSWER_BYTES])
    except BaseException:  # noqa: S110 - no answer is the answer
        pass
    finally:
        posix._exit(0)
