"""Runs code in the jail of a built image on this machine, with no daemon: what `sandbox-build run` does.

The image's root is unpacked once into a cache. Each run then gets namespaces of its own: a mount namespace
where the root is read-only and all that there is, and /tmp of the jail a small tmpfs; a PID namespace that
takes every process of the run with it; a user namespace, in which root is nobody outside. The image's own
entrypoint does the lock-down there, as in a container. It need not be ours: what it can do without is what a
container's root can.
"""

from __future__ import annotations

import fcntl
import io
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from builder.archive import open_archive, unpack_archive
from builder.dockerfile import entrypoint
from builder.entrance import confined, host_program, may_mount
from builder.errors import BuildError, ToolMissing
from builder.image_settings import read_settings
from builder.status import Denied, StatusStream
from builder.tree.spec import INIT_PATH, TREE_PATH

STOPPED_EXITS = {"timeout": 124, "output": 125, "cancelled": 130}
"""What a run that we had to end ends with; timeout(1) has 124, too, and a shell has 130 after Ctrl-C."""

_INIT_USAGE = 208
"""What init ends with that was told nothing to start (docs/exit-codes.md)."""
_USAGE_S = 30
_USAGE_BYTES = 1 << 16


class NotEntered(BuildError):
    """No code was run, and the runtime did not come to say why."""

    def __init__(self, code: int) -> None:
        super().__init__(
            f"the jail could not be entered (exit code {code}; its own message is above)",
            "run where user namespaces are allowed: `sandbox-build doctor` says which",
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
    limit_bytes: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Outcome:
    """Runs the image whose root is `root` and passes its output on as it comes.

    `arguments` are the entrypoint's. `code` is read from a descriptor of its own, so that `stdin` is the
    program's. The time-out is that of runtime.json unless given, the output limit unless less is given. With
    `trace` denied calls are let through, but for dangerous ones. Threads may run at the same time, each with
    a `uid` of its own (None: one of this process). Once `cancel`, a descriptor, can be read, we end the run.
    `env` is what the image gets of an environment (None: what its runtime.json keeps of ours).
    """
    settings = read_settings(root)
    timeout_s = settings["worker_timeout_s"] if timeout_s is None else timeout_s
    uid = own_uid(settings["uid_range"]) if uid is None else uid
    status_read, status_write = os.pipe()
    passed = [_above_two(status_write)]
    os.close(status_write)
    command = [
        *enter_command(root, settings, uid),
        *entrypoint(settings["python"]),
        *("--status-fd", str(passed[0])),
        *(("--trace",) if trace else ()),
        *("--uid", str(uid)),
    ]
    if code is not None:
        passed.append(_above_two(code.fileno()))
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
            limit_bytes=min(
                [settings["limits"]["output_bytes"], *([] if limit_bytes is None else [limit_bytes])]
            ),
            env=kept_environment(settings["env_keep"]) if env is None else env,
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
    env: Mapping[str, str],
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
        process = subprocess.Popen(  # noqa: S603 - a list, never a shell
            command,
            stdin=stdin if terminal is None else terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
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
    exit_code, _ = supervise(
        [*enter_command(root, read_settings(root)), INIT_PATH],
        stdin=subprocess.DEVNULL,
        stdout=io.BytesIO(),
        stderr=io.BytesIO(),
        timeout_s=_USAGE_S,
        limit_bytes=_USAGE_BYTES,
        env={},
    )
    return exit_code == _INIT_USAGE


def enter_command(root: Path, settings: dict[str, Any], uid: int | None = None) -> list[str]:
    """The command that makes `root` the root directory of what follows it, as isolated as can be had.

    `uid` is what the run will have (None: one of this process). As root in a container without CAP_SYS_ADMIN
    it is chroot(2) and nothing else: there it is the container that confines the image.
    """
    if os.geteuid() == 0 and not may_mount():
        return [host_program("chroot"), str(root)]
    return confined(
        root,
        own_uid(settings["uid_range"]) if uid is None else uid,
        scratch=f"{TREE_PATH}/tmp",  # noqa: S108 - the jail's own
        scratch_bytes=settings["limits"]["scratch_bytes"],
        scratch_mode="0755",
        network=settings["network"],
    )


def kept_environment(names: Iterable[str]) -> dict[str, str]:
    """The variables of our own environment that a run shall have."""
    return {name: os.environ[name] for name in names if name in os.environ}


def _above_two(descriptor: int) -> int:
    """A copy of `descriptor` that is out of the way of the standard streams."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)


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
