"""A Debian archive with one suite, on loopback: lists of packages and their files, nothing to install."""

from __future__ import annotations

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


@dataclass
class Archive:
    """An archive whose index of files can be another one than its Release says."""

    folder: Path
    packages: Sequence[str]
    contents: str
    """Lines of the index of files, in which {triplet} is each architecture's."""
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
            f"Architectures: {' '.join(ARCHES)}\nDate: Sat, 01 Mar 2025 00:00:00 UTC\nSHA256:\n{lines}"
        )


@contextmanager
def serving(archive: Archive) -> Iterator[str]:
    """The line that names the archive; nothing signed it, so it says that it is to be trusted."""
    archive.folder.mkdir(exist_ok=True)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            archive.asked.append(self.path)

    handler = functools.partial(Handler, directory=str(archive.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"deb [trusted=yes] http://127.0.0.1:{server.server_port} trixie main"
        server.shutdown()
