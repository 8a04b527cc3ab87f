"""System calls that `posix` lacks, with errno turned into OSError."""

import posix

from runtime import _syscall

# linux/capability.h
CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_CHROOT, CAP_SYS_ADMIN = 5, 6, 7, 8, 18, 21
CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWNET = 0x04000000, 0x08000000, 0x10000000, 0x40000000

MAX_DESCRIPTOR = 2**32 - 1  # close_range(2) takes unsigned int
POLLIN, POLLOUT = 1, 4  # poll(2)
EINVAL = 22  # asm-generic/errno-base.h
_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h: 64-bit sets, in two halves

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP = 1, 4, 23, 24
PR_SET_KEEPCAPS, PR_SET_CHILD_SUBREAPER = 8, 36
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4  # linux/prctl.h

address = _syscall.address
keep_errno = _syscall.keep_errno
wipe = _syscall.wipe
wipe_environment = _syscall.wipe_environment
SYS_ioctl = _syscall.SYS_ioctl
SYS_landlock_add_rule = _syscall.SYS_landlock_add_rule
SYS_landlock_create_ruleset = _syscall.SYS_landlock_create_ruleset
SYS_landlock_restrict_self = _syscall.SYS_landlock_restrict_self
SYS_sendmsg = _syscall.SYS_sendmsg
SYS_seccomp = _syscall.SYS_seccomp
SYS_tkill = _syscall.SYS_tkill


def call(number: int, *arguments: int | bytearray) -> int:
    """The system call's result; OSError where it fails."""
    result = _syscall.call(number, *arguments)
    if result < 0:
        raise OSError(-result, posix.strerror(-result))
    return result


def prctl(option: int, *arguments: int) -> int:
    """prctl(2). The kernel wants unused arguments to be zero, which they are."""
    return call(_syscall.SYS_prctl, option, *arguments)


def unshare(flags: int) -> None:
    """unshare(2)."""
    call(_syscall.SYS_unshare, flags)


def poll(descriptors: list[tuple[int, int]], timeout_ms: int) -> list[bool]:
    """ppoll(2): whether each of (descriptor, events) is ready, or has been hung up. -1 waits for ever."""
    entries = bytearray(
        b"".join(one.to_bytes(4, "little") + events.to_bytes(4, "little") for one, events in descriptors)
    )
    seconds, milliseconds = divmod(timeout_ms, 1000)
    timeout = bytearray(
        seconds.to_bytes(8, "little", signed=True) + (milliseconds * 10**6).to_bytes(8, "little")
    )
    call(_syscall.SYS_ppoll, entries, len(descriptors), timeout if timeout_ms >= 0 else 0, 0)
    return [entries[at + 6 : at + 8] != b"\0\0" for at in range(0, len(entries), 8)]


def raise_limit(resource: int) -> int:
    """The soft limit of `resource` (RLIMIT_*) becomes the hard one, which is returned."""
    limit = bytearray(16)
    call(_syscall.SYS_prlimit64, 0, resource, 0, limit)
    hard = limit[8:]
    call(_syscall.SYS_prlimit64, 0, resource, hard * 2, 0)
    return int.from_bytes(hard, "little")


def lower_limit(resource: int, value: int) -> None:
    """Soft and hard limit of `resource` (RLIMIT_*) become `value`, or stay what they are if that is lower."""
    limit = bytearray(16)
    call(_syscall.SYS_prlimit64, 0, resource, 0, limit)
    hard = int.from_bytes(limit[8:], "little")
    call(_syscall.SYS_prlimit64, 0, resource, bytearray(min(value, hard).to_bytes(8, "little") * 2), 0)


def bounding_set() -> list[int]:
    """The capabilities in the bounding set of this thread, as numbers."""
    held = []
    for capability in range(64):
        try:
            if prctl(PR_CAPBSET_READ, capability):
                held.append(capability)
        except OSError as error:
            if error.errno != EINVAL:
                raise
            break  # past the last one that the kernel knows
    return held


def close_all_but(*kept: int) -> None:
    """Closes every descriptor that is not one of `kept`."""
    first = 0
    for descriptor in sorted(kept):
        close_range(first, descriptor - 1)
        first = descriptor + 1
    close_range(first, MAX_DESCRIPTOR)


def close_range(first: int, last: int) -> None:
    """Closes every descriptor from `first` to `last`, which both may be far beyond any that is open."""
    if first > last:
        return
    try:
        call(_syscall.SYS_close_range, first, last, 0)
    except OSError:  # Linux before 5.9, gVisor, or an engine's seccomp profile older than the call
        for name in posix.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                try:  # noqa: SIM105 - contextlib would be an import
                    posix.close(int(name))
                except OSError:
                    pass  # the descriptor of the listing itself


def capabilities() -> tuple[int, int, int]:
    """The (effective, permitted, inheritable) sets of this thread, as bit masks: capget(2)."""
    header = bytearray(_CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4))
    data = bytearray(24)
    call(_syscall.SYS_capget, header, data)
    words = [int.from_bytes(data[at : at + 4], "little") for at in range(0, 24, 4)]
    return words[0] | words[3] << 32, words[1] | words[4] << 32, words[2] | words[5] << 32


def clear_environment() -> None:
    """Empties the environment, and overwrites it: machine code reads where its strings lay."""
    wipe_environment()
    for value in posix.environ.values():
        wipe(value)
    posix.environ.clear()


def clear_ambient() -> None:
    """Empties the ambient set. gVisor has none (EINVAL); it cannot outlive the permitted set anyway."""
    try:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    except OSError as error:
        if error.errno != EINVAL:
            raise


def set_capabilities(kept: int) -> None:
    """Effective and permitted set of this thread become `kept`, a bit mask; the inheritable one is empty."""
    header = bytearray(_CAPABILITY_VERSION_3.to_bytes(4, "little") + bytes(4))
    low, high = (kept & 0xFFFF_FFFF).to_bytes(4, "little"), (kept >> 32).to_bytes(4, "little")
    call(_syscall.SYS_capset, header, bytearray(low * 2 + bytes(4) + high * 2 + bytes(4)))


def write_file(path: str, data: bytes) -> None:
    """One write(2) of `data` to a file that is there, as those of /proc want it."""
    descriptor = posix.open(path, posix.O_WRONLY | posix.O_CLOEXEC)
    try:
        posix.write(descriptor, data)
    finally:
        posix.close(descriptor)
