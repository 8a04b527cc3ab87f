"""What has to be done as a run's own user, in the jail: end its processes, watch, read and clear its folder.

Nobody else could: the server may be root without a single capability that reads or removes another user's
files. Each errand is a child of the zygote with the run's uid as its effective one. Its real and saved uid
are not, so that the run can neither signal nor trace it.

Nothing here trusts what it meets: no link is followed, only regular files are opened, every walk is bounded.
"""

import posix
from time import monotonic

from runtime import kernel
from runtime.image import write_all

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

SIGKILL = 9
S_IFMT, S_IFDIR, S_IFREG = 0o170000, 0o040000, 0o100000  # inode(7)
FOLDER = posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
FILE = posix.O_RDONLY | posix.O_NOFOLLOW | posix.O_NONBLOCK | posix.O_CLOEXEC

BLOCK_BYTES = 512  # of st_blocks, stat(2)
ENTRY_BYTES = 1024
"""What a file counts besides its content: a folder of empty ones is no gift."""
MAX_DEPTH = 128
WATCH_S = 0.1
REST = 10
"""A watcher rests so many times as long as its last walk took."""


def take_identity(uid: int, nobody: int) -> None:
    """Has the process act as `uid`, and belong to `nobody`; no capability is left."""
    posix.setgroups([])
    posix.setresgid(nobody, uid, nobody)
    posix.setresuid(nobody, uid, nobody)
    kernel.set_capabilities(0)


def run(order: "dict[str, Any]", answer: int) -> None:
    """Does what `order` names; what there is to say of it is written to `answer`."""
    name = order["errand"]
    if name == "kill":
        kill_all()
    elif name == "watch":
        if watch(order["scratch"], order["limit_bytes"], answer):
            posix.write(answer, b"full")
    elif name == "outputs":
        for path in order["paths"]:
            write_output(order["scratch"], path, order["limit_bytes"], answer)
    elif name == "clear":
        clear(order["scratch"])
        posix.write(answer, b"done")


def kill_all() -> None:
    """SIGKILL to every process of the user, at one moment: kill(2) with -1 leaves no gap for a fork."""
    posix.kill(-1, SIGKILL)


def watch(scratch: str, limit_bytes: int, answer: int) -> bool:
    """True when what lies in the folder counts more than `limit_bytes`; False when nobody waits any more."""
    while True:
        began = monotonic()
        if size_of(scratch, limit_bytes) > limit_bytes:
            return True
        rest_s = max(WATCH_S, REST * (monotonic() - began))
        if kernel.poll([(answer, 0)], int(rest_s * 1000))[0]:
            return False  # the pipe has no reader: the run is over


def size_of(scratch: str, enough_bytes: int) -> int:
    """Bytes that the files below `scratch` take, counted no further than beyond `enough_bytes`.

    A tree deeper than MAX_DEPTH, which nobody makes by accident, counts as too large.
    """
    total = 0
    try:
        open_folders = [posix.open(scratch, FOLDER)]
    except PermissionError:
        return enough_bytes + 1
    except OSError:
        return 0
    try:
        pending = [iter(posix.listdir(open_folders[0]))]
        while pending:
            name = next(pending[-1], None)
            if name is None:
                pending.pop()
                posix.close(open_folders.pop())
                continue
            try:
                entry = posix.stat(name, dir_fd=open_folders[-1], follow_symlinks=False)
                total += ENTRY_BYTES + entry.st_blocks * BLOCK_BYTES
                if total > enough_bytes:
                    break
                if entry.st_mode & S_IFMT != S_IFDIR:
                    continue
                if len(pending) == MAX_DEPTH:
                    return enough_bytes + 1
                folder = posix.open(name, FOLDER, dir_fd=open_folders[-1])
            except PermissionError:
                return enough_bytes + 1  # a folder that is closed even to its owner hides what is in it
            except OSError:
                continue  # it has gone
            open_folders.append(folder)
            pending.append(iter(posix.listdir(folder)))
    finally:
        for folder in open_folders:
            posix.close(folder)
    return total


def write_output(scratch: str, path: str, limit_bytes: int, answer: int) -> None:
    """`ok SIZE` and the file's bytes, or `no REASON`, each as a line, to `answer`."""
    try:
        content = read_output(scratch, path, limit_bytes)
    except (OSError, ValueError) as error:
        write_all(answer, f"no {getattr(error, 'strerror', None) or 'not a path'}\n".encode())
        return
    write_all(answer, b"ok %d\n" % len(content))
    write_all(answer, content)


def read_output(scratch: str, path: str, limit_bytes: int) -> bytes:
    """The regular file at `path` below `scratch`; OSError, with a sentence, for anything else."""
    folder = posix.open(scratch, FOLDER)
    try:
        *parents, name = path.split("/")
        if {"", ".", ".."} & {*parents, name}:
            raise OSError(0, "not a path below the private folder")
        for parent in parents:
            inner = posix.open(parent, FOLDER, dir_fd=folder)
            posix.close(folder)
            folder = inner
        # Before it is opened: a FIFO or a device must not be.
        if posix.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & S_IFMT != S_IFREG:
            raise OSError(0, "not a regular file")
        source = posix.open(name, FILE, dir_fd=folder)
    finally:
        posix.close(folder)
    try:
        size = posix.fstat(source).st_size
        if size > limit_bytes:
            raise OSError(0, f"larger than the {limit_bytes} bytes that may be brought back")
        parts, left = [], size
        while left and (part := posix.read(source, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        posix.close(source)


def clear(scratch: str) -> None:
    """Removes everything in the folder, whatever its depth, names and modes.

    Folders are moved up into `scratch` before they are emptied: so no path gets long, and no more than two
    are open at a time.
    """
    posix.chmod(scratch, 0o700)
    top = posix.open(scratch, FOLDER)
    number = 0
    pending = [name for name in posix.listdir(top) if not _removed(name, top)]
    while pending:
        name = pending.pop()
        posix.chmod(name, 0o700, dir_fd=top)
        folder = posix.open(name, FOLDER, dir_fd=top)
        for inner in posix.listdir(folder):
            if _removed(inner, folder):
                continue
            number += 1
            up = f".removed-{number}"
            while _exists(up, top):
                up += "-"
            posix.chmod(inner, 0o700, dir_fd=folder)
            posix.rename(inner, up, src_dir_fd=folder, dst_dir_fd=top)
            pending.append(up)
        posix.close(folder)
        posix.rmdir(name, dir_fd=top)
    posix.close(top)


def _exists(name: str, folder: int) -> bool:
    try:
        posix.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _removed(name: str, folder: int) -> bool:
    """Whether `name` could be removed at once: it was no folder, or an empty one."""
    try:
        posix.unlink(name, dir_fd=folder)
    except OSError:
        try:
            posix.rmdir(name, dir_fd=folder)
        except OSError:
            return False
    return True
