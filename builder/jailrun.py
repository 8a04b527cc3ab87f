"""Runs code in the jail of a built image on this machine, with no daemon: what `sandbox-build run` does.

The image's root is unpacked once into a cache. Each run then gets namespaces of its own through unshare(1):
a mount namespace where the root is read-only and /tmp of the jail is a small tmpfs, and a PID namespace that
takes every process of the run with it. The image's own entrypoint does the lock-down, as in a container.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from builder.archive import open_archive, unpack_archive
from builder.dockerfile import entrypoint
from builder.errors import BuildError, ToolMissing
from builder.status import Denied, StatusStream
from builder.tree.spec import INIT_PATH, SANDBOX_PATH, TREE_PATH

STOPPED_EXITS = {"timeout": 124, "output": 125, "cancelled": 130}
"""What a run that we had to end ends with; timeout(1) has 124, too, and a shell has 130 after Ctrl-C."""

_INIT_USAGE = 208
"""What init ends with that was told nothing to start (docs/exit-codes.md)."""

# $0 is the root, $1 the size of the scratch, the rest the command. Data arrives as arguments, never as text.
# The shell stays as the init of the PID namespace: it keeps its PR_SET_PDEATHSIG, which setresuid(2) would
# clear, and the program is then no init, which signals of its own do not reach. What the shell has to say of
# the program's end does not belong into the program's stderr.
_ENTER = f"""\
set -e
mount --bind "$0" "$0"
mount -o remount,bind,ro,nosuid,nodev "$0"
mount -t tmpfs -o "size=$1,nr_inodes=4096,mode=0755,nosuid,nodev" tmpfs "$0{TREE_PATH}/tmp"
shift
exec 3>&2 2>/dev/null
(exec "$@" 2>&3 3>&-)
exit $?
"""  # noqa: S108 - the jail's own /tmp


class NotEntered(BuildError):
    """No code was run, and the runtime did not come to say why."""

    def __init__(self, code: int) -> None:
        super().__init__(
            f"the jail could not be entered (exit code {code}; its own message is above)",
            "run as root, or where user namespaces are allowed: `sandbox-build doctor` says which",
        )
        self.code = code
        """What the command that enters it ended with."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    exit_code: int
    """The code's own; the runtime's (208 to 223); 124 for a time-out, 125 for too much output."""
    status: dict[str, Any]
    """What the runtime said was in force; empty where the lock-down was never reached."""
    stopped: str | None = None
    """Why we ended the run: timeout, output or cancelled; None where it ended by itself. The code cannot
    forge this."""
    denied: tuple[Denied, ...] = ()
    """The calls that the policy denies, by name."""
    denied_whole: bool = True
    """Whether `denied` is all of them, as far as we could read."""


def unpack(image: Path, cache: Path) -> Path:
    """The root of the image archive at `image`, unpacked below `cache` unless it is there already."""
    with open_archive(image) as archive:
        digest = archive.descriptor.digest.removeprefix("sha256:")
    root = cache / "roots" / digest
    if not root.is_dir():
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=".unpack-") as partial:
            unpack_archive(image, Path(partial) / "root")
            try:
                (Path(partial) / "root").rename(root)
            except OSError:
                if not root.is_dir():  # another run was faster
                    raise
    return root


def run(
    root: Path,
    arguments: Sequence[str],
    *,
    code: BinaryIO | None = None,
    stdin: int | BinaryIO | None = None,
    timeout_s: float | None = None,
    stdout: BinaryIO | None = None,
    stderr: BinaryIO | None = None,
    trace: bool = False,
    uid: int | None = None,
    cancel: int | None = None,
) -> Outcome:
    """Runs the image whose root is `root` and passes its output on as it comes.

    `arguments` are the entrypoint's. `code` is read from a descriptor of its own, so that `stdin` is the
    program's. Time-out and output limit are those of runtime.json unless given. With `trace` denied calls are
    let through, but for dangerous ones. Threads may run at the same time, each with a `uid` of its own
    (None: one of this process). Once the descriptor `cancel` can be read, the run is ended.
    """
    settings = json.loads((root / SANDBOX_PATH.lstrip("/") / "runtime.json").read_bytes())
    timeout_s = settings["worker_timeout_s"] if timeout_s is None else timeout_s
    uid = own_uid(settings["uid_range"]) if uid is None else uid
    status_read, status_write = os.pipe()
    passed = [_above_nine(status_write)]
    os.close(status_write)
    command = [
        *enter_command(root, settings, uid),
        *entrypoint(settings["python"]),
        *("--status-fd", str(passed[0])),
        *(("--trace",) if trace else ()),
        *("--uid", str(uid)),
    ]
    if code is not None:
        passed.append(_above_nine(code.fileno()))
        command += ["--code-fd", str(passed[1])]
    command += arguments
    os.set_blocking(status_read, False)
    status = StatusStream()
    with os.fdopen(status_read, "rb", buffering=0) as status_file:
        exit_code, stopped = supervise(
            command,
            stdin=stdin,
            stdout=stdout or sys.stdout.buffer,
            stderr=stderr or sys.stderr.buffer,
            timeout_s=timeout_s,
            limit_bytes=settings["limits"]["output_bytes"],
            handed_over=passed,
            status=(status_file, status),
            cancel=cancel,
        )
    if not status.facts and stopped is None:
        raise NotEntered(exit_code)
    return Outcome(exit_code, status.facts, stopped, status.denied, status.whole)


def supervise(
    command: Sequence[str],
    *,
    stdin: int | BinaryIO | None,
    stdout: BinaryIO,
    stderr: BinaryIO,
    timeout_s: float,
    limit_bytes: int,
    handed_over: Sequence[int] = (),
    status: tuple[io.FileIO, StatusStream] | None = None,
    cancel: int | None = None,
) -> tuple[int, str | None]:
    """Runs `command` and passes its output on until it ends, or must; its exit code, and why we ended it.

    The descriptors `handed_over` are the program's from now on, and closed here. Nothing of its process group
    is left.
    """
    terminal = _read_only_terminal(stdin)
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, never a shell; see _ENTER
            command,
            stdin=stdin if terminal is None else terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=handed_over,
            start_new_session=True,  # a process group that can be killed as one
        )
    except FileNotFoundError:
        raise ToolMissing(f"{command[0]} is not installed", "apt-get install util-linux") from None
    finally:
        for descriptor in (*handed_over, *([terminal] if terminal is not None else [])):
            os.close(descriptor)
    with process:
        try:
            stopped = _pump(
                process,
                stdout,
                stderr,
                status,
                deadline=time.monotonic() + timeout_s,
                limit_bytes=limit_bytes,
                cancel=cancel,
            )
        finally:
            if process.returncode is None:  # not reaped, so the group is still this run's
                os.killpg(process.pid, signal.SIGKILL)
        exit_code = process.wait() if stopped is None else STOPPED_EXITS[stopped]
    # As the shell has it, where there was none: 128 + N for a program that signal N ended.
    return (128 - exit_code if exit_code < 0 else exit_code), stopped


def can_enter(root: Path) -> bool:
    """Whether this machine can enter the image at `root`, whatever then comes of its interpreter."""
    settings = json.loads((root / SANDBOX_PATH.lstrip("/") / "runtime.json").read_bytes())
    entered = subprocess.run(  # noqa: S603 - a list, never a shell; see _ENTER
        [*enter_command(root, settings), INIT_PATH], capture_output=True, check=False
    )
    return entered.returncode == _INIT_USAGE


def enter_command(root: Path, settings: dict[str, Any], uid: int | None = None) -> list[str]:
    """The command that makes `root` the root directory of what follows it, as isolated as can be had.

    `uid` is what the run will have (None: one of this process).
    """
    if os.geteuid() == 0 and not _may_mount():
        return ["chroot", str(root)]  # in a container: root without CAP_SYS_ADMIN
    namespaces = ["--mount", "--pid", "--fork", "--kill-child"]
    change_root = ["chroot", str(root)]
    if os.geteuid() != 0:
        # mount(8) wants to be root; the jail wants a uid that is not: one user namespace inside another.
        namespaces.append("--map-root-user")
        uid = own_uid(settings["uid_range"]) if uid is None else uid
        change_root = ["unshare", f"--map-user={uid}", f"--map-group={uid}", "--keep-caps", f"--root={root}"]
    scratch_bytes = str(settings["limits"]["scratch_bytes"])
    return [
        *("setpriv", "--pdeathsig=KILL"),  # our end is unshare's, the shell's, and so of all in its namespace
        *("unshare", *namespaces),
        *("sh", "-c", _ENTER, str(root), scratch_bytes, *change_root),
    ]


def _may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN (bit 21 of capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def _above_nine(descriptor: int) -> int:
    """A copy of `descriptor` that is out of the way of a shell's redirections, which have one digit."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)


def own_uid(uid_range: Sequence[int], slot: int = 0, slots: int = 1) -> int:
    """A uid of our own among the runs of this machine: our process id, folded into the range.

    Runs at the same time need it with different `slot`, below `slots`, which the range must have room for.
    """
    first, count = uid_range
    return int(first + (os.getpid() * slots + slot) % count)


def _pump(
    process: subprocess.Popen[bytes],
    stdout: BinaryIO,
    stderr: BinaryIO,
    status: tuple[io.FileIO, StatusStream] | None,
    *,
    deadline: float,
    limit_bytes: int,
    cancel: int | None,
) -> str | None:
    """Passes output on until the run ends, or must end: past `deadline` (monotonic) or `limit_bytes`, or by
    `cancel`.

    Returns None for a run that has ended, else why it must: timeout, output or cancelled. Holds one read at a
    time, and what `status` keeps. What has ended is not reaped yet; what it forked has ended with it.
    """
    left = limit_bytes
    pidfd = os.pidfd_open(process.pid)
    with selectors.DefaultSelector() as selector, os.fdopen(pidfd, "rb", buffering=0) as ended:
        for source, target in ((process.stdout, stdout), (process.stderr, stderr)):
            assert source is not None  # noqa: S101 - both are PIPE
            selector.register(source, selectors.EVENT_READ, target)
        if status is not None:
            selector.register(status[0], selectors.EVENT_READ)
        if cancel is not None:
            selector.register(cancel, selectors.EVENT_READ)
        selector.register(ended, selectors.EVENT_READ)
        over = False
        while over or time.monotonic() < deadline:
            # Once the run is over, what is left of it is in the pipes already.
            events = selector.select(0 if over else deadline - time.monotonic())
            if not events:
                break
            for key, _ in events:
                if key.fileobj is ended:
                    selector.unregister(ended)
                    os.killpg(process.pid, signal.SIGKILL)  # a fork may go on printing
                    over = True
                    continue
                if key.fd == cancel:
                    return "cancelled"
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.data is None:
                    assert status is not None  # noqa: S101 - nothing else has no target
                    status[1].feed(data)
                else:
                    key.data.write(data[:left])
                    key.data.flush()
                    left -= len(data)
                if left < 0:
                    _say(stderr, f"error: more than {limit_bytes} bytes of output")
                    return "output"
    if not over:
        _say(stderr, "error: timeout")
        return "timeout"
    if status is not None:
        status[1].end()
    return None


def _read_only_terminal(stdin: int | BinaryIO | None) -> int | None:
    """A terminal that is our stdin, opened anew for reading: as it came, it can be written past the limit."""
    try:
        descriptor = 0 if stdin is None else stdin if isinstance(stdin, int) else stdin.fileno()
        return os.open(os.ttyname(descriptor), os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def _say(stderr: BinaryIO, text: str) -> None:
    stderr.write(f"sandbox: {text}\n".encode())
    stderr.flush()
