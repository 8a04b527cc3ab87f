"""The proxy of network.allow: what it lets through, what it makes of requests, and what it holds out."""

from __future__ import annotations

import base64
import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from runtime import proxy, stream
from runtime.destinations import Destinations
from runtime.lookup import Lookup
from runtime.loop import Loop
from runtime.proxy import Denial, Proxy, Upstream

# The proxy forks, for each name, where a test has it in a thread.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

RUN = b"7\n"
"""What a supervisor writes before it lends the socket."""


# --- The proxy itself, on loopback


class Page(BaseHTTPRequestHandler):
    """Says what it was asked."""

    def do_GET(self) -> None:
        said = f"{self.path} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[int]:
    """The port of a web server on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Running:
    """A proxy in a thread of its own."""

    port: int
    denials: list[Denial] = field(default_factory=list)

    def open(self, run: bytes = RUN) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        connection.sendall(run)
        return connection

    def ask(self, data: bytes, run: bytes = RUN) -> bytes:
        """All that comes back."""
        with self.open(run) as connection:
            connection.sendall(data)
            return everything(connection)


def everything(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


Start = Callable[..., Running]


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts proxies with a network.allow."""
    threads, stops = [], []

    def start(*allow: str, upstream: str = "") -> Running:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        running = Running(listening.getsockname()[1])
        ready, stop = threading.Event(), socket.socketpair()

        def work() -> None:
            loop = Loop()
            through = Upstream(upstream) if upstream else None
            serving = Proxy(loop, Destinations(list(allow)), through, running.denials.append)
            loop.spawn(serving.serve(listening))
            ready.set()
            loop.run(loop.readable(stop[0].fileno()))
            listening.close()

        thread = threading.Thread(target=work)
        thread.start()
        ready.wait()
        threads.append(thread)
        stops.append(stop)
        return running

    yield start
    for one in stops:
        one[1].close()
    for thread in threads:
        thread.join()
    for one in stops:
        one[0].close()


def get(port: int, path: str = "/x", host: str = "127.0.0.1") -> bytes:
    return f"GET http://{host}:{port}{path} HTTP/1.1\r\nHost: ignored\r\n\r\n".encode()


def test_http_connect_and_socks_reach_what_is_listed(started: Start, page: int) -> None:
    """All three ways, by address and by name, whose address is listed too."""
    running = started(f"127.0.0.1:{page}", f"localhost:{page}")
    assert running.ask(get(page)).endswith(f"/x 127.0.0.1:{page}".encode())
    assert running.ask(get(page, host="LOCALHOST.")).endswith(f"/x localhost:{page}".encode())
    direct = b"GET /y HTTP/1.0\r\nHost: h\r\n\r\n"
    tunnel = f"CONNECT localhost:{page} HTTP/1.1\r\n\r\n".encode()
    said = running.ask(tunnel + direct)
    assert said.startswith(b"HTTP/1.1 200 Connection established\r\n\r\nHTTP/1.0 200 OK")
    assert said.endswith(b"/y h")
    for place in (b"\x01\x7f\0\0\x01", b"\x03\x09localhost", b"\x04" + bytes(10) + b"\xff\xff\x7f\0\0\x01"):
        said = running.ask(b"\x05\x01\0" + b"\x05\x01\0" + place + page.to_bytes(2, "big") + direct)
        assert said.startswith(b"\x05\0" + b"\x05\0\0\x01" + bytes(6) + b"HTTP/1.0 200 OK"), place
        assert said.endswith(b"/y h")
    assert running.denials == []


def test_what_is_not_listed_is_refused_in_words_and_told(started: Start, page: int) -> None:
    """403 with the line that would allow it, SOCKS's code 2; nothing reaches the server, each is reported."""
    running = started(f"localhost:{page}", "example.org:443")
    said = f'127.0.0.1:{page} is not in network.allow; to allow it: network: {{allow: ["127.0.0.1:{page}"]}}'
    for request in (get(page), f"CONNECT 127.0.0.1:{page} HTTP/1.1\r\n\r\n".encode()):
        answer = running.ask(request)
        assert answer.startswith(f"HTTP/1.1 403 Forbidden - sandbox: {said}\r\n".encode())
        assert answer.endswith(f"\r\n\r\nsandbox: {said}\n".encode())
    assert running.ask(b"\x05\x01\0\x05\x01\0\x01\x7f\0\0\x01" + page.to_bytes(2, "big")) == (
        b"\x05\0\x05\x02\0\x01" + bytes(6)
    )
    # A listed name does not open the loopback address that it has.
    assert b"localhost" in (answer := running.ask(get(page, host="localhost"))), answer
    assert b"a loopback address; to allow it: network: {allow: [" in answer
    assert [(one.run, one.host, one.port) for one in running.denials] == [
        *[(7, "127.0.0.1", page)] * 3,
        (7, "localhost", page),
    ]


def test_a_name_that_is_not_listed_is_asked_of_nobody(
    started: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could carry data to whoever answers for its domain. A listed one is asked for: the control."""
    asked: list[str] = []
    whole = Lookup.addresses

    async def addresses(self: Lookup, name: str) -> list[bytes]:
        asked.append(name)
        return await whole(self, name)

    monkeypatch.setattr(Lookup, "addresses", addresses)
    running = started("localhost:1")
    assert running.ask(b"CONNECT secret.example.org:443 HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    running.ask(b"CONNECT localhost:1 HTTP/1.1\r\n\r\n")
    assert asked == ["localhost"]


def test_a_direct_connection_gets_an_answer_that_its_protocol_has(started: Start) -> None:
    """Code that does not ask for the proxy lands here all the same: HTTP gets words, TLS an alert."""
    running = started("example.org:443")
    assert b"HTTP_PROXY" in running.ask(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n")
    assert running.ask(b"\x16\x03\x01\0\x05hello") == bytes.fromhex("15030100020231")


@pytest.mark.parametrize("data", [b"\0\0\0\x08\x04\xd2\x16\x2f", b"*1\r\n$4\r\nPING\r\n", b"\0"])
def test_a_client_of_a_database_is_answered_at_once(started: Start, data: bytes) -> None:
    """It waits for an answer to its first words, and would not send the end of a header."""
    assert b"HTTP_PROXY" in started("example.org:443").ask(data)


@pytest.mark.parametrize("data", [b"\x05\0", b"\x05\x01\x02", b"\x05\x02\x01\x02"])
def test_socks_with_a_password_is_refused(started: Start, data: bytes) -> None:
    """There are no users."""
    assert started("example.org:443").ask(data) == b"\x05\xff"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"\x05\x02\0\x01\x01\x01\x01\x01\0\x50", 7),
        (b"\x05\x03\0\x01\x01\x01\x01\x01\0\x50", 7),
        (b"\x05\x01\0\x07\x01\x01\x01\x01\0\x50", 8),
        (b"\x05\x01\0\x03\x05127.1\0\x50", 2),
        (b"\x05\x01\0\x01\x01\x01\x01\x01\0\0", 2),
    ],
)
def test_socks_connects_and_nothing_else(started: Start, request_: bytes, code: int) -> None:
    """BIND, UDP ASSOCIATE, an unknown kind of address, no host, no port."""
    said = started("*:*").ask(b"\x05\x01\0" + request_)
    assert said == b"\x05\0" + bytes((5, code, 0, 1)) + bytes(6)


@pytest.mark.parametrize(
    "run", [b"x\n", b"0\n", b"\n", b"-1\n", b"123456789012345\n", b"GET / HTTP/1.1\r\n\r\n"]
)
def test_whoever_is_no_supervisor_gets_nothing(started: Start, run: bytes) -> None:
    """The first line says which run it is; the code of a run cannot write it."""
    running = started("127.0.0.1:1")
    with running.open(run) as connection:
        assert hung_up(connection)


def hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_one_run_has_only_so_many_connections(started: Start, page: int) -> None:
    """The others are still served."""
    running = started(f"127.0.0.1:{page}")
    open_ = [running.open() for _ in range(proxy.MAX_OF_RUN)]
    assert b"HTTP/1.1 503 " in eventually(lambda: running.ask(get(page)), b"503")
    assert b"HTTP/1.0 200 " in running.ask(get(page), b"8\n")
    for connection in open_:
        connection.close()
    assert b"HTTP/1.0 200 " in eventually(lambda: running.ask(get(page)), b"200")


def eventually(ask: Callable[[], bytes], wanted: bytes) -> bytes:
    """The answer that has `wanted` in it: what was done just before may not have been seen yet."""
    for _ in range(200):
        try:
            answer = ask()
        except ConnectionResetError:
            answer = b""  # turned away
        if wanted in answer:
            return answer
    raise AssertionError(answer)


def test_all_runs_have_only_so_many_connections(started: Start, page: int) -> None:
    """Beyond, they are closed at once; when one ends there is room again."""
    running = started(f"127.0.0.1:{page}")
    open_ = [running.open(b"%d\n" % (1 + at // 60)) for at in range(proxy.MAX_CONNECTIONS)]
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as one_more:
        with contextlib.suppress(OSError):
            one_more.sendall(b"99\n" + get(page))
        assert hung_up(one_more)
    for connection in open_:
        connection.close()
    answer = eventually(lambda: running.ask(get(page), b"99\n"), b" 200 ")
    assert answer.startswith(b"HTTP/1.0 200 ")


def test_a_head_has_an_end(started: Start) -> None:
    """Without one, after 16 KiB or some time, the connection is closed."""
    running = started("example.org:443")
    assert running.ask(b"GET http://example.org/ HTTP/1.1\r\nX: " + b"x" * (1 << 15)).startswith(
        b"HTTP/1.1 431 "
    )


def test_whoever_says_nothing_is_not_waited_for(started: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a request, in the middle of one, and while bytes are carried."""
    monkeypatch.setattr(stream, "HEAD_S", 0.1)
    monkeypatch.setattr(stream, "IDLE_S", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))
    port = silent.getsockname()[1]
    running = started(f"127.0.0.1:{port}")
    for said in (b"", b"CONNECT exam", b"\x05", b"\x05\x01\0\x05\x01"):
        with running.open() as connection:
            connection.sendall(said)
            assert everything(connection) in (b"", b"\x05\0"), said
    with running.open() as connection:
        connection.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
        assert everything(connection) == b"HTTP/1.1 200 Connection established\r\n\r\n"
    silent.close()


def test_megabytes_go_both_ways_at_once(started: Start) -> None:
    """Neither direction waits for the other, and each may end before the other."""
    echo = socket.create_server(("127.0.0.1", 0))
    port = echo.getsockname()[1]

    def work() -> None:
        connection, _ = echo.accept()
        with connection:
            while part := connection.recv(1 << 16):
                connection.sendall(part)
            connection.sendall(b"end")

    thread = threading.Thread(target=work)
    thread.start()
    data = random.Random(1).randbytes(8 << 20)
    with started(f"127.0.0.1:{port}").open() as connection:
        connection.sendall(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode())
        head = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert connection.recv(len(head), socket.MSG_WAITALL) == head

        def send() -> None:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert everything(connection) == data + b"end"
        sender.join()
    thread.join()
    echo.close()


# --- Through another proxy


@dataclass
class Between:
    """A proxy that answers CONNECT with what it is told, then says who was asked for."""

    answer: bytes
    heads: list[bytes] = field(default_factory=list)

    def serve(self, listening: socket.socket, times: int) -> None:
        for _ in range(times):
            connection, _ = listening.accept()
            with connection:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    head += connection.recv(1)
                self.heads.append(head)
                connection.sendall(self.answer)
                if b" 200 " in self.answer:
                    connection.recv(1 << 16)
                    connection.sendall(b"from behind")


def through(between: Between, started: Start, allow: Sequence[str], *requests: bytes) -> list[bytes]:
    """The answers to `requests` of a proxy that has to go through `between`."""
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=between.serve, args=(listening, len(requests)))
    thread.start()
    url = f"http://us%65r:p%40ss@127.0.0.1:{listening.getsockname()[1]}"
    running = started(*allow, upstream=url)
    answers = [running.ask(request) for request in requests]
    thread.join()
    listening.close()
    return answers


def test_a_listed_name_goes_through_the_configs_own_proxy_unresolved(started: Start) -> None:
    """By CONNECT, with its user and password; a name that this machine could not resolve."""
    between = Between(b"HTTP/1.1 200 OK\r\n\r\n")
    requests = (b"CONNECT far.invalid:443 HTTP/1.1\r\n\r\nx", get(80, host="far.invalid"))
    answers = through(between, started, ["far.invalid:443", "far.invalid:80"], *requests)
    assert answers == [b"HTTP/1.1 200 Connection established\r\n\r\nfrom behind", b"from behind"]
    credentials = base64.b64encode(b"user:p@ss")
    assert between.heads[0] == (
        b"CONNECT far.invalid:443 HTTP/1.1\r\nHost: far.invalid:443\r\n"
        b"Proxy-Authorization: Basic " + credentials + b"\r\n\r\n"
    )


def test_what_the_configs_own_proxy_refuses_is_said(started: Start) -> None:
    """Its status; and nothing of its words, which are for the operator."""
    between = Between(b"HTTP/1.1 407 secret\r\n\r\n")
    (answer,) = through(between, started, ["far.invalid:443"], b"CONNECT far.invalid:443 HTTP/1.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"407" in answer
    assert b"secret" not in answer


def test_the_configs_own_proxy_is_not_asked_for_what_is_not_listed(started: Start) -> None:
    """Nor for special addresses that stand there as such."""
    running = started("far.invalid:443", "0.0.0.0/0:80", upstream="http://127.0.0.1:9")
    for place in ("near.invalid:443", "169.254.169.254:80", "127.0.0.1:80"):
        assert running.ask(f"CONNECT {place} HTTP/1.1\r\n\r\n".encode()).startswith(b"HTTP/1.1 403 "), place


@pytest.mark.parametrize(
    "url", ["socks5://a:1", "https://a:1", "http://a", "a:1", "http://127.1:3", "http://%x@a:1"]
)
def test_a_proxy_that_cannot_be_gone_through_is_refused(url: str) -> None:
    """When the server starts, not when a run connects."""
    with pytest.raises(ValueError, match="proxy"):
        Upstream(url)
