"""A place to run code that nobody vouches for: Debian's packages, read-only, and nothing of this machine.

Namespaces of its own (mount, PID, network, IPC, host name; a user namespace where we are not root), a chroot
that is read-only but for a tmpfs, no network, an unprivileged uid without capabilities, no descriptors, an
environment of our own, and limits of time, memory, files and processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from builder.command import run
from builder.errors import BuildError, ToolMissing
from builder.progress import Progress

GIVEN = "/tmp/in"  # noqa: S108 - in there
"""Where the folder `given` lies in there."""
OUTPUT = "/tmp/out"  # noqa: S108 - in there
"""The one file that leaves it."""

_UID = "65534"
_SCRATCH_BYTES = 4 << 30
_FILE_BYTES = 2 << 30
_PROCESSES = 2048
_LAST_LINES = 15

# $0 is the root, $1 the given folder, $2 the tools, $3 the output file, $4 the size of the tmpfs, the rest
# the command. Data arrives as arguments, never as text. A file that is a mount point cannot be replaced by a
# link. The shell stays as the init of the PID namespace: it keeps its PR_SET_PDEATHSIG, which setresuid(2)
# would clear.
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
mount -o remount,ro,nosuid "$0/dev"
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
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        progress.detail(line)

    output.touch()
    output.chmod(0o666)  # the folder around it is ours alone
    full = [*_enter(root, (given, tools, output), timeout_s), *command]
    try:
        run(full, missing="apt-get install util-linux", env=env, on_line=on_line, echo=progress.command)
    except BuildError as error:
        shown = "".join(f"\n  < {line}" for line in lines[-_LAST_LINES:])
        if lines and re.match(r"(unshare|mount|setpriv|chroot|prlimit): ", lines[-1]):
            raise NotConfined(
                f"a build from source cannot be confined on this machine{shown}",
                "run as root, or where user namespaces are allowed: `sandbox-build doctor` says which",
            ) from None
        # timeout(1) dies of the same signal.
        if re.search(r": exit code (-9|137)$", error.message.split("\n  < ")[0]):
            raise BuildError(
                f"it took longer than {timeout_s} s, or more memory than there is{shown}"
            ) from None
        raise BuildError(f"it failed{shown}") from None


def _enter(root: Path, mounted: Sequence[Path], timeout_s: int) -> list[str]:
    namespaces = ["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    # The kernel takes the capabilities when the uid changes, and gives none back.
    change_root = ["chroot", f"--userspec={_UID}:{_UID}", "--groups=", str(root)]
    if os.geteuid() != 0:
        # mount(8) wants to be root; the build a uid that is not: one user namespace inside another.
        namespaces.append("--map-root-user")
        change_root = ["unshare", f"--map-user={_UID}", f"--map-group={_UID}", f"--root={root}"]
    return [
        # Our end is timeout's, its end unshare's, and so of all in its namespace.
        *("setpriv", "--pdeathsig=KILL"),
        *("timeout", "--signal=KILL", str(timeout_s)),
        *("setpriv", "--pdeathsig=KILL", "--no-new-privs"),
        *("unshare", *namespaces),
        *("sh", "-c", _ENTER, str(root), *map(str, mounted), str(_SCRATCH_BYTES)),
        *("prlimit", f"--nproc={_PROCESSES}", f"--fsize={_FILE_BYTES}", "--core=0"),
        *change_root,
    ]
