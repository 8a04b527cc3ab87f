"""HTTP/1.1 on the loop's sockets: takes connections, as many as can be served, and looks after them.

Nobody who is slow keeps anybody else waiting: every wait has an end, and so has everything that is kept in
memory. What is said on a connection is connection.py's to read and to write.
"""

import _socket
import errno

from runtime import kernel
from runtime.answer import UNAVAILABLE
from runtime.connection import Connection, problem
from runtime.http_message import write_head
from runtime.loop import Loop

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

    from runtime.connection import Handler

MAX_CONNECTIONS = 2000
ACCEPTS = 64
"""Connections that are taken in one turn."""
SHORT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
REST_S = 0.1
RLIMIT_NOFILE = 7


class Front:
    """What all connections share."""

    def __init__(self, loop: Loop, handler: "Handler", settings: "Any") -> None:
        self.loop = loop
        self.handler = handler
        self.max_body_bytes: int = settings.max_body_bytes
        self.max_connections = min(MAX_CONNECTIONS, kernel.raise_limit(RLIMIT_NOFILE) // 2)
        self.held_bytes = 0
        self.connections: set[Connection] = set()
        self.idle: dict[Connection, None] = {}
        """Those that have no whole head to be answered: the one that is so longest comes first."""

    def admit(self, socket: "_socket.socket", peer: str) -> None:
        """Serves a new connection; where there are too many, in the place of one that is idle."""
        socket.setblocking(False)
        if len(self.connections) >= self.max_connections:
            if not self.idle:
                _turn_away(socket)
                socket.close()
                return
            next(iter(self.idle)).close()
        socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        connection = Connection(self, socket, peer)
        self.connections.add(connection)
        self.loop.spawn(connection.serve())


async def serve_connections(
    loop: Loop, listener: "_socket.socket", handler: "Handler", settings: "Any", log: "Any"
) -> None:
    """Serves whoever connects to `listener`, until it is cancelled: then every connection is closed."""
    front = Front(loop, handler, settings)
    kind = (listener.family, _socket.SOCK_STREAM, listener.proto)
    try:
        while True:
            await loop.readable(listener.fileno())
            try:
                for _ in range(ACCEPTS):
                    descriptor, address = listener._accept()  # type: ignore[attr-defined]  # of _socket alone
                    front.admit(_socket.socket(*kind, descriptor), address[0])
            except (BlockingIOError, ConnectionAbortedError):
                pass
            except OSError as error:
                if error.errno not in SHORT_OF_DESCRIPTORS:
                    raise
                log.error("no connection can be taken", reason=error.strerror)
                await loop.sleep(REST_S)
    finally:
        loop.forget(listener.fileno())
        listener.close()
        for connection in list(front.connections):
            connection.close()


def _turn_away(socket: "_socket.socket") -> None:
    response = problem(503, UNAVAILABLE, "too many connections")
    try:  # noqa: SIM105 - contextlib would be an import
        socket.send(write_head(response, len(response.body), False, True) + response.body)
    except OSError:
        pass  # it has gone
