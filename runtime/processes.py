"""Ends the processes of a run, also where no user of its own tells them from others."""

import _signal  # type: ignore[import-not-found]  # `signal` would import enum
import posix

SIGKILL = 9


def kill_by_descriptor(pidfd: int) -> None:
    """SIGKILL to the process that `pidfd` is of, which cannot be another one with its number."""
    try:
        _signal.pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        pass  # it has ended
    except PermissionError:
        pass  # another user's, and we are root without CAP_KILL: an errand sees to it


def is_child(pidfd: int, pid: int, parent: int) -> bool:
    """Whether `pidfd` is of process `pid`, a child of `parent`, or of one that is gone: proc(5)."""
    try:
        source = posix.open(f"/proc/self/fdinfo/{pidfd}", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return False
    try:
        fields = posix.read(source, 4096).split()
    finally:
        posix.close(source)
    of = int(fields[fields.index(b"Pid:") + 1])
    return of == -1 or (of == pid and _parent_of(str(pid)) in (parent, 0))


def kill_tree(leader: int, zygote: int, living: set[int]) -> None:
    """SIGKILL to `leader`, all that came of it, and all that runs which have ended have left to `zygote`.

    A run's first process adopts its orphans (PR_SET_CHILD_SUBREAPER), and where it has ended, the zygote
    does: so a child of the zygote that is not among the `living` was left behind. Whoever forks meanwhile is
    met again: the caller asks until nobody is left.
    """
    children: dict[int, list[int]] = {}
    for name in posix.listdir("/proc"):
        if name.isdigit() and (parent := _parent_of(name)):
            children.setdefault(parent, []).append(int(name))
    pending = [leader, *(pid for pid in children.get(zygote, ()) if pid not in living)]
    if leader not in living:
        del pending[0]
    while pending:
        pid = pending.pop()
        pending += children.get(pid, ())
        try:  # noqa: SIM105 - contextlib would be an import
            posix.kill(pid, SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass


def _parent_of(pid: str) -> int:
    """The parent of a process, 0 where it has ended: proc(5), the field after the name in parentheses."""
    try:
        source = posix.open(f"/proc/{pid}/stat", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return int(posix.read(source, 4096).rpartition(b")")[2].split()[1])
    except (OSError, IndexError):
        return 0
    finally:
        posix.close(source)
