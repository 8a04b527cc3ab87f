"""The first process of a run: leaves the image's root as the only file system, and starts the run there.

    python -I -S enter.py NAME=VALUE... -- COMMAND [ARGUMENT...]

jailrun.py starts it in new mount and PID namespaces with CAP_SYS_ADMIN: as root, or as root of a user
namespace. A program of its own, with nothing of `builder`: every run waits for it. What an image may bring
with it (its init, its interpreter) is not trusted, so that

- the root is mounted read-only, without set-id programs and devices, and this machine's file system is
  unmounted (pivot_root(2)): there is nothing outside it to break out to;
- the command is in a user namespace of its own, where it may have every capability, and none outside. uid 0
  in there is `zero`, which nobody else is;
- the caller's session keyring stays with the caller.

This process stays, as the init of the PID namespace: it keeps the PR_SET_PDEATHSIG that setresuid(2) would
clear, and the command is then no init, which signals of its own do not reach. It ends with the command's exit
code, 128 + N for signal N.

    root=PATH        the folder that becomes the root
    scratch=PATH     in there: where a tmpfs is mounted, of size=BYTES and mode=OCTAL
    uid=UID          what the run will have; outer=UID is what it is here
    zero=UID         what uid 0 in there is here; without it there is no uid 0, and the command has uid and,
                     unless drop=1, the capabilities
    groups=1         the caller's groups are given up, as an ordinary user cannot
    drop=1           the command starts as uid, and gains no privilege
    limit=NUMBER:N   a resource limit
    env=NAME=VALUE   a variable besides those of this process
"""

import ctypes
import os
import resource
import sys

_READ_ONLY, _NO_SETID, _NO_DEVICES, _REMOUNT, _BIND = 1, 2, 4, 32, 4096  # <linux/mount.h>
_DETACH = 2
_NEW_USER = 0x10000000
_NO_NEW_PRIVS, _AMBIENT, _AMBIENT_RAISE = 38, 47, 2  # <linux/prctl.h>
_CAPABILITIES_3 = 0x20080522  # <linux/capability.h>
_JOIN_SESSION_KEYRING = 1
_KEYCTL = {"x86_64": 250, "aarch64": 219}
_SIGINT, _SIGPIPE, _SIGXFSZ = 2, 13, 25
_INODES = 4096

_libc = ctypes.CDLL(None, use_errno=True)


class _Failed(Exception):
    """What could not be done, and why."""


def _done(result: int, what: str) -> None:
    if result != 0:
        raise _Failed(f"{what}: {os.strerror(ctypes.get_errno())}")


def _leave_keyring() -> None:
    """A session keyring of our own: the caller's may have secrets, and is inherited by everything."""
    # Where the kernel has none, or a filter denies them to all, there is none to read.
    if _libc.syscall(_KEYCTL[os.uname().machine], _JOIN_SESSION_KEYRING, None) < 0:
        number = ctypes.get_errno()
        if os.strerror(number) not in (os.strerror(1), os.strerror(38)):  # EPERM, ENOSYS
            raise _Failed(f"a session keyring of its own: {os.strerror(number)}")


def _change_root(root: str) -> None:
    """Makes the folder `root` the root, and unmounts the one that was."""
    path = os.fsencode(root)
    _done(_libc.mount(path, path, None, _BIND, None), f"mounting {root}")
    os.chdir(root)
    # What the mount forbids already must stay forbidden: in a user namespace it is locked.
    flags = _REMOUNT | _BIND | _READ_ONLY | _NO_SETID | _NO_DEVICES | os.statvfs(root).f_flag & os.ST_NOEXEC
    _done(_libc.mount(None, b".", None, flags, None), f"mounting {root} read-only")
    # Both at one place, as pivot_root(2) describes: the old root lies on the new one, until it is gone.
    _done(_libc.pivot_root(b".", b"."), f"making {root} the root")
    _done(_libc.umount2(b".", _DETACH), "unmounting this machine's file system")
    os.chdir("/")


def _mount_scratch(options: dict[str, str]) -> None:
    owner = options.get("zero") or options["outer"]
    data = f"size={options['size']},nr_inodes={_INODES},mode={options['mode']},uid={owner},gid={owner}"
    scratch = os.fsencode(options["scratch"])
    result = _libc.mount(b"tmpfs", scratch, b"tmpfs", _NO_SETID | _NO_DEVICES, data.encode())
    _done(result, f"mounting a tmpfs at {options['scratch']}")


def _write(path: str, text: str, folder: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _map_ids(pid: str, options: dict[str, str], proc: int) -> None:
    """Gives the user namespace of process `pid` its ids. Only a process outside may map more than its own."""
    lines = f"{options['uid']} {options['outer']} 1\n"
    if "zero" in options:
        lines = f"0 {options['zero']} 1\n{lines}"
    for kind in ("uid", "gid"):
        try:
            _write(f"{pid}/{kind}_map", lines, proc)
        except OSError as error:
            raise _Failed(f"mapping the ids of a user namespace: {error.strerror}") from None


def _keep_capabilities() -> None:
    """Has the command keep the capabilities of its user namespace, though it is not uid 0 there."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable: the lower and the upper half
    _done(_libc.capget(header, sets), "reading the capabilities")
    sets[2], sets[5] = sets[1], sets[4]
    _done(_libc.capset(header, sets), "keeping the capabilities")
    permitted = sets[1] | sets[4] << 32
    for one in range(64):
        if permitted >> one & 1:
            _done(_libc.prctl(_AMBIENT, _AMBIENT_RAISE, one, 0, 0), "keeping the capabilities")


def _take_identity(options: dict[str, str], limits: list[str]) -> None:
    if "groups" in options:
        os.setgroups([])
    own = int(options["uid"])
    uid = own if "drop" in options or "zero" not in options else 0
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    for limit in limits:
        kind, value = map(int, limit.split(":"))
        highest = resource.getrlimit(kind)[1]
        value = value if highest == resource.RLIM_INFINITY else min(value, highest)
        resource.setrlimit(kind, (value, value))
    if "drop" in options:
        _done(_libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "giving up privileges")
    elif uid:
        _keep_capabilities()


def _environment(proc: int, added: list[str]) -> dict[bytes, bytes]:
    # Not os.environ: the interpreter may have put LC_CTYPE there by itself.
    descriptor = os.open("self/environ", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    with open(descriptor, "rb") as file:  # noqa: PTH123 - a descriptor
        own = file.read().split(b"\0")
    pairs = (one.partition(b"=") for one in (*own, *map(os.fsencode, added)))
    return {name: value for name, equals, value in pairs if equals}


def _start(
    options: dict[str, str], limits: list[str], env: dict[bytes, bytes], command: list[str], proc: int
) -> int:
    """The process id of the command, in a user namespace of its own."""
    asked, ask = os.pipe()
    answered, answer = os.pipe()
    child = os.fork()
    if child:
        os.close(ask)
        os.close(answered)
        if pid := os.read(asked, 32):  # else it has said why, and ended
            _map_ids(pid.decode(), options, proc)
            os.write(answer, b"\0")
        for descriptor in (asked, answer, proc):
            os.close(descriptor)
        return child
    try:
        os.close(answer)
        _done(
            _libc.unshare(_NEW_USER),
            "a user namespace of its own (does user.max_user_namespaces forbid it?)",
        )
        os.write(ask, os.readlink("self", dir_fd=proc).encode())  # our number where `proc` was mounted
        if not os.read(answered, 1):
            os._exit(1)
        os.close(proc)
        _take_identity(options, limits)
        # This interpreter ignores them, and what is ignored stays so.
        for number in (_SIGPIPE, _SIGXFSZ):
            _libc.signal(number, None)
    except BaseException as error:
        _fail(error)
    try:
        os.execve(command[0], command, env)  # noqa: S606 - what we are for
    except OSError as error:
        os.write(2, os.fsencode(f"{command[0]}: {error.strerror}\n"))
        os._exit(127)


def _fail(error: BaseException) -> None:
    os.write(2, os.fsencode(f"enter: {error}\n"))
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Ends the process, with the command's exit code; 1 where nothing started, and stderr says why."""
    # A handler would be the way in for a signal to an init.
    _libc.signal(_SIGINT, None)
    end = arguments.index("--")
    pairs = [one.partition("=")[::2] for one in arguments[:end]]
    options, command = dict(pairs), arguments[end + 1 :]
    limits = [value for name, value in pairs if name == "limit"]
    proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    env = _environment(proc, [value for name, value in pairs if name == "env"])
    # From here on a file that is imported would be the image's.
    sys.meta_path.clear()
    sys.path.clear()
    _leave_keyring()
    _change_root(options["root"])
    _mount_scratch(options)
    child = _start(options, limits, env, command, proc)
    while True:
        ended, status = os.wait()
        if ended == child:
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BaseException as error:
        _fail(error)
