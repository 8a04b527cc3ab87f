"""The folders in which the loader of a root filesystem looks for libraries."""

from __future__ import annotations

import posixpath
import re
from fnmatch import fnmatchcase

from builder.arch import Arch
from builder.tree.root import Root

_DEFAULTS = re.compile(rb"(?:/(?:usr/)?lib[^\0\n ]*/\0){2,}")
"""glibc's system_dirs in its loader: the folders, one behind the other."""

_DEEPEST_INCLUDE = 4


def default_folders(arch: Arch) -> tuple[str, ...]:
    """The folders that the loader searches with no cache: Debian's, then those of other distributions."""
    triplet = (f"/lib/{arch.triplet}", f"/usr/lib/{arch.triplet}")
    return (*triplet, "/lib64", "/usr/lib64", "/lib", "/usr/lib")


def loader_folders(root: Root, loader: str) -> tuple[str, ...]:
    """The default folders that the loader at `loader` was built with; none where it does not say."""
    real = root.real(loader)
    if real is None or not root.host(real).is_file():
        return ()
    found = _DEFAULTS.search(root.host(real).read_bytes())
    if found is None:
        return ()
    return tuple(text.decode(errors="surrogateescape").rstrip("/") for text in found[0].split(b"\0") if text)


def configured_folders(root: Root) -> tuple[str, ...]:
    """The folders that the base's /etc/ld.so.conf names."""
    return tuple(dict.fromkeys(_ld_so_conf(root, "/etc/ld.so.conf", depth=0)))


def _ld_so_conf(root: Root, jail_path: str, depth: int) -> list[str]:
    """The folders that a configuration file of ldconfig(8) names, its includes followed."""
    real = root.real(jail_path)
    if real is None or depth > _DEEPEST_INCLUDE or not root.host(real).is_file():
        return []
    folders = []
    for line in root.host(real).read_text(errors="surrogateescape").splitlines():
        words = line.partition("#")[0].split()
        if len(words) > 1 and words[0] == "include":
            for pattern in words[1:]:
                folder, name = posixpath.split(posixpath.join(posixpath.dirname(jail_path), pattern))
                for entry in root.names(folder):
                    if fnmatchcase(entry, name):
                        folders += _ld_so_conf(root, posixpath.join(folder, entry), depth + 1)
        elif words and words[0].startswith("/"):
            folders.append(words[0])
    return folders
