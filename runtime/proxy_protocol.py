"""What a client says to a proxy, and what it is answered: RFC 9112's requests, RFC 1928's codes."""

from runtime.destinations import parse_host, parse_port, show

REASONS = {400: "Bad Request", 403: "Forbidden", 431: "Header Too Large", 502: "Bad Gateway", 503: "Busy"}
TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
SOCKS, TLS = 5, 0x16
"""What a client begins with that speaks no HTTP."""
HOP_BY_HOP = ("connection", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "upgrade")
"""Fields that are meant for us, or that we write anew."""
NOT_ASKED = (
    "this is the proxy of the sandbox: with network.allow, code must use the one that HTTP_PROXY names"
)


class Refusal(Exception):
    """The client gets no connection."""

    def __init__(self, status: int, why: str, raw: bytes = b"") -> None:
        """`raw` is the whole answer, where it is not HTTP."""
        super().__init__(why)
        self.status = status
        self.answer = raw or answer(status, why)


class Wanted:
    """A connection that a client asks for."""

    def __init__(
        self, name: str, address: bytes, port: int, *, socks: bool = False, forward: bytes | None = None
    ) -> None:
        """To `name`, or where that is empty to `address`; `forward` is what the server is told first."""
        self.name = name
        self.address = address
        self.port = port
        self.host = name or show(address)
        self.forward = forward or b""
        self._socks = socks
        if socks:
            self.opened = socks_answer(0)
        else:
            self.opened = b"" if forward is not None else b"HTTP/1.1 200 Connection established\r\n\r\n"
        """What tells the client that the connection is there."""

    def refused(self, refusal: Refusal) -> bytes:
        """What tells it that there is none. SOCKS has no words."""
        if not self._socks:
            return refusal.answer
        return socks_answer({403: 2, 502: 4}.get(refusal.status, 1))


def answer(status: int, why: str) -> bytes:
    """A response of ours. The sentence is the reason phrase too: of a failed CONNECT clients show no more."""
    body = f"sandbox: {why}\n".encode("ascii", "replace")
    head = f"HTTP/1.1 {status} {REASONS[status]} - ".encode() + body.rstrip(b"\n")
    fields = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head + b"\r\n" + fields.encode() + body


def socks_answer(code: int) -> bytes:
    """RFC 1928, section 6. The address behind it is one that nobody needs."""
    return bytes((5, code, 0, 1)) + bytes(6)


def parse(head: bytes) -> Wanted:
    """What a request's head, its empty line included, asks for. Refusal where it is not clear."""
    text = head.decode("latin-1")
    if any(ord(character) < 32 and character not in "\t\r\n" for character in text):
        raise Refusal(400, "a control character in the request")
    lines = text[:-4].split("\r\n")
    if any("\r" in line or "\n" in line for line in lines):
        raise Refusal(400, "a line of the request does not end in CR LF")
    method, _, rest = lines[0].partition(" ")
    target, _, version = rest.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not method or not TOKEN.issuperset(method):
        raise Refusal(400, "not an HTTP request")
    for line in lines[1:]:
        name, colon, _ = line.partition(":")
        if not colon or not name or not TOKEN.issuperset(name):
            raise Refusal(400, "a header field without a name, or a folded one")
    if method == "CONNECT":
        name, address, port = _authority(target, 0)
        return Wanted(name, address, port)
    if target[:1] == "/" or target == "*":
        raise Refusal(400, NOT_ASKED)
    scheme, found, rest = target.partition("://")
    if not found or scheme.lower() != "http":
        raise Refusal(400, "http:// URLs alone are fetched; the way to all else is CONNECT")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    name, address, port = _authority(rest[:end], 80)
    path = rest[end:].partition("#")[0]
    shown = name or show(address)
    kept = [line for line in lines[1:] if line.partition(":")[0].lower() not in HOP_BY_HOP]
    request = [
        f"{method} {path if path[:1] == '/' else '/' + path} {version}",
        f"Host: {shown}" if port == 80 else f"Host: {shown}:{port}",
        *kept,
        "Connection: close",  # what comes behind this request is meant for this server, and for no other
    ]
    return Wanted(name, address, port, forward="\r\n".join([*request, "", ""]).encode("latin-1"))


def _authority(text: str, port: int) -> tuple[str, bytes, int]:
    """(name, address, port) of HOST:PORT; `port` is the one that is meant where none is said, 0 if none."""
    if "@" in text:
        raise Refusal(400, "a user name in the address: leave out what stands before the @")
    host, colon, said = text.rpartition(":")
    if not colon or (said.endswith("]")):
        host, said = text, ""
    name, address = parse_host(host)
    number = parse_port(said) if said else port
    if not number or not (name or address):
        raise Refusal(400, "no HOST:PORT: a name, four decimal numbers, or IPv6 in brackets; and a port")
    return name, address, number
