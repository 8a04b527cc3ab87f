"""A place to run code that nobody vouches for: Debian's packages, read-only, and nothing of this machine.

Namespaces of its own (mount, PID, network, IPC, host name; a user namespace where we are not root), a chroot
that is read-only but for a tmpfs, no network, an unprivileged uid without capabilities, no descriptors, an
empty session keyring, an environment of our own, and limits: of time and output for the whole, of the number
of processes, of each process's address space, of each file and of all files together.

A chroot and no pivot_root(2): to leave a chroot takes CAP_SYS_CHROOT or a descriptor from outside, and the
build has neither. In return the kernel refuses new user namespaces to whoever is in a chroot, and with them
capabilities (user_namespaces(7)).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.arch import host_arch
from builder.command import OutOfTime, TooMuchOutput, run
from builder.errors import BuildError, ToolMissing
from builder.progress import Progress

GIVEN = "/tmp/in"  # noqa: S108 - in there
"""Where the folder `given` lies in there."""
OUTPUT = "/tmp/out"  # noqa: S108 - in there
"""The one file that leaves it."""
FILE_BYTES = 2 << 30
"""The largest file that can be written in there."""

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs of this machine are that make the place: never what the build's own PATH says."""
_UID = "65534"
_SCRATCH_BYTES = 4 << 30
_MEMORY_BYTES = 4 << 30
_PROCESSES = 1024
_SAID_BYTES = 64 << 20
_LAST_LINES = 15
_READY = "the place is made"
_KEYRING = Path(__file__).with_name("keyring.py")
_KEYCTL = {"x86_64": 250, "aarch64": 219}
"""The number of keyctl(2), which glibc has no function for."""

# $0 is the root, $1 the given folder, $2 the tools, $3 the output file, $4 the size of the tmpfs, the rest
# the command. Data arrives as arguments, never as text. A file that is a mount point cannot be replaced by a
# link. In a user namespace what /dev is made of cannot be changed: remounted with `bind`, only its flags are.
# What is printed before _READY is ours. The shell stays as the init of the PID namespace: it keeps its
# PR_SET_PDEATHSIG, which setresuid(2) would clear.
_ENTER = f"""\
set -e
umask 022
mount --bind "$0" "$0"
mount -o remount,bind,ro,nosuid,nodev "$0"
mount -t tmpfs -o mode=0755,nosuid tmpfs "$0/dev"
for name in null zero full random urandom; do
  : > "$0/dev/$name"
  mount --bind "/dev/$name" "$0/dev/$name"
done
mount -o remount,bind,ro,nosuid "$0/dev"
mount -t tmpfs -o "size=$4,mode=1777,nosuid,nodev" tmpfs "$0/tmp"
mkdir "$0{GIVEN}"
mkdir -m 1777 "$0/tmp/work"
mount --bind "$1" "$0{GIVEN}"
mount --bind "$2" "$0{GIVEN}/tools"
mount -o remount,bind,ro,nosuid,nodev "$0{GIVEN}/tools"
mount -o remount,bind,ro,nosuid,nodev "$0{GIVEN}"
: > "$0{OUTPUT}"
mount --bind "$3" "$0{OUTPUT}"
mount -t proc -o nosuid,nodev,noexec proc "$0/proc" || :
root="$0"
shift 4
cd "$root"
echo "{_READY}"
"$@"
exit $?
"""


class NotConfined(ToolMissing):
    """This machine does not let us make such a place."""


def run_confined(
    root: Path,
    command: Sequence[str],
    *,
    given: Path,
    tools: Path,
    output: Path,
    env: Mapping[str, str],
    timeout_s: int,
    progress: Progress,
) -> None:
    """Runs `command` with `root` as its root directory.

    The folder `given` is at GIVEN, `tools` in its folder `tools`, both read-only; the file `output` is at
    OUTPUT.

    BuildError with the command's last lines where it fails or takes too long.
    """
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    ready = False

    def on_line(line: str) -> None:
        nonlocal ready
        if not ready and line == _READY:
            ready = True
            return
        lines.append(line)
        progress.detail(line)

    output.touch()
    output.chmod(0o666)  # the folder around it is ours alone
    try:
        run(
            [*_enter(root, (given, tools, output), env), *command],
            missing="apt-get install util-linux",
            env={"PATH": _PATH},
            on_line=on_line,
            echo=progress.command,
            keep=False,
            limit_bytes=_SAID_BYTES,
            timeout_s=timeout_s,
        )
    except BuildError as error:
        shown = "".join(f"\n  < {line}" for line in lines)
        if isinstance(error, OutOfTime):
            raise BuildError(f"it took longer than {timeout_s} s{shown}") from None
        if isinstance(error, TooMuchOutput):
            raise BuildError(error.message.rpartition(": ")[2]) from None
        if not ready or (lines and re.match(r"(unshare|chroot|prlimit|env): ", lines[-1])):
            raise NotConfined(
                f"a build from source cannot be confined on this machine{shown}",
                "run as root, or where user namespaces are allowed: `sandbox-build doctor` says which",
            ) from None
        if re.search(r": exit code (-9|137)$", error.message.split("\n  < ")[0]):
            raise BuildError(f"it was killed: it took more memory than there is{shown}") from None
        raise BuildError(f"it failed{shown}") from None


def _enter(root: Path, mounted: Sequence[Path], env: Mapping[str, str]) -> list[str]:
    namespaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    # The kernel takes the capabilities when the uid changes, and gives none back.
    change_root = [_program("chroot"), f"--userspec={_UID}:{_UID}", "--groups=", str(root)]
    if os.geteuid() != 0:
        # mount(8) wants to be root; the build a uid that is not: one user namespace inside another.
        namespaces.append("--map-root-user")
        change_root = [_program("unshare"), f"--map-user={_UID}", f"--map-group={_UID}", f"--root={root}"]
    return [
        # Our end is unshare's, its end the shell's, and so of all in its namespace.
        *("setpriv", "--pdeathsig=KILL", "--no-new-privs"),
        *(sys.executable, "-I", "-S", str(_KEYRING), str(_KEYCTL[host_arch().machine])),
        *("unshare", *namespaces),
        # A process group of its own: a signal to all of a group does not reach unshare.
        *("setsid", "sh", "-c", _ENTER, str(root), *map(str, mounted), str(_SCRATCH_BYTES)),
        *("prlimit", f"--as={_MEMORY_BYTES}", f"--nproc={_PROCESSES}", f"--fsize={FILE_BYTES}", "--core=0"),
        # Its PATH is for what runs behind the chroot: there may be no env(1) there, and chroot(1) and the
        # command have absolute paths, so that neither is looked up in it.
        *("env", "-i", *(f"{name}={value}" for name, value in env.items())),
        *change_root,
    ]


def _program(name: str) -> str:
    """The absolute path of one of this machine's programs."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise ToolMissing(f"{name} is not installed", "apt-get install util-linux coreutils")
    return path
