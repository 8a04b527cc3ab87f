"""Image layers as tar files: written from a folder, unpacked into one."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from builder.errors import BuildError


def write_layer(root: Path, path: Path, *, epoch: int) -> None:
    """Writes all that is below `root` to the tar file `path`: the same files and modes, the same bytes.

    Entries are sorted, owned by 0:0 and dated `epoch` (seconds since 1970); extended attributes are not kept.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in _walk(root, ""):
            entry = tar.gettarinfo(root / name, arcname=name)
            if entry is None:
                raise BuildError(f"{root / name}: a socket cannot be part of an image")
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = epoch
            if entry.isreg():
                with (root / name).open("rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)


def join_layers(folders: Iterable[Path], root: Path) -> None:
    """Makes the new folder `root` of what lies in `folders`, each file once more by a hard link.

    A file that has another name already is copied: it may be the cache's, and what runs in `root` is a
    stranger's. No two of the folders may have a file at the same path: FileExistsError.
    """
    root.mkdir(parents=True)
    root.chmod(0o755)  # a run is another user, whatever our umask: what it cannot enter is not proven
    for folder in folders:
        for name in _walk(folder, ""):
            source, target = folder / name, root / name
            if source.is_dir() and not source.is_symlink():
                target.mkdir(exist_ok=True)
                target.chmod(source.stat().st_mode)
            elif source.lstat().st_nlink > 1:
                shutil.copy2(source, target, follow_symlinks=False)
            else:
                os.link(source, target, follow_symlinks=False)


def _walk(root: Path, folder: str) -> Iterator[str]:
    """Every path below `root`, parents before children, in the same order on every file system."""
    with os.scandir(root / folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{folder}/{entry.name}" if folder else entry.name
        yield name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(root, name)


_MOST_HEADER_BYTES = 1 << 20
_MOST_FILE_BYTES = 1 << 36
"""tarfile looks for the end of a file of any size, long after the tar's; and one below 0 leads it back."""


class BoundedInfo(tarfile.TarInfo):
    """An entry of a tar from somebody else: tarfile would read a name or a header of any size into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        extended = self.type in (
            *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
            *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
        )
        if extended and self.size > _MOST_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        _check_size(self)
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]  # not in the stubs
        _check_size(found)  # an extended header may have said another one
        return found


def _check_size(entry: tarfile.TarInfo) -> None:
    if not 0 <= entry.size <= _MOST_FILE_BYTES:
        raise tarfile.ReadError(f"a file of {entry.size} bytes")


class LayerUnpacker:
    """Unpacks layers, in order, below `root`, a folder that must not exist: nothing is written outside it.

    Works for an ordinary user, who then owns the files; set-id bits are dropped. BuildError for an entry that
    would leave `root`, lies below a symlink, or is anything but a file, a folder or a link. (tarfile's own
    filters are missing from the Python 3.11.2 of Debian 12, and check no hard link.)
    """

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True)
        self._root = root
        self._folders: dict[PurePosixPath, int] = {PurePosixPath(): 0o755}

    def unpack(self, layer: IO[bytes]) -> None:
        """Unpacks one layer's tar, read from its beginning to its end."""
        with tarfile.open(fileobj=layer, mode="r|", tarinfo=BoundedInfo) as tar:
            for entry in tar:
                self._unpack_entry(tar, entry)

    def finish(self) -> None:
        """Gives the folders their modes: only now, since one may be read-only."""
        for folder, mode in self._folders.items():
            (self._root / folder).chmod(mode)

    def _unpack_entry(self, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        path = self._checked(entry, entry.name)
        target = self._root / path
        mode = stat.S_IMODE(entry.mode) & 0o1777
        if entry.isdir():
            if path not in self._folders:
                self._make_way(entry, target)
                target.mkdir()
            self._folders[path] = mode
            return
        self._make_way(entry, target)
        if entry.issparse():
            raise _refused(entry, "has holes, which sandbox-build never writes")
        if entry.isreg():
            content = tar.extractfile(entry)
            assert content is not None  # noqa: S101 - None is for what is no file
            with target.open("xb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
                os.fchmod(file.fileno(), mode)
            os.utime(target, (entry.mtime, entry.mtime))
        elif entry.issym():
            target.symlink_to(entry.linkname)
        elif entry.islnk():
            other = self._root / self._checked(entry, entry.linkname)
            if not stat.S_ISREG(other.lstat().st_mode):
                raise _refused(entry, "is a hard link to what is no file")
            target.hardlink_to(other)
        else:
            raise _refused(entry, "is neither a file, a folder nor a link")

    def _checked(self, entry: tarfile.TarInfo, name: str) -> PurePosixPath:
        """`name` as a path below the root whose folders are all ours, made where the layer left them out."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise _refused(entry, "leads out of the image")
        if path.name.startswith(".wh."):
            raise _refused(entry, "deletes what a layer below it holds, which sandbox-build never writes")
        for parent in reversed(path.parents):
            if parent not in self._folders:
                if os.path.lexists(self._root / parent):
                    raise _refused(entry, f"lies below {parent}, which is no folder")
                (self._root / parent).mkdir()
                self._folders[parent] = 0o755
        return path

    def _make_way(self, entry: tarfile.TarInfo, target: Path) -> None:
        """Removes what a layer below has at `target`."""
        if PurePosixPath(entry.name) in self._folders:
            raise _refused(entry, "takes the place of a folder")
        target.unlink(missing_ok=True)


def _refused(entry: tarfile.TarInfo, why: str) -> BuildError:
    return BuildError(f"layer entry {entry.name!r} {why}: not unpacked")
