"""One package of Debian, exactly: its file is known by its hash."""

from __future__ import annotations

import re
from dataclasses import dataclass

_WORD = r"[a-z0-9][a-z0-9.+-]*"
# https://www.debian.org/doc/debian-policy/ch-controlfields.html#version
_VERSION = r"(?:[0-9]+:)?[0-9][A-Za-z0-9.+~-]*"
_PATTERNS = {
    "name": re.compile(_WORD),
    "version": re.compile(_VERSION),
    "architecture": re.compile(r"amd64|arm64|all"),
    "source": re.compile(_WORD),
    "sha256": re.compile(r"[0-9a-f]{64}"),
    "size": re.compile(r"[1-9][0-9]{0,12}"),
    "path": re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9.+_~:-]*/)*[A-Za-z0-9_][A-Za-z0-9.+_~%:-]*\.deb"),
}
"""What each field may be, in the order of a line. No path leads out of an archive."""


@dataclass(frozen=True, order=True)
class DebianPackage:
    """One version of a package, for one architecture."""

    name: str
    version: str
    architecture: str
    """As Debian has it: amd64, arm64, all."""
    source: str
    """The source package that it is built from."""
    sha256: str
    """Of the .deb, in hexadecimal."""
    size: int
    """Of the .deb, in bytes."""
    path: str
    """Below the archive: pool/main/p/python3.13/..."""

    @classmethod
    def parse(cls, line: str) -> DebianPackage:
        """The package that a line of `str` says; ValueError with what is wrong, for anything else."""
        words = line.split(" ")
        if len(words) != len(_PATTERNS):
            raise ValueError(f"{line[:80]!r} has not {len(_PATTERNS)} words")
        for word, (field, pattern) in zip(words, _PATTERNS.items(), strict=True):
            if not pattern.fullmatch(word):
                raise ValueError(f"{word[:80]!r} is no {field}")
        name, version, architecture, source, sha256, size, path = words
        return cls(name, version, architecture, source, sha256, int(size), path)

    def __str__(self) -> str:
        fields = (self.name, self.version, self.architecture, self.source, self.sha256, self.size, self.path)
        return " ".join(map(str, fields))

    @property
    def archive(self) -> str:
        """debian or debian-security: in the second one's pool everything lies below `updates`."""
        return "debian-security" if self.path.startswith("pool/updates/") else "debian"


@dataclass(frozen=True)
class Selection:
    """The packages of one root filesystem, and when the archives were published that have them."""

    packages: tuple[DebianPackage, ...]
    """Sorted."""
    published: str
    """The newest date of the archives' Release files, as 20250301T000000Z."""
