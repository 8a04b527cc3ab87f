"""Files on their way to this machine: no larger than they may be, and no server is waited for too long."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder import transfer
from builder.errors import BuildError
from builder.transfer import Transfer
from tests.wheels import wheel

Busy = tuple[str, list[tuple[int, dict[str, str]]]]


def test_a_file_is_no_larger_than_its_index_says(tmp_path: Path) -> None:
    """What comes beyond that is not even written; neither is what comes too slowly waited for."""
    path = wheel(tmp_path, "a")
    size = path.stat().st_size
    way = Transfer(threading.Event(), hint="")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert way.fetch(path.as_uri(), size, tmp_path / "copy", "a") == digest
    with pytest.raises(BuildError, match=f"a is larger than {size - 1} bytes"):
        way.fetch(path.as_uri(), size - 1, tmp_path / "copy", "a")


def test_a_silent_server_is_left_when_we_are_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its time is over; the control: as long as we are not, it is asked four times."""
    monkeypatch.setattr(transfer, "_TIMEOUT_S", (10, 0.3))
    monkeypatch.setattr(transfer, "_PAUSES_S", (0.01, 0.01, 0.01))
    for stopped, asked in ((True, 1), (False, 4)):
        with socket.create_server(("127.0.0.1", 0)) as server:
            stop = threading.Event()
            connections: list[socket.socket] = []

            def take(server: socket.socket, connections: list[socket.socket]) -> None:
                with contextlib.suppress(OSError):
                    while True:
                        connections.append(server.accept()[0])

            threading.Thread(target=take, args=(server, connections), daemon=True).start()
            if stopped:
                threading.Timer(0.1, stop.set).start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}/a"
            with pytest.raises(BuildError, match="stopped" if stopped else "timed out"):
                Transfer(stop, hint="", environ={}).fetch(url, None, tmp_path / "copy", "a")
            assert len(connections) == asked
            for connection in connections:
                connection.close()


@pytest.fixture
def busy() -> Iterator[Busy]:
    """(URL, answers) of a server that refuses with each of `answers`, and then gives the file."""
    answers: list[tuple[int, dict[str, str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers = answers.pop(0) if answers else (200, {})
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if status == 200:
                self.wfile.write(b"content")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/a", answers
        server.shutdown()


@pytest.mark.parametrize(
    ("statuses", "comes"),
    [
        *(([503], True), ([429, 500, 502], True)),
        *(([503, 404], False), ([403], False), ([503, 503, 503, 503], False)),
    ],
)
def test_a_refusal_that_may_pass_is_asked_again(
    statuses: list[int],
    comes: bool,
    busy: Busy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to three times; any other is final."""
    monkeypatch.setattr(transfer, "_PAUSES_S", (0.01, 0.01, 0.01))
    url, answers = busy
    answers += [(status, {}) for status in statuses]
    way = Transfer(threading.Event(), hint="", environ={})
    if comes:
        assert way.fetch(url, None, tmp_path / "copy", "a") == hashlib.sha256(b"content").hexdigest()
    else:
        with pytest.raises(BuildError, match=f"a cannot be fetched: {statuses[-1]} "):
            way.fetch(url, None, tmp_path / "copy", "a")
    assert answers == []


def test_who_is_asked_to_wait_stops_all_the_same(busy: Busy, tmp_path: Path) -> None:
    """However long the server wants it to be; the request itself was made."""
    url, answers = busy
    answers.append((429, {"Retry-After": "3600"}))
    stop = threading.Event()
    failed: list[BuildError] = []

    def fetch() -> None:
        try:
            Transfer(stop, hint="", environ={}).fetch(url, None, tmp_path / "copy", "a")
        except BuildError as error:
            failed.append(error)

    fetching = threading.Thread(target=fetch, daemon=True)
    fetching.start()
    while answers:
        time.sleep(0.01)
    stop.set()
    fetching.join(30)  # less than it was asked to wait, and more than any pause of its own
    assert [error.message for error in failed] == ["stopped"]


def test_a_server_that_drips_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the time-out of a single read is over."""
    monkeypatch.setattr(transfer, "_STALL_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
                for _ in range(1000):
                    connection.sendall(b"x")
                    time.sleep(0.02)

        threading.Thread(target=drip, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a-1.0-py3-none-any.whl"
        with pytest.raises(BuildError, match=r"a cannot be fetched: in 0\.5 s there came \d+ bytes"):
            Transfer(threading.Event(), hint="", environ={}).fetch(url, None, tmp_path / "copy", "a")
