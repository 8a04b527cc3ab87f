"""The places of a machine where a command can be started, each as a container engine would make it.

Runs in the machine, on the image's own interpreter. `/` is the image's root, writable and in memory.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import stat
import sys
from dataclasses import dataclass

ROOT = "/machine/root"
"""Where a place's root is put together."""
TREE = "/var/sandbox/sandbox-python"
USER = 1000
"""Of a container that has no privilege at all."""

_SHIPPED = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
"""capabilities(7) that Docker gives a container by default."""
_SYS_TIME = 25
_LAST_CAPABILITY = 40

_NEW_MOUNTS, _NEW_CGROUP, _NEW_UTS = 0x20000, 0x0200_0000, 0x0400_0000  # <linux/sched.h>
_NEW_IPC, _NEW_PIDS, _NEW_NET = 0x0800_0000, 0x2000_0000, 0x4000_0000
_READ_ONLY, _REMOUNT, _BIND, _MOVE, _RECURSIVE, _PRIVATE = (
    1,
    32,
    4096,
    8192,
    16384,
    1 << 18,
)  # <linux/mount.h>
_PDEATHSIG, _CAPBSET_DROP, _NO_NEW_PRIVS = 1, 24, 38  # <linux/prctl.h>
_GROUPS = "/sys/fs/cgroup"
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Place:
    """What a command gets."""

    confined: bool = True
    """Namespaces and privileges of a container; else root's own, and a process id namespace."""
    user: int = 0
    privileged: bool = True
    """As Docker's default; else no capability, and none to be gained."""
    user_namespaces: bool = True
    read_only: bool = False
    copied: bool = False
    """The root is a copy, which the command may spoil."""
    cgroup: bool = False
    """A control group of its own, which it may divide; and it may set the clock."""


PLACES = {
    "outside": Place(confined=False),
    "copy": Place(confined=False, copied=True),
    "chroot": Place(),
    "userns": Place(user=USER, privileged=False),
    "landlock": Place(user=USER, privileged=False, user_namespaces=False, read_only=True),
    "delegated": Place(cgroup=True),
}
"""By the privilege level that the runtime reaches there; the others are for controls."""


def enter(place: Place, *, scratch: bool, network: bool) -> None:
    """Makes the calling process the first one in the place; its caller stays behind, and ends as it ends.

    With `scratch` the jail's /tmp is a tmpfs of 64 MiB and 4096 files; with `network`, it is the machine's.
    """
    flags = _NEW_MOUNTS | _NEW_PIDS | _NEW_UTS | _NEW_IPC
    if place.confined and not network:
        flags |= _NEW_NET
    group = _new_group() if place.cgroup else ""
    _done(_libc.unshare(flags | (_NEW_CGROUP if place.cgroup else 0)))
    _stay_behind(group)
    _mount_root(place, scratch=scratch)
    if place.confined:
        _take_identity(place)


def _stay_behind(group: str) -> None:
    """Returns in a child, the first process of the new namespace."""
    if group:
        # A process that the container cannot see would keep it from dividing its group.
        _write(f"{_GROUPS}/cgroup.procs", "0")
    child = os.fork()
    if child == 0:
        _libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if group:
            _write(f"{group}/cgroup.procs", "0")
        return
    os.closerange(0, 1024)  # whoever reads the command's output, or waits for its start, does not wait for us
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if group:
        _remove_group(group)
    os._exit(code if code >= 0 else 128 - code)


def _new_group() -> str:
    """A new control group with this process in it, so that it is the root of the namespace to come."""
    group = f"{_GROUPS}/place-{os.getpid()}"
    os.mkdir(group)
    _write(f"{group}/cgroup.procs", "0")
    return group


def _remove_group(group: str) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)


def _mount_root(place: Place, *, scratch: bool) -> None:
    _mount("", "/", "", _PRIVATE | _RECURSIVE)
    if place.copied:
        _mount("tmpfs", ROOT, "tmpfs")
        for name in os.listdir("/"):
            if name not in ("machine", "proc", "sys", "dev"):
                _copy(f"/{name}", f"{ROOT}/{name}")
        for name in ("machine", "proc", "sys", "dev"):
            os.mkdir(f"{ROOT}/{name}")
    else:
        _mount("/", ROOT, "", _BIND)
    os.chdir(ROOT)
    _mount("proc", "proc", "proc")
    _mount("tmpfs", "dev", "tmpfs", 0, "mode=755")
    for name, numbers in _DEVICES.items():
        os.mknod(f"dev/{name}", stat.S_IFCHR | 0o666, os.makedev(*numbers))
        os.chmod(f"dev/{name}", 0o666)
    if place.confined:
        _mount("tmpfs", "machine", "tmpfs", _READ_ONLY)
    elif not place.copied:
        _mount("tmpfs", "tmp", "tmpfs", 0, "mode=1777")
    if place.cgroup:
        _mount("sysfs", "sys", "sysfs")
        _mount("cgroup", "sys/fs/cgroup", "cgroup2")
    if scratch:
        owner = f"uid={USER}" if place.user else "uid=0"
        _mount("tmpfs", TREE[1:] + "/tmp", "tmpfs", 0, f"size=64m,nr_inodes=4096,mode=755,{owner}")
    if place.read_only:
        _mount("", ".", "", _REMOUNT | _BIND | _READ_ONLY)
    if place.user_namespaces:
        # As runc does where the root is an initramfs, which pivot_root(2) cannot leave.
        _mount(".", "/", "", _MOVE)
    # Else it is a chroot, in which the kernel makes no user namespace: as Docker's own filter has it.
    os.chroot(".")
    os.chdir("/")


def _copy(source: str, target: str) -> None:
    if os.path.isdir(source) and not os.path.islink(source):
        shutil.copytree(source, target, symlinks=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


def _take_identity(place: Place) -> None:
    kept = (*_SHIPPED, *([_SYS_TIME] if place.cgroup else [])) if place.privileged else ()
    bounding = kept if place.privileged else _SHIPPED if place.user_namespaces else ()
    for capability in range(_LAST_CAPABILITY + 1):
        if capability not in bounding:
            _done(_libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0))
    os.setgroups([])
    os.setresgid(place.user, place.user, place.user)
    os.setresuid(place.user, place.user, place.user)
    mask = sum(1 << capability for capability in kept)
    halves = (mask & 0xFFFF_FFFF, mask >> 32)
    header = (ctypes.c_uint32 * 2)(0x2008_0522, 0)  # <linux/capability.h>: 64-bit sets
    _done(_libc.capset(header, (ctypes.c_uint32 * 6)(halves[0], halves[0], 0, halves[1], halves[1], 0)))
    if not place.privileged and not place.user_namespaces:
        _done(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0))


def _mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    words = [word.encode() or None for word in (source, target, kind)]
    _done(_libc.mount(*words, flags, options.encode() or None))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _done(failed: int) -> None:
    if failed:
        line = sys._getframe(1).f_lineno
        raise OSError(ctypes.get_errno(), f"line {line}: {os.strerror(ctypes.get_errno())}")
