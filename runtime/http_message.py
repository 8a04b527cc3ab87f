"""HTTP/1.1 as bytes: a request's head, its body in chunks, an answer's head. Pure.

As strict as RFC 9112 lets a server be. What a proxy in front could read in another way than we do is no
request: two lengths, a line that ends with LF alone, a space before a colon. Then its connection is closed.
"""

TYPE_CHECKING = False  # typing would be an import

MAX_HEAD_BYTES = 16 * 1024
MAX_HEADERS = 100
MAX_CHUNKS = 1 << 16
MAX_CHUNK_LINE_BYTES = 256
MAX_TRAILER_BYTES = 8 * 1024
MAX_LENGTH_DIGITS = 16

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
"""What names of methods and headers are made of: RFC 9110, 5.6.2."""
TARGET = frozenset(range(0x21, 0x7F)) - frozenset(b"#")
HOST = TOKEN - frozenset(b"#^`|") | frozenset(b":[]();,=")
CONTROLS = frozenset(range(32)) - {9} | {127}
SINGLE = frozenset(("host", "content-length", "content-type", "x-api-key", "transfer-encoding", "expect"))
"""Headers of which a second one makes a request unclear."""

REASONS = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class BadRequest(Exception):
    """The bytes are no request that is served: str() says why. The connection is to be closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Request:
    """A request. `body` is empty until it has been read."""

    def __init__(self, method: str, target: str, version_1_1: bool, headers: dict[str, str]) -> None:
        self.method = method
        self.path, _, self.query = target.partition("?")
        self.version_1_1 = version_1_1
        self.headers = headers
        """By lower-case name; what came more than once is joined with commas."""
        self.length = 0
        """Of the body in bytes; -1: it comes in chunks."""
        self.expects_continue = False
        self.keep_alive = version_1_1
        self.body = b""
        self.peer = ""


class Response:
    """An answer. `closes`: nothing more is said on its connection."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        content_type: str = "application/json; charset=utf-8",
        closes: bool = False,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers
        self.content_type = content_type
        self.closes = closes


# Heads


def find_head(data: bytearray, looked: int) -> tuple[int, int]:
    """Where the head in `data` ends (-1: not yet) and how far was looked, which is to be given next time."""
    end = data.find(b"\r\n\r\n", max(0, looked - 3))
    if end < 0:
        # A line that ends with LF alone would have us wait for an end that has come already.
        at = data.find(b"\n", looked)
        while at >= 0:
            if at == 0 or data[at - 1] != 13:
                raise BadRequest(400, "a line of the request does not end with CR LF")
            at = data.find(b"\n", at + 1)
    if (end if end >= 0 else len(data)) > MAX_HEAD_BYTES:
        raise BadRequest(431, f"the request's head is larger than {MAX_HEAD_BYTES} bytes")
    return end, len(data)


def read_head(head: bytes) -> Request:
    """The request whose head, without the empty line, is `head`; raises BadRequest."""
    first, *lines = head.split(b"\r\n")
    method, target, version_1_1 = _read_request_line(first)
    headers = read_headers(lines)
    request = Request(method, target, version_1_1, headers)
    host = headers.get("host")
    if (host is None and version_1_1) or (host and not HOST.issuperset(host.encode("latin-1"))):
        raise BadRequest(
            400, "the request has no Host header" if host is None else "the Host header is no host"
        )
    _read_framing(request, headers)
    expect = headers.get("expect")
    if expect is not None and version_1_1:
        if expect.lower() != "100-continue":
            raise BadRequest(417, "the Expect header has something else than 100-continue")
        request.expects_continue = request.length != 0
    connection = headers.get("connection")
    if connection is not None:
        options = [option.strip(" \t") for option in connection.lower().split(",")]
        request.keep_alive = "close" not in options and (version_1_1 or "keep-alive" in options)
    return request


def _read_request_line(line: bytes) -> tuple[str, str, bool]:
    words = line.split(b" ")
    if len(words) != 3:
        raise BadRequest(400, "the request's first line is not METHOD TARGET VERSION")
    method, target, version = words
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        if len(version) == 8 and version[:5] == b"HTTP/" and version[6:7] == b".":
            raise BadRequest(505, "the request is not HTTP/1.1 or HTTP/1.0")
        raise BadRequest(400, "the request's first line does not end with HTTP/1.1")
    if not method or not TOKEN.issuperset(method):
        raise BadRequest(400, "the request's method is no token")
    if not target or not TARGET.issuperset(target):
        raise BadRequest(400, "the request's target has bytes that a URL cannot have")
    if target[:1] != b"/":
        target = _origin_form(method, target)
    return method.decode(), target.decode(), version == b"HTTP/1.1"


def _origin_form(method: bytes, target: bytes) -> bytes:
    """The path of a target that is no path: RFC 9112, 3.2."""
    if target == b"*" and method == b"OPTIONS":
        return target
    scheme, sign, rest = target.partition(b"://")
    if not sign or scheme.lower() not in (b"http", b"https"):
        raise BadRequest(400, "the request's target is no path")
    authority, slash, path = rest.partition(b"/")
    host, question, query = authority.partition(b"?")
    if not host or not HOST.issuperset(host):
        raise BadRequest(400, "the request's target has no host")
    return b"/" + (question + query + slash + path if question else path)


def read_headers(lines: list[bytes]) -> dict[str, str]:
    """Header lines by lower-case name; raises BadRequest."""
    if len(lines) > MAX_HEADERS:
        raise BadRequest(431, f"the request has more than {MAX_HEADERS} headers")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or not TOKEN.issuperset(name):
            # Also a line that goes on with the one before it, and a space before the colon.
            raise BadRequest(400, "a header is not NAME: VALUE")
        if not CONTROLS.isdisjoint(value):
            raise BadRequest(400, "a header's value has a control character")
        key, text = name.decode().lower(), value.strip(b" \t").decode("latin-1")
        if key in headers:
            if key in SINGLE:
                raise BadRequest(400, f"the {key} header stands there twice")
            text = f"{headers[key]}, {text}"
        headers[key] = text
    return headers


def _read_framing(request: Request, headers: dict[str, str]) -> None:
    """Where the body ends: RFC 9112, 6.3, less everything that is unclear."""
    coding, length = headers.get("transfer-encoding"), headers.get("content-length")
    if coding is not None:
        if length is not None:
            raise BadRequest(400, "the request has both Transfer-Encoding and Content-Length")
        if not request.version_1_1:
            raise BadRequest(400, "the request is HTTP/1.0 and has Transfer-Encoding")
        if coding.lower() != "chunked":
            last = coding.lower().rpartition(",")[2].strip(" \t")
            raise BadRequest(501 if last == "chunked" else 400, "Transfer-Encoding is not chunked")
        request.length = -1
    elif length is not None:
        if not length.isascii() or not length.isdigit() or len(length) > MAX_LENGTH_DIGITS:
            raise BadRequest(400, "Content-Length is no number")
        request.length = int(length)


# Bodies


class Sized:
    """A body whose length is known."""

    def __init__(self, length: int) -> None:
        self.content = bytearray()
        """What has come so far."""
        self._left = length

    def feed(self, data: bytearray) -> bool:
        """Takes from `data` what belongs to the body; whether that was all of it."""
        part = data[: self._left]
        del data[: len(part)]
        self.content += part
        self._left -= len(part)
        return not self._left


class Chunks:
    """A body that comes in chunks: RFC 9112, 7.1. It may be cut into pieces anywhere on the way."""

    def __init__(self) -> None:
        self.content = bytearray()
        """What has come so far."""
        self._left = 0
        """Of the chunk at hand."""
        self._count = 0
        self._trailer_bytes = 0
        self._over = False
        self._state = self._read_size

    def feed(self, data: bytearray) -> bool:
        """Takes from `data` what belongs to the body; whether that was all of it. Raises BadRequest."""
        at = 0
        while True:
            taken = self._state(data, at)
            if taken < 0:
                del data[:at]
                return False
            at = taken
            if self._over:
                del data[:at]
                return True

    # Each reads from `data` at `at`, says where the next one reads, or -1 where there is too little.

    def _read_size(self, data: bytearray, at: int) -> int:
        line, end = _line(data, at, MAX_CHUNK_LINE_BYTES)
        if end < 0:
            return -1
        digits, _, extension = line.partition(b";")
        digits = digits.rstrip(b" \t") if extension else digits
        if not digits or len(digits) > MAX_LENGTH_DIGITS or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadRequest(400, "a chunk's length is no hexadecimal number")
        if not CONTROLS.isdisjoint(extension):
            raise BadRequest(400, "a chunk's extension has a control character")
        self._left = int(digits, 16)
        self._count += 1
        if self._count > MAX_CHUNKS:
            raise BadRequest(413, f"the body has more than {MAX_CHUNKS} chunks")
        self._state = self._read_data if self._left else self._read_trailer
        return end

    def _read_data(self, data: bytearray, at: int) -> int:
        part = data[at : at + self._left]
        if not part:
            return -1
        self.content += part
        self._left -= len(part)
        if not self._left:
            self._state = self._read_end
        return at + len(part)

    def _read_end(self, data: bytearray, at: int) -> int:
        end = bytes(data[at : at + 2])
        if end != b"\r\n"[: len(end)]:
            raise BadRequest(400, "a chunk is longer than it says")
        if len(end) < 2:
            return -1
        self._state = self._read_size
        return at + 2

    def _read_trailer(self, data: bytearray, at: int) -> int:
        line, end = _line(data, at, MAX_TRAILER_BYTES)
        if end < 0:
            return -1
        self._trailer_bytes += len(line)
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise BadRequest(431, f"the body's trailer is larger than {MAX_TRAILER_BYTES} bytes")
        if line:
            read_headers([line])  # nothing in it is needed, but it must be one
        else:
            self._over = True
        return end


def _line(data: bytearray, at: int, limit_bytes: int) -> tuple[bytes, int]:
    """The line at `at`, without CR LF, and where the next one begins; -1 where it is not whole."""
    end = data.find(b"\n", at, at + limit_bytes + 2)
    if end < 0:
        if len(data) - at > limit_bytes:
            raise BadRequest(400, f"a line of the body's framing is longer than {limit_bytes} bytes")
        return b"", -1
    if end == at or data[end - 1] != 13:
        raise BadRequest(400, "a line of the body's framing does not end with CR LF")
    return bytes(data[at : end - 1]), end + 1


# Answers


def write_head(response: Response, length: int, keep_alive: bool, version_1_1: bool) -> bytes:
    """The head of an answer; `length` -1: its body comes in chunks, -2: until the connection ends."""
    lines = [f"HTTP/1.1 {response.status} {REASONS.get(response.status, 'Unknown')}"]
    if response.status != 204:
        if response.body or length < 0:
            lines.append(f"Content-Type: {response.content_type}")
        if length >= 0:
            lines.append(f"Content-Length: {length}")
        elif length == -1:
            lines.append("Transfer-Encoding: chunked")
    if not keep_alive:
        lines.append("Connection: close")
    elif not version_1_1:
        lines.append("Connection: keep-alive")
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")
