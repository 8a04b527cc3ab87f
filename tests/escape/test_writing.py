"""Changing what the next run will read: the tree is the same for all of them."""

from dataclasses import replace

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

OTHERS = {
    name: Attack(lines, "OK", "EACCES")
    for name, lines in {
        "a module again": "open(os.__file__, 'r+')",
        "the certificates": 'open("/etc/ssl/certs/ca-certificates.crt", "a")',
    }.items()
} | {
    "truncate": Attack(
        "os.truncate(os.__file__, os.stat(os.__file__).st_size)", "OK", "EACCES", restricted="EPERM"
    ),
    # Root is told that it runs.
    "the interpreter": Attack("open(os.path.realpath(sys.executable), 'r+')", "ETXTBSY", "EACCES"),
}
"""Another user's files."""

NEW = {
    name: Attack(lines, "OK", "EROFS", docker="EACCES")
    for name, lines in {
        "a file": 'open("/usr/evil", "w")',
        "a module": 'open(os.path.dirname(os.__file__) + "/evil.py", "w")',
        "a folder": 'os.mkdir("/usr/evil.d")',
        "a symlink": 'os.symlink("x", "/usr/evil.l")',
        "a file without a name": 'os.open("/usr", os.O_TMPFILE | os.O_WRONLY)',
        "rename": 'os.rename("/usr/lib", "/usr/evil.r"); os.rename("/usr/evil.r", "/usr/lib")',
        "unlink": 'os.unlink("/etc/ssl/certs/ca-certificates.crt")',
    }.items()
} | {
    "utime, now": Attack("os.utime(os.__file__)", "OK", "EROFS", docker="EACCES", restricted="EPERM"),
    # Where these are a tmpfs: of the run's own, or the container's.
    "mkfifo": Attack('os.mkfifo("/tmp/fifo")', "OK", "EACCES", restricted="EROFS"),
    "a file in /tmp": Attack('open("/tmp/evil", "w")', "OK", "EACCES", restricted="EROFS"),
    "a file in /dev": Attack('open("/dev/evil", "w")', "OK", "EACCES", bare="EROFS"),
}
"""New names in another user's folders. A read-only file system says so first."""

INODES = {
    "fchmod": Attack("os.fchmod(os.open(os.__file__, os.O_RDONLY), 0o777)", "OK", "EROFS", docker="EPERM")
} | {
    name: Attack(lines, "OK", "EROFS", docker="EPERM", restricted="EPERM")
    for name, lines in {
        "chmod": "os.chmod(os.__file__, 0o777)",
        "chmod of a folder": 'os.chmod("/usr", 0o777)',
        "utime": "os.utime(os.__file__, (1, 1))",
        "utime of a descriptor": "os.utime(os.open(os.__file__, os.O_RDONLY), (1, 1))",
    }.items()
}

FILTERED = {
    name: Attack(lines, "OK", "EPERM")
    for name, lines in {
        "chown": "os.chown(os.__file__, 0, 0)",
        "lchown": "os.lchown(os.__file__, 0, 0)",
        "fchown": "os.fchown(os.open(os.__file__, os.O_RDONLY), 0, 0)",
        "mknod": 'os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))',
        "setxattr": "os.setxattr(os.__file__, 'user.x', b'1')",
        "sync": 'call("sync")',
    }.items()
} | {
    # Newer than the catalog.
    "fchmodat2": Attack('call("fchmodat2", -100, b"/tmp", 0o777, 0)', "OK", "ENOSYS")
}

ATTACKS = OTHERS | NEW | INODES | FILTERED


def test_the_tree_cannot_be_changed(writable: Place, jail: Place, where: str) -> None:
    """Bytes, names, modes and times: not the code's to change, on a writable file system either."""
    judge(ATTACKS, writable, jail, where)


WALK = """
found = sum(
    os.access(os.path.join(folder, name), os.W_OK)
    for folder, _, names in os.walk({top!r})
    if folder != os.environ.get("TMPDIR")
    for name in (".", *names)
) > 0
"""


def test_nothing_that_can_be_seen_can_be_written(outside: Place, jail: Place, where: str) -> None:
    """Not one file or folder of the tree; under Landlock the tree has its own name as well."""
    top = "/var/sandbox/sandbox-python" if where == "restricted" else "/"
    judge({"walk": Attack(WALK.format(top=top), "True", "False")}, outside, jail, where)


LINKS = {"link": Attack('os.link(os.__file__, "/usr/lib/evil")', "OK", "EROFS", docker="EPERM")}


def test_no_hard_link_keeps_or_reaches_a_file(writable: Place, jail: Place, where: str) -> None:
    """A link would outlive the file's removal, and carry its owner's bits."""
    judge(LINKS, writable, jail, where)


FROM_SCRATCH = {
    "link": Attack('os.link(os.__file__, tmp + "/link")', "OK", "EXDEV"),
    "rename": Attack('os.rename("/etc/ssl", tmp + "/ssl")', "OK", "EXDEV"),
}
FROM_SCRATCH = {
    name: replace(attack, lines='tmp = os.environ.get("TMPDIR", "/tmp")\n' + attack.lines)
    for name, attack in FROM_SCRATCH.items()
}


def test_no_hard_link_from_the_scratch_folder(writable: Place, jail_with_scratch: Place, where: str) -> None:
    """The scratch folder is another file system; nor does a file go into it by rename."""
    judge(FROM_SCRATCH, writable, jail_with_scratch, where)
