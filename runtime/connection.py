"""One client: reads its requests, sends the answers. What the bytes mean is http_message.py's to say."""

import _socket

from runtime.answer import BAD_REQUEST, INTERNAL, UNAVAILABLE, failure
from runtime.http_message import (
    BadRequest,
    Chunks,
    Request,
    Response,
    Sized,
    find_head,
    read_head,
    write_head,
)
from runtime.loop import Cancelled

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Protocol

    from runtime.http import Front

    class Handler(Protocol):
        """What answers requests."""

        def refuse(self, request: Request) -> Response | None:
            """The answer to a request that can be given before its body is read."""

        async def handle(self, request: Request, connection: "Connection") -> None:
            """Answers a whole request: by `connection.respond`, or in parts."""

        def malformed(self, status: int) -> None:
            """Bytes came that are no request; they are answered with `status`."""


MAX_HELD_BYTES = 256 << 20
"""Of the bodies of all requests at hand."""

HEAD_S = 10.0
"""From a head's first byte to its last."""
BODY_S = WRITE_S = 10.0
"""Without a byte read, or written."""
LEAST_BYTES_S = 4096
"""Whoever is slower than this on the whole is not waited for."""
IDLE_S = 75.0
LINGER_S, MAX_LINGER_BYTES = 3.0, 128 << 20
"""What is still read of a client that has got its last answer: it may not see it before it has sent all."""

READ_BYTES = 1 << 16
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Gone(Exception):
    """The client has gone, or does not take what it asked for."""


class Connection:
    """One client."""

    def __init__(self, front: "Front", socket: "_socket.socket", peer: str) -> None:
        self.front = front
        self.loop = front.loop
        self.socket = socket
        self.descriptor = socket.fileno()
        self.peer = peer
        self.answered = False
        """The answer to the request at hand has been begun."""
        self.bytes_out = 0
        self._data = bytearray()
        """Read, and not used yet."""
        self._held_bytes = 0
        self._request: Request | None = None
        self._in_chunks = False
        front.idle[self] = None

    # Before and after a request

    async def serve(self) -> None:
        """Answers one request after the other, until one side has had enough."""
        try:
            while await self._serve_one():
                self.front.idle[self] = None
                if self._data:
                    await self.loop.sleep(0)  # whoever has sent many at once waits for others in between
        except Gone:
            pass
        except Cancelled:
            if self.descriptor >= 0:  # else it was closed by `close`, which is all that was meant
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Closes the connection. A second time it does nothing."""
        if self.descriptor >= 0:
            self.loop.forget(self.descriptor)
            self.socket.close()
            self.descriptor = -1
            self._release()
            self.front.idle.pop(self, None)
            self.front.connections.discard(self)

    async def hung_up(self) -> None:
        """Goes on when the client has closed its side."""
        await self.loop.hung_up(self.descriptor)

    async def _serve_one(self) -> bool:
        """Answers one request; whether there may be another."""
        self._request, self.answered, self.bytes_out = None, False, 0
        handler = self.front.handler
        try:
            request = await self._read_head()
            if request is None:
                return False
            self._request = request
            refusal = handler.refuse(request)
            if refusal is None:
                await self._read_body(request)
        except BadRequest as bad:
            handler.malformed(bad.status)
            code = UNAVAILABLE if bad.status == 503 else BAD_REQUEST
            await self.respond(problem(bad.status, code, str(bad)))
            await self._linger()
            return False
        if refusal is not None:
            if request.length and not self._skip_body(request):
                request.keep_alive = False
            await self.respond(refusal)
        else:
            await self._handle(request)
        if not request.keep_alive:
            await self._linger()
        return request.keep_alive

    async def _handle(self, request: Request) -> None:
        try:
            await self.front.handler.handle(request, self)
        except Gone:
            raise
        except Exception as error:
            self.loop.on_crash(error)
            if self.answered:
                raise Gone from None
            await self.respond(problem(500, INTERNAL, "a mistake of the sandbox's own: its log says more"))
        finally:
            self._release()

    # Reading

    async def _read_head(self) -> Request | None:
        """The next request, without its body; None where there is no other one for long."""
        data, looked, ends = self._data, 0, 0.0
        while True:
            while data[:2] == b"\r\n":  # left by a client of long ago, RFC 9112, 2.2
                del data[:2]
                looked = 0
            if data:
                end, looked = find_head(data, looked)
                if end >= 0:
                    break
                ends = ends or self.loop.now() + HEAD_S
            if not await self._more(ends - self.loop.now() if ends else IDLE_S):
                if ends:
                    raise BadRequest(408, f"the request's head took longer than {HEAD_S:.0f} s")
                return None
        self.front.idle.pop(self, None)
        request = read_head(bytes(data[:end]))
        del data[: end + 4]
        request.peer = self.peer
        return request

    async def _read_body(self, request: Request) -> None:
        """Fills `request.body`."""
        length, data = request.length, self._data
        if length == 0:
            return
        limit_bytes = self.front.max_body_bytes
        if length > limit_bytes:
            raise BadRequest(
                413, f"the body has {length} bytes: at most {limit_bytes} are taken (app.max_body)"
            )
        if 0 < length <= len(data):
            request.body = bytes(data[:length])
            del data[:length]
            return
        if request.expects_continue and not data:
            await self._send(CONTINUE)
        began = self.loop.now()
        body = Sized(length) if length > 0 else Chunks()
        while not body.feed(data):
            self._hold(len(body.content))
            ends = began + BODY_S + len(body.content) / LEAST_BYTES_S
            if not await self._more(min(BODY_S, ends - self.loop.now())):
                raise BadRequest(408, "the request's body comes too slowly")
        self._hold(len(body.content))
        request.body = bytes(body.content)

    def _skip_body(self, request: Request) -> bool:
        """Passes over the body, where it is here already; else nobody waits for it."""
        if 0 < request.length <= len(self._data):
            del self._data[: request.length]
            return True
        return False

    async def _more(self, patience_s: float) -> bool:
        """Reads what there is into `_data`; False where nothing comes in time, Gone where nothing will."""
        if patience_s <= 0 or not await self.loop.readable(self.descriptor, patience_s):
            return False
        try:
            part = self.socket.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            raise Gone from None
        if not part:
            raise Gone
        self._data += part
        return True

    def _hold(self, size_bytes: int) -> None:
        """Counts what is kept of a body; raises BadRequest where that is too much, of this one or of all."""
        front = self.front
        if size_bytes > front.max_body_bytes:
            raise BadRequest(413, f"the body has more than {front.max_body_bytes} bytes: app.max_body")
        front.held_bytes += size_bytes - self._held_bytes
        self._held_bytes = size_bytes
        if front.held_bytes > MAX_HELD_BYTES:
            raise BadRequest(503, "too many large requests at once: try again")

    def _release(self) -> None:
        self.front.held_bytes -= self._held_bytes
        self._held_bytes = 0

    # Writing

    async def respond(self, response: Response) -> None:
        """Sends a whole answer to the request at hand; raises Gone."""
        request = self._request
        keep_alive = request is not None and request.keep_alive and not response.closes
        if request is not None:
            request.keep_alive = keep_alive
        self.answered = True
        version_1_1 = request is None or request.version_1_1
        head = write_head(response, len(response.body), keep_alive, version_1_1)
        body = b"" if request is not None and request.method == "HEAD" else response.body
        if len(body) < READ_BYTES:
            await self._send(head + body)
        else:
            await self._send(head)
            await self._send(body)

    async def begin(self, response: Response) -> None:
        """Sends the head of an answer whose body comes in parts: by `part`, and then `end`."""
        request = self._request
        assert request is not None  # noqa: S101 - there is one while it is handled
        self.answered = True
        self._in_chunks = request.version_1_1
        request.keep_alive = request.keep_alive and self._in_chunks and not response.closes
        length = -1 if self._in_chunks else -2
        await self._send(write_head(response, length, request.keep_alive, request.version_1_1))

    async def part(self, data: bytes) -> None:
        """Sends a part of the answer that was begun."""
        if data:
            await self._send(b"%x\r\n%b\r\n" % (len(data), data) if self._in_chunks else data)

    async def end(self) -> None:
        """Ends the answer that was begun."""
        if self._in_chunks:
            await self._send(b"0\r\n\r\n")

    async def _send(self, data: bytes) -> None:
        self.bytes_out += len(data)
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            raise Gone from None
        if sent < len(data):
            await self._send_rest(memoryview(data)[sent:])

    async def _send_rest(self, rest: memoryview) -> None:
        began, sent = self.loop.now(), 0
        while rest:
            ends = began + WRITE_S + sent / LEAST_BYTES_S
            patience_s = min(WRITE_S, ends - self.loop.now())
            if patience_s <= 0 or not await self.loop.writable(self.descriptor, patience_s):
                raise Gone
            try:
                count = self.socket.send(rest)
            except BlockingIOError:
                continue
            except OSError:
                raise Gone from None
            rest = rest[count:]
            sent += count

    async def _linger(self) -> None:
        """Says no more, and reads on for a while: a client that is reset meanwhile may lose its answer."""
        try:
            self.socket.shutdown(_socket.SHUT_WR)
        except OSError:
            raise Gone from None
        self._data.clear()
        self.front.idle[self] = None
        ends, read = self.loop.now() + LINGER_S, 0
        while read < MAX_LINGER_BYTES and await self._more(ends - self.loop.now()):
            read += len(self._data)
            self._data.clear()


def problem(status: int, code: int, message: str) -> Response:
    """The answer after which nothing is read any more."""
    return Response(status, failure(code, message), closes=True)
