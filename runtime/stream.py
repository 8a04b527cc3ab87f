"""What the proxy does with sockets whatever is said on them: connect, read a head, say, carry both ways."""

import _socket

from runtime.destinations import show
from runtime.loop import Cancelled, Loop
from runtime.proxy_protocol import Refusal

Socket = _socket.socket

MAX_HEAD_BYTES = 1 << 14
CHUNK_BYTES = 1 << 16
HEAD_S = 10.0
IDLE_S = 120.0
CLOSING_S = 10.0
"""As IDLE_S, of a connection whose run has closed its side."""
FAREWELL_S, MAX_FAREWELL_BYTES = 1.0, 1 << 20


class Reader:
    """What one side says before bytes are carried through, within HEAD_S and MAX_HEAD_BYTES."""

    def __init__(self, loop: Loop, source: Socket) -> None:
        self.loop = loop
        self.source = source
        self.rest = b""
        """Read, and not asked for yet."""
        self.ends = loop.now() + HEAD_S

    async def peek(self) -> int:
        """The first byte, which stays."""
        while not self.rest:
            await self._more(MAX_HEAD_BYTES)
        return self.rest[0]

    async def exactly(self, count: int) -> bytes:
        """The next `count` bytes."""
        while len(self.rest) < count:
            await self._more(MAX_HEAD_BYTES)
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    async def through(self, end: bytes, limit_bytes: int, *, and_no_more: bool = False) -> bytes:
        """Everything up to `end` and itself. `and_no_more`: the socket keeps what comes behind."""
        while (found := self.rest.find(end)) < 0:
            if len(self.rest) >= limit_bytes:
                raise Refusal(431, f"more than {limit_bytes} bytes of header")
            await self._more(1 if and_no_more else limit_bytes)
        return await self.exactly(found + len(end))

    async def _more(self, count: int) -> None:
        left = self.ends - self.loop.now()
        if left <= 0 or not await self.loop.readable(self.source.fileno(), left):
            raise OSError("the request took too long")
        try:
            part = self.source.recv(count)
        except BlockingIOError:
            return
        if not part:
            raise OSError("closed in the middle of a request")
        self.rest += part


async def connect(loop: Loop, address: bytes, port: int, ends: float) -> Socket | None:
    """A socket that is connected to a packed address; None where there is none at the time `ends`."""
    family = _socket.AF_INET if len(address) == 4 else _socket.AF_INET6
    try:
        server = Socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    except OSError:
        return None  # no IPv6 here
    try:
        try:
            server.connect((show(address).strip("[]"), port))
        except BlockingIOError:
            if not await loop.writable(server.fileno(), max(0.0, ends - loop.now())):
                raise OSError from None
        if server.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
            raise OSError
    except OSError:
        close(loop, server)
        return None
    except Cancelled:
        close(loop, server)
        raise
    return server


async def say(loop: Loop, sink: Socket, data: bytes) -> None:
    """Sends all of `data`; OSError where the other side takes nothing for long."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sink.send(rest) :]
        except BlockingIOError:
            if not await loop.writable(sink.fileno(), IDLE_S):
                raise OSError("idle") from None


async def say_last(loop: Loop, sink: Socket, data: bytes) -> None:
    """Sends all of `data` and says no more. What still comes is read: else it might not."""
    await say(loop, sink, data)
    sink.shutdown(_socket.SHUT_WR)
    ends, read = loop.now() + FAREWELL_S, 0
    while read < MAX_FAREWELL_BYTES and await loop.readable(sink.fileno(), max(0.0, ends - loop.now())):
        part = sink.recv(CHUNK_BYTES)
        if not part:
            return
        read += len(part)


def close(loop: Loop, socket: Socket) -> None:
    """Closes, and ends whoever waits for the socket. A second time it does nothing."""
    if socket.fileno() >= 0:
        loop.forget(socket.fileno())
        socket.close()


class Flow:
    """Both directions of one connection."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.moved = loop.now()
        """When a byte went through last."""
        self.idle_s = IDLE_S

    async def carry(self, client: Socket, server: Socket) -> None:
        """Carries bytes both ways until both sides have said all, or neither says anything for long."""
        back = self.loop.spawn(self._back(server, client))
        back.joined = True  # now, not only once we wait for it: it may fail before
        try:
            await self._pump(client, server)
            self.idle_s = CLOSING_S  # the run may have ended
            await back.join()
        finally:
            back.cancel()
            try:  # noqa: SIM105 - contextlib would be an import
                await back.join()
            except (OSError, Cancelled):
                pass

    async def _back(self, server: Socket, client: Socket) -> None:
        try:
            await self._pump(server, client)
        except OSError:
            for one in (server, client):  # wakes the other direction
                if one.fileno() >= 0:
                    self.loop.forget(one.fileno())
            raise

    async def _pump(self, source: Socket, sink: Socket) -> None:
        while True:
            left = self.moved + self.idle_s - self.loop.now()
            if not await self.loop.readable(source.fileno(), max(0.0, min(left, CLOSING_S))):
                if self.loop.now() - self.moved >= self.idle_s:
                    raise OSError("idle")
                continue
            try:
                part = source.recv(CHUNK_BYTES)
            except BlockingIOError:
                continue
            self.moved = self.loop.now()
            if not part:
                sink.shutdown(_socket.SHUT_WR)
                return
            await say(self.loop, sink, part)
            self.moved = self.loop.now()
