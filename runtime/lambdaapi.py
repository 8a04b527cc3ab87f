"""A client of AWS Lambda's runtime API, version 2018-06-01, on one connection.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html says what each request means. What comes back
is checked before it is believed, and nothing of it gets into a request unless it is plain text: http.client
would do neither, and be waited for at every cold start.
"""

import _socket

from runtime.loop import write_all

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from runtime.loop import Loop

VERSION = "/2018-06-01/runtime/"
MAX_ANSWER_BYTES = 6 * 1024 * 1024 + 100
"""The quota of a synchronous invocation's answer: 6 MB, with a little for its frame."""
MAX_EVENT_BYTES = 16 * 1024 * 1024
MAX_HEAD_BYTES = 64 * 1024
PATIENCE_S = 30.0
"""For anything but the next invocation, which may be hours away."""
ATTEMPTS = 3

ACCEPTED, GONE, CONTAINER_ERROR = 202, 410, 500
JSON, ERROR_JSON = "application/json", "application/vnd.aws.lambda.error+json"

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
"""What a header's name is made of: RFC 9110, in lower case."""
SINGLE = frozenset(
    ("content-length", "transfer-encoding", "lambda-runtime-aws-request-id", "lambda-runtime-deadline-ms")
)
"""Headers that mean something to us: two of one name are one too many."""
ID_BYTES = frozenset("-_.0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
MAX_ID_LENGTH = 128


class Broken(Exception):
    """The runtime API cannot be reached, or says what it should not: str() is how. There is no going on."""


class Closed(Exception):
    """The connection was closed before a byte of the answer had come."""

    def __init__(self, sent: bool) -> None:
        super().__init__("the connection was closed without an answer")
        self.sent = sent
        """Whether the whole request had gone out: then it may have been heard."""


class Reply:
    """A whole answer of the API."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __str__(self) -> str:
        return f"{self.status}: {self.body[:200].decode('utf-8', 'replace')!r}"


class Invocation:
    """One event to be answered, once, by its id."""

    def __init__(self, reply: Reply) -> None:
        """Raises Broken where the answer of invocation/next has no id that can be answered to."""
        headers = reply.headers
        self.event = reply.body
        self.id = headers.get("lambda-runtime-aws-request-id", "")
        if not self.id or len(self.id) > MAX_ID_LENGTH or not ID_BYTES.issuperset(self.id):
            raise Broken(f"the runtime API gave an event the request id {self.id[:MAX_ID_LENGTH]!r}")
        deadline = headers.get("lambda-runtime-deadline-ms", "")
        self.deadline_ms = int(deadline) if _is_number(deadline, 16) else None
        """Milliseconds since 1970, on the wall clock; None: not said."""
        self.attempt = headers.get("lambda-runtime-invocation-id", "")
        """Tells two attempts with one id apart; goes back as it came."""
        self.trace_id = headers.get("lambda-runtime-trace-id", "")
        self.function_arn = headers.get("lambda-runtime-invoked-function-arn", "")


class LambdaApi:
    """The runtime API at one address."""

    def __init__(self, loop: "Loop", address: str) -> None:
        """`address` is HOST:PORT, as in AWS_LAMBDA_RUNTIME_API; ValueError where it is not."""
        host, _, port = address.rpartition(":")
        if not host or not ID_BYTES.issuperset(host) or not _is_number(port, 5) or not 0 < int(port) < 65536:
            raise ValueError(address)
        self.host, self.port = host, int(port)
        self.loop = loop
        self.address = address
        self._socket: _socket.socket | None = None

    async def next(self) -> Invocation:
        """The next event, however long it takes."""
        for _ in range(ATTEMPTS):
            try:
                reply = await self._exchange("GET", "invocation/next", {}, b"", None)
            except Closed:
                continue  # a proxy in between, or an emulator, tired of waiting: nothing is lost
            if reply.status != 200:
                raise Broken(f"the runtime API answered invocation/next with {reply}")
            return Invocation(reply)
        raise Broken(f"the runtime API closed {ATTEMPTS} connections in a row without an event")

    async def respond(self, invocation: Invocation, answer: bytes) -> str:
        """Gives the answer, JSON; empty, or why it was not taken."""
        return await self._post(f"invocation/{invocation.id}/response", invocation.attempt, {}, JSON, answer)

    async def fail(self, invocation: Invocation, kind: str, body: bytes) -> str:
        """Says that there is no answer, and why, as error_body has it; empty, or why that was not taken."""
        path = f"invocation/{invocation.id}/error"
        return await self._post(path, invocation.attempt, _error_type(kind), ERROR_JSON, body)

    async def fail_init(self, kind: str, body: bytes) -> str:
        """Says that there will be no answers at all: before the first `next` alone."""
        return await self._post("init/error", "", _error_type(kind), ERROR_JSON, body)

    def close(self) -> None:
        """Closes the connection, if there is one."""
        if self._socket is not None:
            self.loop.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    async def _post(self, path: str, attempt: str, headers: dict[str, str], kind: str, body: bytes) -> str:
        headers = headers | {"Content-Type": kind, "Content-Length": str(len(body))}
        if attempt:
            headers["Lambda-Runtime-Invocation-Id"] = attempt
        try:
            try:
                reply = await self._exchange("POST", path, headers, body, PATIENCE_S)
            except Closed as closed:
                if closed.sent:  # it may have been heard, and one answer is all that an invocation gets
                    raise
                reply = await self._exchange("POST", path, headers, body, PATIENCE_S)
        except Closed as closed:
            return str(closed)
        if reply.status == CONTAINER_ERROR:  # "Non-recoverable state. Runtime should exit promptly."
            raise Broken(f"the runtime API answered {path} with {reply}")
        return "" if reply.status == ACCEPTED else str(reply)

    async def _exchange(
        self, method: str, path: str, headers: dict[str, str], body: bytes, patience_s: float | None
    ) -> Reply:
        """One request and its whole answer. The connection stays open if both sides want it to."""
        head = [f"{method} {VERSION}{path} HTTP/1.1", f"Host: {self.address}", "User-Agent: sandbox"]
        head += [f"{name}: {value}" for name, value in headers.items()]
        for line in head:
            if not line.isascii() or not line.isprintable():
                raise Broken(f"not a line of a request: {line[:200]!r}")
        request = "\r\n".join([*head, "", ""]).encode() + body
        if not self._is_open():
            await self._connect()
        assert self._socket is not None  # noqa: S101
        keep = False
        try:
            sent = await write_all(self.loop, self._socket.fileno(), request, PATIENCE_S)
            reply, keep = await Reading(self.loop, self._socket, patience_s, sent).reply()
        except OSError as error:
            raise Broken(f"the runtime API at {self.address}: {error.strerror}") from None
        finally:
            if not keep:
                self.close()
        return reply

    def _is_open(self) -> bool:
        """Whether there is a connection that the other side has not closed meanwhile."""
        if self._socket is None:
            return False
        try:
            self._socket.recv(1)  # the end, or what nobody asked for
        except BlockingIOError:
            return True
        except OSError:
            pass
        self.close()
        return False

    async def _connect(self) -> None:
        try:
            found = _socket.getaddrinfo(self.host, self.port, 0, _socket.SOCK_STREAM)
            family, kind, protocol, _, target = found[0]
            flags = _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
            self._socket = _socket.socket(family, kind | flags, protocol)
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            try:
                self._socket.connect(target)
            except BlockingIOError:
                if not await self.loop.writable(self._socket.fileno(), PATIENCE_S):
                    raise TimeoutError(0, "no connection in time") from None
                if failed := self._socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR):
                    raise OSError(failed, f"no connection, error {failed}") from None
        except OSError as error:
            self.close()
            raise Broken(f"the runtime API at {self.address}: {error.strerror}") from None


class Reading:
    """One answer, as it comes in."""

    def __init__(self, loop: "Loop", socket: "_socket.socket", patience_s: float | None, sent: bool) -> None:
        self.loop = loop
        self.socket = socket
        self.patience_s = patience_s
        self.sent = sent
        self.data = bytearray()
        self.begun = False

    async def reply(self) -> tuple[Reply, bool]:
        """The answer, and whether the connection may be used again."""
        status, headers, keep = parse_head(await self._until(b"\r\n\r\n", MAX_HEAD_BYTES))
        length, coding = headers.get("content-length"), headers.get("transfer-encoding")
        if coding is not None:
            if length is not None or coding.lower() != "chunked":
                raise Broken("the runtime API sent an answer of unclear length")
            body = await self._chunks()
        else:
            if length is None or not _is_number(length, 8) or int(length) > MAX_EVENT_BYTES:
                raise Broken(f"the runtime API sent an answer with the length {length!r}")
            body = await self._take(int(length))
        if self.data:
            raise Broken("the runtime API sent more than its answer")
        return Reply(status, headers, body), keep and self.sent

    async def _chunks(self) -> bytes:
        parts, size = [], 0
        while True:
            text = bytes(await self._until(b"\r\n", 1024)).partition(b";")[0].strip(b" \t").lower()
            if not text or len(text) > 8 or text.strip(b"0123456789abcdef"):
                raise Broken(f"the runtime API sent a part with the length {text[:20]!r}")
            length = int(text, 16)
            size += length
            if size > MAX_EVENT_BYTES:
                raise Broken(f"the runtime API sent an answer of more than {MAX_EVENT_BYTES} bytes")
            if not length:
                break
            parts.append(await self._take(length))
            if await self._take(2) != b"\r\n":
                raise Broken("the runtime API sent a part that is longer than it said")
        while await self._until(b"\r\n", MAX_HEAD_BYTES):
            pass  # trailers say nothing that is needed
        return b"".join(parts)

    async def _until(self, end: bytes, limit: int) -> bytes:
        """What comes before `end`, which is taken too."""
        looked = 0
        while (found := self.data.find(end, looked)) < 0:
            looked = max(0, len(self.data) - len(end) + 1)
            if looked > limit:
                raise Broken("the runtime API sent a head without end")
            await self._more()
        taken = bytes(self.data[:found])
        del self.data[: found + len(end)]
        return taken

    async def _take(self, count: int) -> bytes:
        while len(self.data) < count:
            await self._more()
        taken = bytes(self.data[:count])
        del self.data[:count]
        return taken

    async def _more(self) -> None:
        while True:
            if not await self.loop.readable(self.socket.fileno(), self.patience_s):
                raise Broken(f"the runtime API said nothing for {PATIENCE_S:.0f} s")
            try:
                part = self.socket.recv(1 << 16)
            except BlockingIOError:
                continue
            except ConnectionError:
                part = b""
            break
        if not part:
            if self.begun:
                raise Broken("the runtime API closed the connection in the middle of an answer")
            raise Closed(self.sent)
        self.data += part
        self.begun = True
        self.patience_s = PATIENCE_S


def parse_head(head: bytes) -> tuple[int, dict[str, str], bool]:
    """Status, headers (names in lower case) and whether the connection stays; Broken where it is not HTTP."""
    first, *lines = head.split(b"\r\n")
    version, _, rest = first.partition(b" ")
    code = rest[:3]
    if version not in (b"HTTP/1.1", b"HTTP/1.0") or not code.isdigit() or rest[3:4] not in (b"", b" "):
        raise Broken(f"the runtime API does not speak HTTP/1.1: {first[:200]!r}")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, content = line.lower().partition(b":")[0], b":" in line, line.partition(b":")[2]
        value = content.strip(b" \t")
        if not colon or not name or not TOKEN.issuperset(name) or any(c < 32 and c != 9 for c in value):
            raise Broken(f"the runtime API sent the header {line[:200]!r}")
        text = name.decode()
        if text in SINGLE and text in headers:
            raise Broken(f"the runtime API sent the header {text} twice")
        headers[text] = value.decode("latin-1")
    closing = "close" in headers.get("connection", "").lower() or version == b"HTTP/1.0"
    return int(code), headers, not closing


def _error_type(kind: str) -> dict[str, str]:
    return {"Lambda-Runtime-Function-Error-Type": kind}


def _is_number(text: str, digits: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= digits
