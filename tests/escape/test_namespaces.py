"""New namespaces, in which a user would be root again; and what mounts are made of."""

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

FLAGS = {
    "mount": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "user": 0x10000000,
}
CLONE = """
child = call("clone", {flags:#x} | 17, 0, 0, 0, 0)  # and SIGCHLD
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
# The control has left its namespaces for new ones at the end, which is why unshare comes after clone.
NAMESPACES = {
    f"clone, {name}": Attack(CLONE.format(flags=flag), "OK", "EPERM") for name, flag in FLAGS.items()
} | {
    f"unshare, {name}": Attack(f'call("unshare", {flag:#x})', "OK", "EPERM")
    for name, flag in (FLAGS | {"nothing": 0, "time": 0x80}).items()
}


def test_no_namespace_is_made(mounted: Place, jail: Place, where: str) -> None:
    """EPERM for clone and unshare with each flag; that of a user namespace needs no privilege otherwise."""
    judge(NAMESPACES, mounted, jail, where)


CLONE3 = """
arguments = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
child = call("clone3", arguments, 88)
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
BY_ANOTHER_CALL = {
    "clone3": Attack(CLONE3, "OK", "ENOSYS"),
    "clone, the flag among those of a thread": Attack(
        'call("clone", 0x00050f00 | 0x10000000, 0, 0, 0, 0)', "EINVAL", "EPERM"
    ),
    "clone, with flags above 32 bits": Attack(
        'call("clone", 1 << 32 | 0x800, 0, 0, 0, 0)', "EINVAL", "EPERM"
    ),
    "clone, CLONE_PARENT": Attack('call("clone", 0x8000 | 17 | 0x800, 0, 0, 0, 0)', "EINVAL", "EPERM"),
    "setns": Attack('call("setns", -1, 0)', "EBADF", "EPERM"),
}


def test_no_namespace_is_entered_in_a_roundabout_way(mounted: Place, jail: Place, where: str) -> None:
    """The call whose flags no filter can see is not there; no other flags carry the forbidden ones along."""
    judge(BY_ANOTHER_CALL, mounted, jail, where)


MOUNTS = {
    "tmpfs": Attack('call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, 0)', "OK", "EPERM"),
    "bind": Attack('call("mount", b"/usr", b"/tmp", 0, 0x1000, 0)', "OK", "EPERM"),
    "proc": Attack('call("mount", b"proc", b"/proc", b"proc", 0, 0)', "OK", "EPERM"),
    "remount, writable": Attack('call("mount", 0, b"/tmp", 0, 0x20, 0)', "OK", "EPERM"),
    "umount": Attack('call("umount2", b"/tmp", 2)', "OK", "EPERM"),
    "open_tree": Attack('os.close(call("open_tree", -100, b"/", 1))', "OK", "EPERM"),
    "move_mount": Attack('call("move_mount", -1, b"", -100, b"/tmp", 4)', "EBADF", "EPERM"),
    "fsopen": Attack('os.close(call("fsopen", b"tmpfs", 0))', "OK", "EPERM"),
    "fsconfig": Attack('call("fsconfig", -1, 6, 0, 0, 0)', "EINVAL", "EPERM"),
    "fsmount": Attack('call("fsmount", -1, 0, 0)', "EBADF", "EPERM"),
    "fspick": Attack('call("fspick", -1, b"", -1)', "EINVAL", "EPERM"),
    "mount_setattr": Attack('call("mount_setattr", -1, b"", 0, 0, 0)', "EINVAL", "EPERM"),
}


def test_nothing_is_mounted(mounted: Place, jail: Place, where: str) -> None:
    """EPERM for the old call and for the new ones."""
    judge(MOUNTS, mounted, jail, where)
