"""A control group for each run, where the container has been given its own to divide: cgroups(7), version 2.

What rlimits cannot do, groups can: they bound the memory and the processes of a run together, buffers of
pipes included, and end all of them with one write. Most containers have /sys/fs/cgroup read-only; then
there are none, and the rlimits stand alone.
"""

import posix

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable

MOUNTS, OWN = "/proc/self/mountinfo", "/proc/self/cgroup"
SERVICE = "sandbox-service"
"""The group that the server's own processes move to: one with groups below it must have none itself."""
PREFIX = "run-"
"""Of the name of a run's group; its number is behind it."""
WANTED = ("memory", "pids")
MAX_BYTES = 1 << 16


class Groups:
    """The groups of all runs, below one folder."""

    def __init__(self, folder: str, controllers: list[str]) -> None:
        self.folder = folder
        self.controllers = controllers

    def enter(self, number: int, pid: int, limits: dict[str, int]) -> None:
        """Makes the group of run `number`, and moves its first process there. OSError where that fails."""
        path = self._path(number)
        posix.mkdir(path, 0o755)
        if "memory" in self.controllers:
            _write(f"{path}/memory.max", limits["memory_bytes"])
            _try_write(f"{path}/memory.swap.max", 0)  # without swap there is no such file
            _try_write(f"{path}/memory.oom.group", 1)
        if "pids" in self.controllers:
            _write(f"{path}/pids.max", limits["processes"])
        _write(f"{path}/cgroup.procs", pid)

    def kill(self, number: int) -> None:
        """SIGKILL to every process of the run, and to every child that they have meanwhile (Linux 5.14)."""
        _try_write(f"{self._path(number)}/cgroup.kill", 1)

    def ran_out_of_memory(self, number: int) -> bool:
        """Whether the kernel has ended a process of the run because memory.max was reached."""
        return _field(_read(f"{self._path(number)}/memory.events"), "oom_kill") > 0

    def remove(self, number: int) -> None:
        """Removes the group, which has no process any more."""
        _try_remove(self._path(number))

    def remove_left(self) -> None:
        """Removes what an earlier server has left, whose numbers would fail else."""
        for name in posix.listdir(self.folder):
            if name.startswith(PREFIX):
                _try_remove(f"{self.folder}/{name}")

    def _path(self, number: int) -> str:
        return f"{self.folder}/{PREFIX}{number}"


def find_groups(read: "Callable[[str], str] | None" = None) -> "Groups | None":
    """The groups that this container may make; None where it may make none.

    Moves every process of the container's own group to one below it, and removes groups that are left there.
    """
    read = read or _read
    # Where an earlier server has moved its parent, and so this one, the container's own is the one above.
    folder = own_folder(read(MOUNTS), read(OWN)).removesuffix(f"/{SERVICE}")
    if not folder or not posix.access(folder, posix.W_OK):
        return None
    service = f"{folder}/{SERVICE}"
    try:
        try:  # noqa: SIM105
            posix.mkdir(service, 0o755)
        except FileExistsError:
            pass
        for pid in _read(f"{folder}/cgroup.procs").split():
            _try_write(f"{service}/cgroup.procs", int(pid))
        offered = _read(f"{folder}/cgroup.controllers").split()
        controllers = []
        for name in WANTED:
            if name in offered and _try_write(f"{folder}/cgroup.subtree_control", f"+{name}"):
                controllers.append(name)
        groups = Groups(folder, controllers)
        groups.remove_left()
    except OSError:
        return None
    return groups


def own_folder(mounts: str, own: str) -> str:
    """Where the group of this process is, from proc(5)'s mountinfo and cgroup; empty where it cannot be had.

    A line of mountinfo: ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS ... - TYPE SOURCE OPTIONS.
    """
    group = next((line[3:] for line in own.splitlines() if line.startswith("0::")), "")
    if not group:
        return ""
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        words = fields.split()
        if kind.split(" ")[0] != "cgroup2" or "rw" not in words[5].split(","):
            continue
        root = words[3].rstrip("/")
        if group == words[3] or group.startswith(root + "/"):
            return words[4] + group[len(root) :].rstrip("/")
    return ""


def _field(text: str, name: str) -> int:
    """The number behind `name` in a file of `NAME NUMBER` lines; 0 where it is not there."""
    words = text.split()
    return int(words[words.index(name) + 1]) if name in words else 0


def _read(path: str) -> str:
    try:
        source = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return posix.read(source, MAX_BYTES).decode("utf-8", "replace")
    finally:
        posix.close(source)


def _write(path: str, value: "int | str") -> None:
    target = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(target, str(value).encode())
    finally:
        posix.close(target)


def _try_remove(group: str) -> None:
    try:  # noqa: SIM105 - contextlib would be an import
        posix.rmdir(group)
    except OSError:
        pass  # never made, or a process is still in it: the next run with this number fails and says so


def _try_write(path: str, value: "int | str") -> bool:
    try:
        _write(path, value)
    except OSError:
        return False
    return True
