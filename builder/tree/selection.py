"""Which entries of a root filesystem go into the tree: decides, copies nothing."""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Callable

from builder.tree.patterns import Patterns
from builder.tree.root import Root, is_below, parents

_FOLDER_TOO_HIGH = 2
"""A link to a folder with fewer components (/, /usr, /home) would bring a whole system along."""


class Selection:
    """A growing set of entries. Keys are jail paths whose folders hold no link.

    Whatever is added brings along the links on the way to it and what they lead to, so that every link of
    the selection leads to an entry of the selection.
    """

    def __init__(
        self,
        root: Root,
        prune: Patterns,
        progress: Callable[[str], None],
        kept: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`prune` is about what is left out on a walk, less what `kept` says."""
        self.files: set[str] = set()
        self.directories: set[str] = {"/"}
        self.links: dict[str, str] = {}
        """Link -> what it says in the tree: never absolute, never above the root."""
        self.warnings: list[str] = []
        self._root = root
        self._prune = prune
        self._progress = progress
        self._kept = kept
        self._walked: set[str] = set()
        self._special: list[str] = []

    def add(self, jail_path: str) -> str:
        """Adds the file or the whole folder that `jail_path` leads to; returns where that is.

        The path itself is never pruned, what lies in it is. OSError as from Root.resolve.
        """
        resolved = self._root.resolve(jail_path)
        self._add_links(resolved.links)
        host_path = self._root.host(resolved.path)
        if host_path.is_dir():
            self._walk(resolved.path)
        elif host_path.is_file():
            self._add_file(resolved.path)
        else:
            self._special.append(resolved.path)
        return resolved.path

    def place(self, jail_path: str) -> str:
        """Makes room for an entry that the base does not have; returns where it goes, links resolved."""
        for folder in parents(jail_path):
            try:
                resolved = self._root.resolve(folder)
            except FileNotFoundError:
                continue
            self._add_links(resolved.links)
            placed = posixpath.join(resolved.path, posixpath.relpath(jail_path, folder))
            self.add_directory(posixpath.dirname(placed))
            return placed
        raise AssertionError("the root itself always resolves")

    def add_directory(self, jail_path: str) -> None:
        """Adds a folder without what is in it, and the folders that hold it."""
        if jail_path not in self.directories:
            self.directories.add(jail_path)
            self.directories.update(parents(jail_path))

    def add_link(self, link: str, target: str) -> None:
        """Adds a link that the base does not have; both paths hold no link."""
        self.links[link] = posixpath.relpath(target, posixpath.dirname(link))

    def discard_file(self, jail_path: str) -> None:
        """Takes a file out again."""
        self.files.discard(jail_path)

    def discard(self, jail_path: str) -> None:
        """Takes out what `jail_path` leads to, a file, and the last link on the way."""
        for entry in (self._root.real(jail_path), self._real_link(jail_path)):
            if entry is not None:
                self.files.discard(entry)
                self.links.pop(entry, None)

    def _real_link(self, jail_path: str) -> str | None:
        try:
            return self._root.resolve(jail_path, follow_last=False).path
        except OSError:
            return None

    def holds(self, jail_path: str) -> bool:
        """Whether `jail_path`, which holds no link, is an entry."""
        return jail_path in self.files or jail_path in self.directories or jail_path in self.links

    def finish(self) -> None:
        """Reports what was left out for its kind, once everything is added."""
        if self._special:
            shown = ", ".join(sorted(self._special)[:5])
            self.warnings.append(f"left out {len(self._special)} devices, sockets or pipes: {shown}")
        self._special.clear()

    def _add_file(self, jail_path: str) -> None:
        self.files.add(jail_path)
        self.add_directory(posixpath.dirname(jail_path))

    def _add_links(self, links: tuple[str, ...]) -> None:
        for link in links:
            if link not in self.links:
                self.links[link] = self._root.relative_target(link)
                self.add_directory(posixpath.dirname(link))

    def _walk(self, top: str) -> None:
        """Adds a folder and what lies in it, then what its links lead to."""
        pending, links = [top], []
        while pending:
            folder = pending.pop()
            if folder in self._walked:
                continue
            self._walked.add(folder)
            self.add_directory(folder)
            if len(self._walked) % 500 == 0:
                self._progress(f"looking through the base: {len(self.files)} files")
            with os.scandir(self._root.host(folder)) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    jail_path = posixpath.join(folder, entry.name)
                    if self._prune.match(jail_path) and not self._kept(jail_path):
                        continue
                    if entry.is_symlink():
                        links.append(jail_path)
                    elif entry.is_dir():
                        pending.append(jail_path)
                    elif entry.is_file():
                        self.files.add(jail_path)
                    else:
                        self._special.append(jail_path)
        for link in links:
            self._follow(link)

    def _follow(self, link: str) -> None:
        """Adds a link that was met on a walk and what it leads to, or says why not."""
        try:
            resolved = self._root.resolve(link)
        except OSError as error:
            says = self._root.link(link)
            what = "goes round in a circle" if error.errno == errno.ELOOP else "leads to nothing"
            self.warnings.append(f"left out the link {link} -> {says}: it {what}")
            return
        target = resolved.path
        if target not in self._walked and target not in self.files:
            if self._prune.match_above(target) and not self._kept(target):
                return
            if self._root.host(target).is_dir():
                if is_below(link, target) or target.count("/") < _FOLDER_TOO_HIGH:
                    self.warnings.append(f"left out the link {link}: all of {target} would come along")
                    return
                self._walk(target)
            elif self._root.host(target).is_file():
                self._add_file(target)
            else:
                self._special.append(link)
                return
        self._add_links(resolved.links)
