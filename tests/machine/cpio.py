"""An initramfs: a cpio archive of the form "newc", which the kernel unpacks into its first root.

https://docs.kernel.org/driver-api/early-userspace/buffer-format.html
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_END = "TRAILER!!!"


class CpioWriter:
    """Writes one archive; what is in it belongs to root, and is dated 1970."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0

    def add_tree(self, root: Path) -> None:
        """Everything below `root`, by the names that it has in there."""
        for folder, folders, files in os.walk(root):
            for name in sorted(folders + files):
                path = Path(folder, name)
                self.add_path(path, path.relative_to(root).as_posix())

    def add_path(self, path: Path, name: str) -> None:
        """One file, folder or symlink, called `name`."""
        facts = path.lstat()
        if stat.S_ISLNK(facts.st_mode):
            self._add(name, facts.st_mode, os.fsencode(path.readlink()))
        else:
            self._add(name, facts.st_mode, path.read_bytes() if stat.S_ISREG(facts.st_mode) else b"")

    def add_folder(self, name: str) -> None:
        """A new empty folder."""
        self._add(name, stat.S_IFDIR | 0o755, b"")

    def finish(self) -> None:
        """Writes the archive's end."""
        self._add(_END, 0, b"")

    def _add(self, name: str, mode: int, content: bytes) -> None:
        self._number += 1
        encoded = os.fsencode(name) + b"\0"
        # inode, mode, uid, gid, links, date, size, devices (4), length of the name, checksum
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + encoded, content):
            self._file.write(part + bytes(-len(part) % 4))
