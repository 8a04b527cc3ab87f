"""The running container's name servers and hosts, for code in the jail.

/etc/hosts and /etc/resolv.conf of the tree are links into its /run. Where an engine mounts the container's
own through the image's links, as runc does for Kubernetes, they lie there already. Docker puts a file of its
own in the place of the image's link: what is in it is copied.
"""

import posix

from runtime.image import read_file

NAMES = ("hosts", "resolv.conf")
FOLDER = "/run"


def bring(tree: str) -> str:
    """Has the jail's files say what the container's say; else one sentence on why they do not.

    For the level `chroot`; at `landlock` code reads the container's own files.
    """
    try:
        for name in NAMES:
            _copy(f"/etc/{name}", f"{tree}{FOLDER}/{name}")
    except OSError as error:
        return (
            f"the jail does not know the container's name servers: {error.strerror}; mount a tmpfs at "
            f"{tree}{FOLDER}, or run the container with a root that can be written, or as an ordinary user"
        )
    return ""


def _copy(source: str, target: str) -> None:
    try:
        content = read_file(source)
    except FileNotFoundError:
        return  # no engine has put one there: the image's default stays
    try:
        if read_file(target) == content:  # the same file, or copied by an earlier run
            return
    except FileNotFoundError:
        pass  # a new tmpfs
    # Whole or not at all: other runs read it meanwhile.
    partial = f"{target}.{posix.getpid()}"
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    descriptor = posix.open(partial, flags, 0o644)
    try:
        posix.write(descriptor, content)
        posix.fchmod(descriptor, 0o644)  # whatever the umask is
    finally:
        posix.close(descriptor)
    posix.rename(partial, target)
