"""Confines the process to the tree where chroot is not to be had: landlock(7)."""

import posix

from runtime import kernel

CREATE_RULESET_VERSION = 1
RULE_PATH_BENEATH = 1

READ_FILE, READ_DIR = 1 << 2, 1 << 3
EXECUTE = 1 << 0
ALL_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
"""How many LANDLOCK_ACCESS_FS_* rights each ABI knows; later ones know no more (linux/landlock.h)."""
ALL_NET_RIGHTS = 0b11  # bind and connect of TCP, ABI 4; by port alone, and not TCP Fast Open
ALL_SCOPES = 0b11  # abstract unix sockets and signals
ABI_SCOPES = 6
O_PATH = 0o10000000
S_IFMT, S_IFDIR, S_IFLNK = 0o170000, 0o040000, 0o120000  # inode(7)

NAME_SERVICE = ("/etc/hosts", "/etc/resolv.conf")
"""The container's own, mounted there by the engine: what a run with the network on reads besides the tree."""


def abi() -> int:
    """The version of Landlock that this kernel has; 0 where there is none."""
    try:
        return kernel.call(kernel.SYS_landlock_create_ruleset, 0, 0, CREATE_RULESET_VERSION)
    except OSError:
        return 0


def restrict(
    version: int,
    tree: str,
    scratch: str,
    network: bool,
    readable: tuple[str, ...] = (),
    executable: bool = False,
) -> None:
    """The process, and whatever it starts, may read below `tree`, do anything below `scratch`, and no more.

    Of the tree's own /tmp nothing but `scratch` can be read: other runs, which may have the same user, have
    theirs there. `executable`: what is in the tree may be executed as well.
    `readable` are files and folders outside the tree that may be read besides, where they exist. Everything
    that the kernel's `version` can deny is denied, TCP included unless `network`. no_new_privs must be set.
    OSError where the kernel refuses.
    """
    files = (1 << ALL_FILE_RIGHTS[min(version, max(ALL_FILE_RIGHTS))]) - 1
    net = 0 if network or version < 4 else ALL_NET_RIGHTS
    scopes = ALL_SCOPES if version >= ABI_SCOPES else 0
    ruleset = _create(files, net, scopes)
    entries = [f"{tree.rstrip('/')}/{name}" for name in posix.listdir(tree) if name != "tmp"]
    for path in (*entries, *readable):
        try:
            kind = posix.stat(path, follow_symlinks=path in readable).st_mode & S_IFMT
        except FileNotFoundError:
            continue
        rights = READ_FILE | (EXECUTE if executable else 0)
        if kind != S_IFLNK:
            _allow(ruleset, path, rights | READ_DIR if kind == S_IFDIR else rights)
    if scratch:
        _allow(ruleset, scratch, files & ~EXECUTE)
    _enforce(ruleset)


def protect(version: int, tree: str, tmp: str) -> None:
    """The process, and whatever it starts, writes below `tree` in `tmp` alone, and signals nobody else.

    For a zygote, whose children confine themselves further. no_new_privs must be set.
    """
    files = (1 << ALL_FILE_RIGHTS[min(version, max(ALL_FILE_RIGHTS))]) - 1
    ruleset = _create(files, 0, ALL_SCOPES if version >= ABI_SCOPES else 0)
    _allow(ruleset, tree, READ_FILE | READ_DIR | EXECUTE)
    _allow(ruleset, tree.rstrip("/") + tmp, files)
    for path in NAME_SERVICE:
        try:
            _allow(ruleset, path, READ_FILE)
        except FileNotFoundError:
            continue
    _enforce(ruleset)


def scope() -> None:
    """No signal leaves the process and what it starts, and no abstract socket outside is reached: ABI 6."""
    _enforce(_create(0, 0, ALL_SCOPES))


def _create(files: int, net: int, scopes: int) -> int:
    # struct landlock_ruleset_attr grew with the ABI: a longer one than the kernel knows must end in zeros.
    attributes = bytearray(b"".join(part.to_bytes(8, "little") for part in (files, net, scopes)))
    return kernel.call(kernel.SYS_landlock_create_ruleset, attributes, len(attributes), 0)


def _enforce(ruleset: int) -> None:
    kernel.call(kernel.SYS_landlock_restrict_self, ruleset, 0)
    posix.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    # struct landlock_path_beneath_attr is packed: u64 rights, s32 descriptor.
    folder = posix.open(path, O_PATH | posix.O_CLOEXEC)
    rule = bytearray(rights.to_bytes(8, "little") + folder.to_bytes(4, "little"))
    kernel.call(kernel.SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, rule, 0)
    posix.close(folder)
