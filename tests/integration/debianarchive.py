"""A Debian archive with one suite, on loopback: lists of packages and their files, and a pool."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from builder.arch import ARCHES
from builder.base.deb import Deb


@dataclass
class Archive:
    """An archive whose index of files can be another one than its Release says."""

    folder: Path
    packages: Sequence[str] = ()
    """Names that are listed, with nothing behind them; what is in the folder `pool` is listed besides."""
    contents: str = ""
    """Lines of the index of files, in which {triplet} is each architecture's."""
    date: str = "Sat, 01 Mar 2025 00:00:00 UTC"
    """Of the Release file."""
    login: str | None = None
    """USER:PASSWORD that is wanted of whoever asks."""
    cut: int = 0
    """How many packages are still to be cut off in the middle."""
    asked: list[str] = field(default_factory=list)
    """What was requested."""

    def publish(self, *, contents: bool = True, stale: bool = False) -> None:
        """Writes the archive anew."""
        suite = self.folder / "dists" / "trixie"
        listed: dict[str, bytes] = {}
        for arch in ARCHES.values():
            stanzas = "".join(
                f"Package: {name}\nVersion: 1\nArchitecture: {arch.name}\nMaintainer: x\nDescription: x\n"
                f"Filename: pool/{name}.deb\nSize: 1\nSHA256: {'0' * 64}\n\n"
                for name in self.packages
            )
            stanzas += "".join(map(self._stanza, sorted((self.folder / "pool").rglob("*.deb"))))
            listed[f"main/binary-{arch.name}/Packages"] = stanzas.encode()
            if contents:
                text = self.contents.format(triplet=arch.triplet).encode()
                # Debian lists both and has the second one alone.
                listed[f"main/Contents-{arch.name}"] = text
                listed[f"main/Contents-{arch.name}.gz"] = gzip.compress(text, mtime=0)
        lines = "".join(
            f" {hashlib.sha256(content).hexdigest()} {len(content)} {name}\n"
            for name, content in listed.items()
        )
        for name, content in listed.items():
            if name.endswith(tuple(f"Contents-{arch}" for arch in ARCHES)):
                continue
            path = suite / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content + b"newer" if stale and "Contents" in name else content)
        (suite / "Release").write_text(
            "Suite: trixie\nCodename: trixie\nComponents: main\n"
            f"Architectures: {' '.join(ARCHES)}\nDate: {self.date}\nSHA256:\n{lines}"
        )

    def _stanza(self, path: Path) -> str:
        """What a list says of a package; apt passes over those of another architecture."""
        content = path.read_bytes()
        facts = {
            "Filename": path.relative_to(self.folder),
            "Size": len(content),
            "SHA256": hashlib.sha256(content).hexdigest(),
        }
        return "".join(f"{key}: {value}\n" for key, value in (Deb(path).control | facts).items()) + "\n"


@contextmanager
def serving(archive: Archive) -> Iterator[str]:
    """The line that names the archive; nothing signed it, so it says that it is to be trusted."""
    archive.folder.mkdir(exist_ok=True)

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            login = base64.b64encode((archive.login or "").encode()).decode()
            if archive.login and self.headers.get("Authorization") != f"Basic {login}":
                self.send_error(401)
            elif archive.cut and self.path.endswith(".deb"):
                archive.cut -= 1
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"half of it")
                self.log_request(200)
            else:
                super().do_GET()

        def log_message(self, *_: object) -> None:
            archive.asked.append(self.path)

    handler = functools.partial(Handler, directory=str(archive.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"deb [trusted=yes] http://127.0.0.1:{server.server_port} trixie main"
        server.shutdown()
