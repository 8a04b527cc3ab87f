"""A registry's front: passes requests on to a real registry, less those that it was told to spoil."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive"}


@dataclass
class Fault:
    """What happens to the next requests of a kind: a status, a cut connection, or another answer's header."""

    method: str
    path: str
    """Part of the path."""
    status: int | None = None
    """None: the connection is cut after the first bytes of the body."""
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Front(ThreadingHTTPServer):
    """Listens on a port of loopback. `seen` has (method, path, headers) of every request."""

    def __init__(self, upstream: str, address: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.token_user: tuple[str, str] | None = None
        """Asks for bearer tokens, and gives them to this user and password."""
        self.uploads_to: Front | None = None
        """Has blobs uploaded to another front."""
        super().__init__((address, 0), _Handler)

    @property
    def host(self) -> str:
        return f"{self.server_address[0]!s}:{self.server_address[1]}"

    def requests(self, method: str, path: str = "") -> int:
        """How many requests there were."""
        return sum(1 for made, where, _ in self.seen if made == method and path in where)

    def fault(self, method: str, path: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and fault.method == method and fault.path in path:
                fault.times -= 1
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def _handle(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        fault = self.server.fault(self.command, self.path)
        if fault is not None and fault.status is None:
            self.rfile.read(1)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault is not None and fault.status is not None:
            self._answer(fault.status, fault.headers, fault.body)
        elif self.server.token_user and self.path.startswith("/token"):
            self._give_token(self.server.token_user)
        elif self.server.token_user and self.headers.get("Authorization") != "Bearer opened":
            challenge = f'Bearer realm="http://{self.server.host}/token",service="front"'
            self._answer(401, {"WWW-Authenticate": challenge}, b"")
        else:
            self._pass_on(body)

    def _give_token(self, user: tuple[str, str]) -> None:
        basic = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        if self.headers.get("Authorization") == basic:
            self._answer(200, {}, json.dumps({"token": "opened"}).encode())
        else:
            self._answer(401, {}, b"")

    def _pass_on(self, body: bytes) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body, {**dict(self.headers), "Host": self.server.host})
            answer = upstream.getresponse()
            content = answer.read()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP_BY_HOP}
            if self.server.uploads_to and "Location" in headers:
                where = urlsplit(headers["Location"])
                headers["Location"] = where._replace(netloc=self.server.uploads_to.host).geturl()
            self._answer(answer.status, headers, content)
        finally:
            upstream.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _handle

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: what was asked is in `seen`."""


@contextmanager
def serving(upstream: str, address: str = "127.0.0.1") -> Iterator[Front]:
    """A front of the registry at `upstream`, HOST:PORT, that listens on `address`."""
    with Front(upstream, address) as front:
        thread = threading.Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield front
        finally:
            front.shutdown()
            thread.join()
