"""/etc/ld.so.cache, written and read without ldconfig: where the loader finds the libraries of the tree.

Without it the loader searches the default folders only, and python.org's images have libpython in
/usr/local/lib. The format is that of glibc 2.2 and later: sysdeps/generic/dl-cache.h.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping

from builder.arch import Arch

PATH = "/etc/ld.so.cache"

_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3x4x12x")
"""Magic and version, number of entries, bytes of strings, byte order, extensions (none), unused."""
_ENTRY = struct.Struct("<iIIIQ")
"""Flags, offset of the soname, offset of the path, unused, hardware capabilities (none)."""
_LITTLE_ENDIAN = 2


def ld_so_cache(paths: Mapping[str, str], arch: Arch) -> bytes:
    """The cache for libraries, each by the name that it is asked for and its jail path."""
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


def read_ld_so_cache(content: bytes, arch: Arch) -> dict[str, str]:
    """Soname -> path, as the loader for `arch` takes it from a cache; empty for what is no cache.

    Entries for special processors are passed over.
    """
    # ldconfig may have put the format of before glibc 2.2 in front.
    start = content.find(_MAGIC)
    try:
        count = _HEADER.unpack_from(content, start)[1] if start >= 0 else 0
        found: dict[str, str] = {}
        for number in range(min(count, len(content) // _ENTRY.size)):
            flags, key, value, _, hwcap = _ENTRY.unpack_from(
                content, start + _HEADER.size + number * _ENTRY.size
            )
            if flags == arch.ld_so_cache_flags and not hwcap:
                found.setdefault(_text(content, start + key), _text(content, start + value))
    except (struct.error, ValueError):
        return {}
    return found


def _text(content: bytes, start: int) -> str:
    return content[start : content.index(b"\0", start)].decode(errors="surrogateescape")


def _order(name: str) -> list[tuple[bool, int]]:
    """As glibc's _dl_cache_libcmp compares: runs of digits by their value, above any other character."""
    parts = re.findall(r"[0-9]+|[^0-9]", name, re.DOTALL)
    return [(part.isdigit(), int(part) if part.isdigit() else ord(part)) for part in parts]
