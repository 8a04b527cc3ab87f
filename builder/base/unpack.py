"""Packages, unpacked below a folder as dpkg would unpack them there; no script of theirs is run."""

from __future__ import annotations

import os
import re
import shutil
import stat
import tarfile
from pathlib import Path

from builder.base.deb import Deb
from builder.tree.root import MAX_LINKS

_COPY_BYTES = 1 << 20
_IMPLIED = 0o755
"""Of a folder that no package names."""


class Unpacker:
    """Makes the new folder `root` of packages, one behind the other.

    Works for an ordinary user, who then owns the files, and gives them the same modes whatever the umask is;
    set-id bits are dropped: nothing of a base is run as somebody else. A folder stays what it was when the
    next package has it too, a link that leads to one included: that is how /lib comes to lie in /usr. Links
    are followed as after chroot, so nothing is written outside `root`. BuildError for anything but files,
    folders and links, and for a file that two packages have, unless one of them says that it replaces the
    other.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self._root = root
        self._folders: dict[str, int] = {"": _IMPLIED}
        self._named: set[str] = set()
        """The folders that a package names, and so gives a mode."""
        self._links: dict[str, str] = {}
        self._owners: dict[str, Deb] = {}
        """The package of each file and link."""
        self._known: dict[str, str] = {}
        """Folder as a package names it -> where that is, once every link is followed."""

    def folder(self, path: str, mode: int = _IMPLIED) -> Path:
        """A folder that is to be there whatever the packages have."""
        real = self._real(path)
        self._folders[real] = mode
        return self._root / real

    def unpack(self, deb: Deb) -> list[str]:
        """Unpacks one package; returns its paths as dpkg lists them, sorted: /., /usr, /usr/bin/python3."""
        paths = {"/."}
        with deb.files() as tar:
            for entry in tar:
                if "\n" in entry.name:
                    raise deb.refused(f"{entry.name!r} would be two lines of dpkg's list")
                path = _plain(entry.name)
                if path is None:
                    raise deb.refused(f"{entry.name!r} leads out of the root")
                if path:
                    self._unpack_entry(deb, tar, entry, path)
                    paths.add(f"/{path}")
        return sorted(paths)

    def finish(self) -> None:
        """Gives the folders their modes: only now, since one may be read-only."""
        for path, mode in self._folders.items():
            (self._root / path).chmod(mode)

    def _unpack_entry(self, deb: Deb, tar: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
        mode = stat.S_IMODE(entry.mode) & 0o1777
        if entry.isdir():
            real = self._real(path, deb)
            if real not in self._named:
                self._named.add(real)
                self._folders[real] = mode
            return
        folder, _, name = path.rpartition("/")
        place = f"{self._real(folder, deb)}/{name}".lstrip("/")
        if not self._may_place(deb, place):
            return
        target = self._root / place
        if entry.isreg() and not entry.issparse():
            content = tar.extractfile(entry)
            assert content is not None  # noqa: S101 - None is for what is no file
            with target.open("xb") as file:
                shutil.copyfileobj(content, file, _COPY_BYTES)
                os.fchmod(file.fileno(), mode)
            os.utime(target, (entry.mtime, entry.mtime))
        elif entry.issym() and entry.linkname:
            target.symlink_to(entry.linkname)
            self._links[place] = entry.linkname
        elif entry.islnk():
            target.hardlink_to(self._root / self._linked(deb, entry, place))
        else:
            raise deb.refused(f"{entry.name!r} is neither a file, a folder nor a link")

    def _may_place(self, deb: Deb, place: str) -> bool:
        """Whether this package's file comes to `place`, which is free then."""
        if place in self._folders:
            raise deb.refused(f"/{place} is a folder of another package")
        other = self._owners.get(place)
        if other is not None:
            if other is not deb and _replaces(other, deb.name):
                return False
            if other is not deb and not _replaces(deb, other.name):
                raise deb.refused(f"/{place} is a file of {other.name} too")
            (self._root / place).unlink()
            if self._links.pop(place, None) is not None:
                self._known.clear()
        self._owners[place] = deb
        return True

    def _linked(self, deb: Deb, entry: tarfile.TarInfo, place: str) -> str:
        """The file that a hard link at `place` means: another one of the same package."""
        path = _plain(entry.linkname) or ""
        folder, _, name = path.rpartition("/")
        linked = f"{self._real(folder, deb)}/{name}".lstrip("/")
        if linked == place or linked in self._links or self._owners.get(linked) is not deb:
            raise deb.refused(f"{entry.name!r} is a hard link to what is no file of it")
        return linked

    def _real(self, path: str, deb: Deb | None = None) -> str:
        """Where the folder `path` is once every link is followed; made where it is not there yet."""
        if path not in self._known:
            self._known[path] = self._resolve(path, deb)
        return self._known[path]

    def _resolve(self, path: str, deb: Deb | None) -> str:
        pending, here, followed = path.split("/")[::-1], "", 0
        while pending:
            name = pending.pop()
            if name in ("", "."):
                continue
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            step = f"{here}/{name}".lstrip("/")
            target = self._links.get(step)
            if target is not None and followed < MAX_LINKS:
                followed += 1
                here = "" if target.startswith("/") else here
                pending.extend(target.split("/")[::-1])
            elif step in self._owners:
                assert deb is not None  # noqa: S101 - our own folders are made before there are files
                raise deb.refused(
                    f"/{path} is to be a folder, but {self._owners[step].name} has a file there"
                )
            else:
                if step not in self._folders:
                    (self._root / step).mkdir()
                    self._folders[step] = _IMPLIED
                here = step
        return here


def _plain(name: str) -> str | None:
    """The path of an entry below the root: "usr/bin", "" for the root itself; None for one that leads out."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return None if ".." in parts or "\0" in name else "/".join(parts)


def _replaces(deb: Deb, other: str) -> bool:
    """Whether a package says that it may take over files of another one.

    Its versions are not looked at: apt chose both, so they go together.
    https://www.debian.org/doc/debian-policy/ch-relationships.html#overwriting-files-in-other-packages
    """
    replaced = deb.control.get("Replaces", "").split(",")
    return other in (re.split(r"[\s(:]", one.strip(), maxsplit=1)[0] for one in replaced)
