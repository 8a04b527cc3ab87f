"""Clients that are slow, rude, malformed, or many: what each of them gets, and that all others are served."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.serve.conftest import Server, Serving

RUN = "/v1/sandbox/run"
MiB = 1 << 20


def connect(server: Server, timeout_s: float = 60) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=timeout_s)


def until_end(connection: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def exchange(server: Server, data: bytes) -> bytes:
    """What the server says to `data` until it closes the connection."""
    with connect(server) as connection:
        connection.sendall(data)
        return until_end(connection)


def post(server: Server, code: str, *more: str) -> bytes:
    """A request that runs `code`, as bytes."""
    body = json.dumps({"language": "python3", "code": code}).encode()
    lines = [f"POST {RUN} HTTP/1.1", "Host: x", f"X-Api-Key: {server.key}", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *more, "", ""]
    return "\r\n".join(lines).encode() + body


def answers(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Status and body of each answer in `data`, which all say their length."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        yield int(head.split()[1]), data[:length]
        data = data[length:]


def assert_serves(server: Server) -> None:
    """An ordinary client is served as ever."""
    assert server.run("print('fine')")["stdout"] == "fine\n"


@pytest.fixture(autouse=True)
def _nothing_is_lost(server: Server) -> Iterator[None]:
    """After whatever a test did: an answer, nothing counted as in flight, and no mistake of our own."""
    yield
    assert_serves(server)
    assert b"sandbox_requests_in_flight 0\n" in server.request("GET", "/metrics")[2]
    assert '"event":"internal"' not in server.logs()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\n\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n", 400),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nExpect: everything\r\n\r\n", 417),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (bytes([22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3]) + b"\r\n\r\n", 400),
    ],
)
def test_what_is_no_request(server: Server, data: bytes, status: int) -> None:
    """An answer that says why, in the form of all answers, and the end of the connection."""
    head, _, body = exchange(server, data + b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close" in head
    answer = json.loads(body)
    assert (answer["code"], answer["data"]) == (-400, None)
    assert answer["message"]


def test_pipelined_requests(server: Server) -> None:
    """Answered in their order, whatever each of them is, up to the one that closes."""
    requests = [post(server, f"print({number})") for number in range(20)]
    requests.insert(5, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
    requests.insert(10, b"\r\nGET /nothing HTTP/1.1\r\nHost: a\r\n\r\n")
    requests.append(post(server, "print('last')", "Connection: close"))
    requests.append(post(server, "print('never')"))
    got = list(answers(exchange(server, b"".join(requests))))
    assert got.pop(10)[0] == 404
    assert got.pop(5) == (200, b'"ok"')
    printed = [json.loads(body)["data"]["stdout"] for _, body in got]
    assert printed == [f"{number}\n" for number in range(20)] + ["last\n"]


def test_a_request_in_single_bytes(server: Server) -> None:
    """Is a request all the same; so is one whose body comes in chunks of one byte."""
    with connect(server) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(server, "print(7)", "Connection: close"):
            connection.sendall(bytes([byte]))
        ((status, body),) = answers(until_end(connection))
    assert (status, json.loads(body)["data"]["stdout"]) == (200, "7\n")
    head, _, text = post(server, "print(8)", "Connection: close").partition(b"\r\n\r\n")
    head = head.replace(b"Content-Length: %d" % len(text), b"Transfer-Encoding: chunked")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in text) + b"0\r\n\r\n"
    ((status, body),) = answers(exchange(server, head + b"\r\n\r\n" + chunks))
    assert (status, json.loads(body)["data"]["stdout"]) == (200, "8\n")


def test_100_continue(server: Server) -> None:
    """Said to whoever waits for it, and not to one whose body would not be read."""
    head, _, body = post(server, "print(9)", "Expect: 100-continue", "Connection: close").partition(
        b"\r\n\r\n"
    )
    with connect(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        ((status, answer),) = answers(until_end(connection))
    assert (status, json.loads(answer)["data"]["stdout"]) == (200, "9\n")
    unknown = head.replace(server.key.encode(), b"wrong")
    assert exchange(server, unknown + b"\r\n\r\n").startswith(b"HTTP/1.1 401 ")


def test_http_1_0(server: Server) -> None:
    """One request a connection, unless it asks for more."""
    assert exchange(server, b"GET /health HTTP/1.0\r\n\r\n").endswith(b'Connection: close\r\n\r\n"ok"')
    twice = b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /health HTTP/1.0\r\n\r\n"
    assert list(answers(exchange(server, twice))) == [(200, b'"ok"')] * 2


def test_100_megabytes(server: Server) -> None:
    """413 without having been kept, and the client that sends on all the same sees it."""
    before = memory(server)
    # Of one whose size is not known, as much is kept as a body may have.
    for framing, kept in (
        (b"Content-Length: %d" % (100 * MiB), 0),
        (b"Transfer-Encoding: chunked", 32 * MiB),
    ):
        head = b"POST %s HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\n" % (RUN.encode(), server.key.encode())
        with connect(server) as connection:
            connection.sendall(head + framing + b"\r\n\r\n")
            chunk = b"x" * MiB if b"Length" in framing else b"%x\r\n%b\r\n" % (MiB, b"x" * MiB)
            for _ in range(100):
                connection.sendall(chunk)
            answer = until_end(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == -400
        assert memory(server) < before + kept + 20 * MiB


def memory(server: Server) -> float:
    """The server's resident memory in bytes, as it says."""
    for line in server.request("GET", "/metrics")[2].decode().splitlines():
        if line.startswith("process_resident_memory_bytes "):
            return float(line.split()[1])
    raise AssertionError


def test_the_largest_body(server: Server) -> None:
    """app.max_body is taken to its last byte, and one more is not."""
    limit = 32 * MiB
    frame = json.dumps(
        {"language": "python3", "code": "import sys; print(len(sys.stdin.read()))", "stdin": ""}
    )
    for length, status in ((limit, 200), (limit + 1, 413)):
        body = frame.replace('""', '"' + "x" * (length - len(frame)) + '"').encode()
        headers = {"X-Api-Key": server.key, "Content-Type": "application/json"}
        got, _, answer = server.request("POST", RUN, body, headers)
        assert got == status
        if status == 200:
            assert json.loads(answer)["data"]["stdout"] == f"{limit - len(frame)}\n"


def test_too_much_at_once(server: Server) -> None:
    """Bodies at hand are bounded together: beyond that, 503, and room again once they have gone."""
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nX-Api-Key: %s\r\n" % (RUN.encode(), server.key.encode())
    head += b"Content-Length: %d\r\n\r\n" % (32 * MiB)
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(server)) for _ in range(10)]
        refused = 0
        for connection in connections:
            try:
                connection.sendall(head + b"x" * (32 * MiB - 1))
            except OSError:
                refused += 1
                continue
            connection.settimeout(0.2)
            try:
                assert connection.recv(12) == b"HTTP/1.1 503"
                refused += 1
            except TimeoutError:
                pass
        assert 1 <= refused <= 3


def test_slowloris(server: Server) -> None:
    """1,000 clients that send a byte a second: all others are served, and they are told to go after 10 s."""
    request = post(server, "print('fine')")
    began = time.monotonic()
    with ExitStack() as stack:
        slow = [stack.enter_context(connect(server)) for _ in range(1000)]
        for at in range(3):
            for connection in slow:
                connection.sendall(request[at : at + 1])
            for _ in range(20):
                assert_serves(server)
        for connection in slow[::10]:
            assert until_end(connection).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() > began + 9


def test_connections_that_ask_for_nothing(serving: Serving) -> None:
    """Beyond 2,000 the one that is idle longest makes room: whoever asks is served."""
    server = serving("--ulimit=nofile=8192:8192")
    with ExitStack() as stack:
        idle = [stack.enter_context(connect(server)) for _ in range(2100)]
        for _ in range(20):
            assert_serves(server)
        assert idle[0].recv(1) == b""
        idle[-1].sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle[-1].recv(4096).startswith(b"HTTP/1.1 200 ")
    assert_serves(server)


def test_half_requests(server: Server) -> None:
    """500 clients that leave in the middle, at any byte."""
    chance = random.Random(7)
    request = post(server, "print('half')", "Connection: close")
    for _ in range(500):
        with connect(server) as connection:
            connection.sendall(request[: chance.randrange(len(request))])
            if chance.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # by a reset


def test_answers_that_nobody_reads(server: Server) -> None:
    """A client that asks for megabytes and takes none: its run ends, and the place is free for others."""
    with ExitStack() as stack:
        for accept in ("text/event-stream", "*/*") * 4:
            connection = stack.enter_context(connect(server))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(post(server, "print('x' * 9_000_000)", f"Accept: {accept}"))
        for _ in range(20):
            assert_serves(server)


def test_fuzzed_bytes(server: Server) -> None:
    """3,000 messages, each with something wrong or not: an answer or the end, and never anything else."""
    chance = random.Random(11)
    good = [
        post(server, "print(1)", "Connection: close"),
        b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET /v1/sandbox/dependencies?language=python3 HTTP/1.0\r\nX-Api-Key: "
        + server.key.encode()
        + b"\r\n\r\n",
        b"POST /v1/sandbox/run HTTP/1.1\r\nHost: a\r\nX-Api-Key: "
        + server.key.encode()
        + b"\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\n{}x\r\n0\r\n\r\n",
    ]
    statuses = set()
    for _ in range(3000):
        data = bytearray(chance.choice(good))
        for _ in range(chance.randint(0, 3)):
            at = chance.randrange(len(data))
            data[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        with connect(server, 20) as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            answer = until_end(connection)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
        statuses.add(answer[9:12])
    assert statuses >= {b"200", b"400", b"401", b"404"}


def test_200_at_once(serving: Serving) -> None:
    """On four workers: every one answered, with its own answer."""
    server = serving(MAX_REQUESTS="250", MAX_WORKERS="4")

    def ask(number: int) -> tuple[int, str]:
        code = f"import sys\nprint({number}, sys.stdin.read())"
        return number, server.run(code, stdin=f"in {number}")["stdout"]

    with ThreadPoolExecutor(200) as threads:
        got = list(threads.map(ask, range(200)))
    assert got == [(number, f"{number} in {number}\n") for number in range(200)]


def test_a_stopping_server(serving: Serving) -> None:
    """What is under way is answered; what comes then gets 503 and the end of its connection."""
    server = serving(GRACE="10")
    with connect(server) as under_way, connect(server) as late:
        late.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        assert late.recv(4096).endswith(b'"ok"')
        under_way.sendall(post(server, "import time\ntime.sleep(2)\nprint('done')"))
        while b"sandbox_workers_busy 1\n" not in server.request("GET", "/metrics")[2]:
            time.sleep(0.01)
        stop(server)
        while server.request("GET", "/health")[0] == 200:
            time.sleep(0.01)
        late.sendall(post(server, "print(1)"))
        refusal = until_end(late)
        assert refusal.startswith(b"HTTP/1.1 503 ")
        assert json.loads(refusal.partition(b"\r\n\r\n")[2])["code"] == -503
        ((status, body),) = answers(until_end(under_way))
        assert (status, json.loads(body)["data"]["stdout"]) == (200, "done\n")


def stop(server: Server) -> None:
    """SIGTERM to its first process, as a platform sends it."""
    subprocess.run(["docker", "kill", "--signal=TERM", server.container], check=True, capture_output=True)
