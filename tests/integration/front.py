"""A registry's front: passes requests on to a real registry, less those that it was told to spoil."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
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
    after: int = 0
    """So many requests of the kind are let through first."""


class Front(ThreadingHTTPServer):
    """Listens on a port of loopback. `seen` has (method, path, headers) of every request."""

    def __init__(self, upstream: str, address: str) -> None:
        self.upstream = upstream
        self.faults: list[Fault] = []
        self.meanwhile: list[tuple[str, str, Callable[[], object]]] = []
        """(method, part of the path, what somebody else does just before the next such request)."""
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.token_user: tuple[str, str] | None = None
        """Asks for bearer tokens, and gives them to this user and password."""
        self.token_requests = 1 << 30
        """After so many requests a token has expired."""
        self.tokens: dict[str, int] = {}
        """The tokens that were given, each with how often it was shown."""
        self.uploads_to: Front | None = None
        """Has blobs uploaded to another front."""
        self.redirects_to: Front | None = None
        """Sends requests for blobs, and uploads, to another front, with 307."""
        self.locations = "absolute"
        """Or `relative`: how it says where to upload to."""
        self.hidden: set[str] = set()
        """Headers, in lower case, that its answers do not have."""
        self.lists_referrers = False
        """Has the referrers API, which the registry behind it lacks."""
        self.page = 100
        """So many referrers are in one answer."""
        self._referrers: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        super().__init__((address, 0), _Handler)

    @property
    def host(self) -> str:
        return f"{self.server_address[0]!s}:{self.server_address[1]}"

    def requests(self, method: str, path: str = "") -> int:
        """How many requests there were."""
        return len(self.paths(method, path))

    def paths(self, method: str, path: str = "") -> list[str]:
        """The paths of these requests, in their order."""
        return [where for made, where, _ in self.seen if made == method and path in where]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing where somebody gave up what he had asked for."""
        if not isinstance(sys.exception(), OSError | http.client.HTTPException):
            super().handle_error(request, client_address)

    def fault(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and fault.path in path:
                    if fault.after > 0:
                        fault.after -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def others_act(self, method: str, path: str) -> None:
        with self._lock:
            due = [entry for entry in self.meanwhile if entry[0] == method and entry[1] in path]
            self.meanwhile = [entry for entry in self.meanwhile if entry not in due]
        for _, _, act in due:
            act()

    def new_token(self) -> str:
        with self._lock:
            token = f"opened-{len(self.tokens)}"
            self.tokens[token] = 0
        return token

    def token_is_good(self, authorization: str | None) -> bool:
        token = (authorization or "").removeprefix("Bearer ")
        with self._lock:
            if token not in self.tokens:
                return False
            self.tokens[token] += 1
            return self.tokens[token] <= self.token_requests

    def add_referrer(self, content: bytes) -> str | None:
        """Lists the manifest `content` where it has a subject; returns that one's digest."""
        manifest = json.loads(content)
        if "subject" not in manifest:
            return None
        entry = {
            "mediaType": manifest["mediaType"],
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size": len(content),
            "artifactType": manifest.get("artifactType"),
            "annotations": manifest.get("annotations"),
        }
        subject: str = manifest["subject"]["digest"]
        entries = self._referrers.setdefault(subject, [])
        if entry not in entries:
            entries.append(entry)
        return subject

    def referrers(self, path: str) -> tuple[dict[str, str], bytes]:
        """The answer of the referrers API to `path`: its headers and its body."""
        parts = urlsplit(path)
        entries = self._referrers.get(parts.path.rpartition("/")[2], [])
        start = int(parts.query.removeprefix("from=") or 0)
        end = start + self.page
        following = {"Link": f'<{parts.path}?from={end}>; rel="next"'} if end < len(entries) else {}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": entries[start:end]}
        return {"Content-Type": _INDEX, **following}, json.dumps(index).encode()


_INDEX = "application/vnd.oci.image.index.v1+json"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def _handle(self) -> None:
        front = self.server
        front.seen.append((self.command, self.path, dict(self.headers)))
        front.others_act(self.command, self.path)
        fault = front.fault(self.command, self.path)
        if fault is not None and fault.status is None:
            if self.headers.get("Content-Length", "0") != "0":
                self.rfile.read(1)
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if fault is not None and fault.status is not None:
            self._answer(fault.status, fault.headers, fault.body)
        elif front.token_user and self.path.startswith("/token"):
            self._give_token(front.token_user)
        elif front.token_user and not front.token_is_good(self.headers.get("Authorization")):
            challenge = f'Bearer realm="http://{front.host}/token",service="front"'
            self._answer(401, {"WWW-Authenticate": challenge}, b"")
        elif front.redirects_to and "/blobs/" in self.path and self.command in ("GET", "PUT"):
            self._answer(307, {"Location": f"http://{front.redirects_to.host}{self.path}"}, b"")
        elif front.lists_referrers and "/referrers/" in self.path:
            self._answer(200, *front.referrers(self.path))
        else:
            self._pass_on(body)

    def _give_token(self, user: tuple[str, str]) -> None:
        basic = "Basic " + base64.b64encode(":".join(user).encode()).decode()
        if self.headers.get("Authorization") == basic:
            self._answer(200, {}, json.dumps({"token": self.server.new_token()}).encode())
        else:
            self._answer(401, {}, b"")

    def _pass_on(self, body: bytes) -> None:
        front = self.server
        upstream = http.client.HTTPConnection(front.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, body, {**dict(self.headers), "Host": front.host})
            answer = upstream.getresponse()
            content = answer.read()
        finally:
            upstream.close()
        unsent = _HOP_BY_HOP | front.hidden
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in unsent}
        if "Location" in headers:
            where = urlsplit(headers["Location"])
            if front.uploads_to:
                headers["Location"] = where._replace(netloc=front.uploads_to.host).geturl()
            elif front.locations == "relative":
                headers["Location"] = where._replace(scheme="", netloc="").geturl()
        stored = self.command == "PUT" and "/manifests/" in self.path and answer.status == 201
        if front.lists_referrers and stored and (subject := front.add_referrer(body)):
            headers["OCI-Subject"] = subject
        self._answer(answer.status, headers, content)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _handle

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
