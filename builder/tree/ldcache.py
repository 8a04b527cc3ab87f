"""/etc/ld.so.cache, written without ldconfig: where the loader finds the libraries of the tree.

Without it the loader searches the default folders only, and python.org's images have libpython in
/usr/local/lib. The format is that of glibc 2.2 and later: sysdeps/generic/dl-cache.h.
"""

from __future__ import annotations

import posixpath
import re
import struct
from collections.abc import Iterable

from builder.arch import Arch

PATH = "/etc/ld.so.cache"

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3x4x12x")
"""Magic and version, number of entries, bytes of strings, byte order, extensions (none), unused."""
_ENTRY = struct.Struct("<iIIIQ")
"""Flags, offset of the soname, offset of the path, unused, hardware capabilities (none)."""
_LITTLE_ENDIAN = 2


def ld_so_cache(libraries: Iterable[str], arch: Arch) -> bytes:
    """The cache for libraries at these jail paths, each found by its file name; of two, the first counts."""
    paths: dict[str, str] = {}
    for library in libraries:
        paths.setdefault(posixpath.basename(library), library)
    # The loader searches by halves, in falling order.
    names = sorted(paths, key=_order, reverse=True)
    offset = _HEADER.size + len(names) * _ENTRY.size
    entries, strings = b"", b""
    for name in names:
        texts = [text.encode(errors="surrogateescape") + b"\0" for text in (name, paths[name])]
        start = offset + len(strings)
        entries += _ENTRY.pack(arch.ld_so_cache_flags, start, start + len(texts[0]), 0, 0)
        strings += b"".join(texts)
    return _HEADER.pack(_MAGIC, len(names), len(strings), _LITTLE_ENDIAN) + entries + strings


def _order(name: str) -> list[tuple[bool, int]]:
    """As glibc's _dl_cache_libcmp compares: runs of digits by their value, above any other character."""
    parts = re.findall(r"[0-9]+|[^0-9]", name, re.DOTALL)
    return [(part.isdigit(), int(part) if part.isdigit() else ord(part)) for part in parts]
