"""builder/debian_files.py through apt and mmdebstrap, from an archive of the test's own on this machine."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.arch import ARCHES
from builder.debian_files import MAX_AGE_S, packages_with
from builder.progress import Progress

QUIET = Progress(quiet=True)
CONTENTS = (
    "usr/lib/{triplet}/libodd.so.3    libs/oddly-named\nusr/lib/{triplet}/libboth.so.1   libs/libboth1\n"
)


class Archive:
    """An archive with one suite, whose index of files can be another one than its Release says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []

    def publish(self, *, contents: bool = True, stale: bool = False) -> None:
        """Writes the archive anew."""
        suite = self.folder / "dists" / "trixie"
        listed: dict[str, bytes] = {}
        for arch in ARCHES.values():
            stanzas = "".join(
                f"Package: {name}\nVersion: 1\nArchitecture: {arch.name}\nMaintainer: x\nDescription: x\n"
                f"Filename: pool/{name}.deb\nSize: 1\nSHA256: {'0' * 64}\n\n"
                for name in ("libboth1", "libnamed7")
            )
            listed[f"main/binary-{arch.name}/Packages"] = stanzas.encode()
            if contents:
                text = CONTENTS.format(triplet=arch.triplet).encode()
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


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


@pytest.fixture
def mirror(archive: Archive) -> Iterator[str]:
    """The line that names the archive; nothing signed it, so it says that it is to be trusted."""
    archive.folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            archive.asked.append(self.path)

    handler = functools.partial(Handler, directory=str(archive.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"deb [trusted=yes] http://127.0.0.1:{server.server_port} trixie main"
        server.shutdown()


def ask(mirror: str, cache: Path, arch: str = "amd64") -> dict[str, str]:
    sonames = ("libodd.so.3", "libboth.so.1", "libnamed.so.7", "libgone.so.1")
    return packages_with(sonames, "trixie", ARCHES[arch], mirror=mirror, cache=cache, progress=QUIET)


@pytest.mark.parametrize("arch", ARCHES)
def test_the_index_of_files_is_asked_once_a_week(
    archive: Archive, mirror: str, tmp_path: Path, arch: str
) -> None:
    """For either architecture; the second time nothing is asked, after a week it is."""
    archive.publish()
    expected = {"libodd.so.3": "oddly-named", "libboth.so.1": "libboth1"}
    assert ask(mirror, tmp_path / "cache", arch) == expected
    assert [path for path in archive.asked if path.endswith(f"main/Contents-{arch}.gz")]
    assert not [path for path in archive.asked if "Contents-all" in path]
    before = len(archive.asked)
    assert ask(mirror, tmp_path / "cache", arch) == expected
    assert len(archive.asked) == before
    (entry,) = (tmp_path / "cache" / "debian-files").iterdir()
    old = time.time() - MAX_AGE_S - 1
    os.utime(entry, (old, old))
    assert ask(mirror, tmp_path / "cache", arch) == expected
    assert len(archive.asked) > before
    entry.write_text("half of a JSON fi")
    assert ask(mirror, tmp_path / "cache", arch) == expected


@pytest.mark.parametrize("kind", ["none", "stale"])
def test_without_a_sound_index_names_are_made_by_policy(
    archive: Archive, mirror: str, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mirror that has none, or one that its list does not vouch for: packages that exist, and no cache."""
    archive.publish(contents=kind == "stale", stale=True)
    assert ask(mirror, tmp_path / "cache") == {"libboth.so.1": "libboth1", "libnamed.so.7": "libnamed7"}
    assert not (tmp_path / "cache").exists()
    assert ("no index of files" in capsys.readouterr().err) is (kind == "stale")
