"""A package index on loopback (PEP 503), out of a folder of files."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from packaging.utils import canonicalize_name


@dataclass
class Index:
    """What a running index serves, and what it was asked for."""

    folder: Path
    hashes: bool = True
    """Whether links carry their file's hash."""
    login: tuple[str, str] | None = None
    """Who may ask; None: everybody."""
    sends: bytes | None = None
    """In place of every file."""
    requests: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        user = f"{self.login[0]}:{self.login[1]}@" if self.login else ""
        return f"http://{user}127.0.0.1:{self.port}/simple"


@contextmanager
def serving(index: Index) -> Iterator[Index]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            index.requests.append(self.path)
            wanted = "Basic " + base64.b64encode(":".join(index.login or ()).encode()).decode()
            if index.login and self.headers.get("Authorization") != wanted:
                self._answer(401, "text/plain", b"")
            elif self.path.startswith("/simple/"):
                page = _page(index, self.path.removeprefix("/simple/").strip("/"))
                self._answer(200 if page else 404, "text/html", page)
            else:
                self._answer(
                    200,
                    "application/octet-stream",
                    index.sends or (index.folder / self.path[7:]).read_bytes(),
                )

        do_HEAD = do_GET

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        index.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield index
        finally:
            server.shutdown()
            thread.join()


def _page(index: Index, project: str) -> bytes:
    links = []
    for path in sorted(index.folder.iterdir()):
        name = path.name.split("-")[0] if path.suffix == ".whl" else path.name.rpartition("-")[0]
        if canonicalize_name(name) == project:
            digest = f"#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}" if index.hashes else ""
            links.append(f'<a href="/files/{path.name}{digest}">{path.name}</a>')
    return "\n".join(links).encode()
