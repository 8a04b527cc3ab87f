"""Paths inside a root filesystem that is not ours, resolved as the kernel would resolve them after chroot."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from builder.tree.spec import PACKAGES_PATH

MAX_LINKS = 40
"""How many symbolic links Linux follows in one resolution before it says ELOOP (path_resolution(7))."""


@dataclass(frozen=True)
class Resolved:
    """Where a path leads to."""

    path: str
    """The jail path with no symbolic link in it (the last component may be one, where that was asked for)."""
    links: tuple[str, ...]
    """Every symbolic link that was followed, in order, as the jail path of the link itself."""
    clamped: bool
    """A `..` stood at the root, where chroot makes it the root again."""


class Root:
    """A root filesystem in a folder. A *jail path* is absolute, POSIX, and counted from that folder.

    No method follows a symbolic link of the folder as the host would: a link to /etc/passwd is that of the
    root filesystem. Names that are not UTF-8 travel as surrogate escapes.
    """

    def __init__(self, directory: Path, packages: Path | None = None) -> None:
        """`packages` is a folder that lies at PACKAGES_PATH, whatever `directory` has there."""
        self.directory = directory
        self.packages = packages

    def host(self, jail_path: str) -> Path:
        """The host path of a jail path that was resolved: only there do the two mean the same file."""
        if self.packages is not None and is_below(jail_path, PACKAGES_PATH):
            return self.packages / jail_path[len(PACKAGES_PATH) :].lstrip("/")
        return self.directory / jail_path.lstrip("/")

    def resolve(self, jail_path: str, *, follow_last: bool = True) -> Resolved:
        """Follows `jail_path` with chroot's semantics.

        Absolute links start at the root again and `..` stops there. With `follow_last` false, a link that is
        the last component is not followed. FileNotFoundError, NotADirectoryError and OSError(ELOOP) as from
        the kernel, their filename the jail path.
        """
        pending = jail_path.split("/")[::-1]
        here, links, clamped = "", [], False
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                clamped = clamped or not here
                here = here.rpartition("/")[0]
                continue
            step = f"{here}/{name}"
            try:
                mode = os.lstat(self.host(step)).st_mode
            except OSError as error:
                raise OSError(error.errno, os.strerror(error.errno or 0), jail_path) from None
            if stat.S_ISLNK(mode) and (follow_last or pending):
                links.append(step)
                if len(links) > MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), jail_path)
                target = self.link(step)
                if target.startswith("/"):
                    here = ""
                pending.extend(target.split("/")[::-1])
            elif pending and not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), jail_path)
            else:
                here = step
        return Resolved(here or "/", tuple(links), clamped)

    def real(self, jail_path: str) -> str | None:
        """The jail path that `jail_path` leads to, None where it leads to nothing."""
        try:
            return self.resolve(jail_path).path
        except OSError:
            return None

    def link(self, jail_path: str) -> str:
        """What the symbolic link at a resolved jail path says."""
        # Path.readlink drops a slash or a dot at the end, which says that the target is a folder.
        return os.readlink(self.host(jail_path))  # noqa: PTH115

    def is_file(self, jail_path: str) -> bool:
        """Whether `jail_path` leads to a regular file."""
        real = self.real(jail_path)
        return real is not None and self.host(real).is_file()

    def is_dir(self, jail_path: str) -> bool:
        """Whether `jail_path` leads to a directory."""
        real = self.real(jail_path)
        return real is not None and self.host(real).is_dir()

    def names(self, jail_path: str) -> list[str]:
        """The entries of the directory that `jail_path` leads to, sorted; empty where it leads to none."""
        real = self.real(jail_path)
        if real is None or not self.host(real).is_dir():
            return []
        with os.scandir(self.host(real)) as entries:
            return sorted(entry.name for entry in entries)

    def nearest(self, jail_path: str) -> str:
        """The existing path most like `jail_path`, which does not exist: what a hint can name.

        The deepest folder of it that exists, and in there the name most like the one that is missing.
        """
        child = jail_path
        for parent in parents(jail_path):
            if self.is_dir(parent):
                alike = get_close_matches(posixpath.basename(child), self.names(parent), n=1)
                return posixpath.join(parent, alike[0]) if alike else parent
            child = parent
        return "/"

    def relative_target(self, link: str) -> str:
        """What the link at a resolved jail path must say so that it leads to the same place without a chroot.

        As it stands where it is relative, stays below the root on its way, and has no `..` behind a name;
        else a relative path whose folders hold no link. So it needs no other entry than those that it leads
        through. The link must lead somewhere.
        """
        parent, target = posixpath.dirname(link), self.link(link)
        plain = not target.startswith("/") and ".." not in target.lstrip("./").split("/")
        if plain and not self.resolve(link).clamped:
            return target
        head, name = posixpath.split(posixpath.join(parent, target).rstrip("/"))
        if name in ("", ".", ".."):
            return posixpath.relpath(self.resolve(link).path, parent)
        return posixpath.relpath(posixpath.join(self.resolve(head).path, name), parent)


def parents(jail_path: str) -> Iterator[str]:
    """The folders that hold `jail_path`, nearest first, "/" last."""
    while jail_path != "/":
        jail_path = posixpath.dirname(jail_path)
        yield jail_path


def is_below(jail_path: str, folder: str) -> bool:
    """Whether `jail_path` is `folder` or lies in it; both without links and `..`."""
    return folder == "/" or jail_path == folder or jail_path.startswith(f"{folder}/")
