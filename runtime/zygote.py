"""The interpreter that warm runs are forked from. A process of its own, which serves the server alone.

    zygote CONTROL                        stays, and forks as it is told to
    zygote --fresh ORDER CONTROL JOB STATUS   becomes one run itself: a new interpreter
    zygote --end UID NOBODY               ends all processes of a fresh run, which no zygote may signal

It enters the jail's tree, gives up every privilege but that of making a child another user, and only then
imports the modules of `warm:`. Its orders come by CONTROL, a SOCK_SEQPACKET socket, one JSON object each:

    {"number": N, "scratch": PATH, ...}              fork a process that waits for its job: spare.py
    {"errand": NAME, "serial": N, "number": N, ...}  fork a process that works as the run's user: errands.py

Answers: `up JSON`; `born N PID` with seven descriptors, or `unborn N WHY`; `listener N` with two, from the
child itself; `errand SERIAL PID` with one; `ended PID STATUS CPU_US PEAK_BYTES`; `failed WHY`.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would import enum
import gc
import posix
import sys

sys.path.insert(0, "/sandbox")

from runtime import errands, kernel, program, spare
from runtime.channel import send
from runtime.facts import read_image
from runtime.failure import Refused
from runtime.image import parse_json
from runtime.jail import Jail
from runtime.spare import Ends

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_ORDER_BYTES = 1 << 16
REHEARSALS = 5
SIGCHLD = 17  # asm-generic/signal.h


class Zygote:
    """What it has: the settings, what is in force, and which children are runs."""

    def __init__(self, control: int) -> None:
        self.control = control
        self.settings, self.policies = read_image()
        self.jail = Jail(self.settings, self.policies, self.settings["uid_range"][0], keep=(control,))
        self.jail.kills = self.settings["on_denied"] == "kill"
        self.pid = posix.getpid()
        self.children: set[int] = set()
        self.wakeup = -1

    def prepare(self) -> None:
        """Locks itself down, and imports what shall be warm."""
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        self.jail.prepare()
        sys.path[:] = self.settings["sys_path"]
        for name in self.settings["serve"]["warm"]:
            try:
                __import__(name)
            except BaseException as error:
                reason = f"warm: {name} cannot be imported: {type(error).__name__}: {error}"
                send(self.control, b"failed " + reason.encode("utf-8", "replace")[:4000], [])
                posix._exit(1)
        import resource  # noqa: F401 - wait4(2)'s result is one of its types

        sys.stdout.flush()  # else what a module has printed comes out of every run
        sys.stderr.flush()
        for _ in range(REHEARSALS):
            program.rehearse()  # the interpreter rewrites code that runs often: here, not in each child
        gc.collect()
        gc.freeze()  # a collection in a child leaves alone, and shared, what is here already
        self.wakeup, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        _signal.set_wakeup_fd(write)
        _signal.signal(SIGCHLD, lambda *_: None)
        sets_identity = "true" if self.jail.sets_identity else "false"
        facts = f'{{"sets_identity": {sets_identity}, {self.jail.describe().decode()[1:]}'
        send(self.control, b"up " + facts.encode(), [])

    def serve(self) -> None:
        """Does what it is told to until the server has gone."""
        while True:
            sources = [(self.control, kernel.POLLIN), (self.wakeup, kernel.POLLIN)]
            try:
                ordered, ended = kernel.poll(sources, -1)
            except InterruptedError:
                continue  # by the signal whose byte is in the pipe now
            if ended:
                self._reap()
            if ordered:
                message = posix.read(self.control, MAX_ORDER_BYTES)
                if not message:
                    return
                self._obey(parse_json(message))

    def _obey(self, order: "dict[str, Any]") -> None:
        """Does as it is told; that it could not, for want of processes or descriptors, is told as well."""
        opened: list[int] = []
        try:
            if "errand" in order:
                self._fork_errand(order, opened)
            else:
                self._fork_spare(order, opened)
        except OSError as error:
            if "errand" in order:
                send(self.control, b"errand %d 0" % order["serial"], [])
            else:
                send(self.control, f"unborn {order['number']} no fork: {error.strerror}".encode(), [])
        finally:
            for descriptor in opened:
                posix.close(descriptor)

    def _fork_spare(self, order: "dict[str, Any]", opened: list[int]) -> None:
        pipes = []
        for _ in range(5):
            pipes.append(posix.pipe2(posix.O_CLOEXEC))
            opened += pipes[-1]
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr), *rest = pipes
        (job, to_job), (from_status, status) = rest
        pid = posix.fork()
        if pid == 0:
            try:
                self._become_child()
                for descriptor, number in ((stdin, 0), (stdout, 1), (stderr, 2)):
                    posix.dup2(descriptor, number)
                jail = self._child_jail(order)
                spare.serve_once(self.settings, order, Ends(job, status, self.control), jail)
            finally:
                posix.abort()  # whatever has been raised: a child never goes on as the zygote
        self.children.add(pid)
        pidfd = posix.pidfd_open(pid)
        opened.append(pidfd)
        ends = [to_stdin, from_stdout, from_stderr, stderr, to_job, from_status, pidfd]
        send(self.control, b"born %d %d" % (order["number"], pid), ends)

    def _fork_errand(self, order: "dict[str, Any]", opened: list[int]) -> None:
        read, write = posix.pipe2(posix.O_CLOEXEC)
        opened += (read, write)
        pid = posix.fork()
        if pid == 0:
            try:
                self._become_child()
                kernel.close_all_but(0, 1, 2, write)
                if self.jail.sets_identity:
                    # Whoever kills shares no id with the others, who would be killed with the run.
                    own = self.settings["uid_range"][0]
                    nobody = own + 1 if order["errand"] == "kill" else own
                    errands.take_identity(order["number"], nobody)
                errands.run(order, write)
            finally:
                posix._exit(0)
        self.children.add(pid)
        send(self.control, b"errand %d %d" % (order["serial"], pid), [read])

    def _become_child(self) -> None:
        _signal.set_wakeup_fd(-1)
        _signal.signal(SIGCHLD, _signal.SIG_DFL)
        kernel.prctl(kernel.PR_SET_PDEATHSIG, 9)
        if posix.getppid() != self.pid:
            posix._exit(1)

    def _child_jail(self, order: "dict[str, Any]") -> Jail:
        jail = Jail(self.settings, self.policies, order["number"])
        jail.level = self.jail.level
        jail.landlock_abi = self.jail.landlock_abi
        jail.namespaces = self.jail.namespaces
        jail.sets_identity = self.jail.sets_identity
        jail.shares_uid = not self.jail.sets_identity
        jail.inherited = True
        jail.parent = self.pid
        if not jail.sets_identity:
            jail.uid = posix.getuid()
        return jail

    def _reap(self) -> None:
        """Tells of each child that has ended. One that is not known was left behind by a run."""
        posix.read(self.wakeup, 1 << 10)
        while True:
            try:
                pid, status, usage = posix.wait4(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid in self.children:
                self.children.remove(pid)
                cpu_us = int((usage.ru_utime + usage.ru_stime) * 1e6)
                send(self.control, b"ended %d %d %d %d" % (pid, status, cpu_us, usage.ru_maxrss << 10), [])


def become_fresh(text: str, control: int, job: int, status: int) -> "NoReturn":
    """One run in this very interpreter."""
    settings, policies = read_image()
    order = parse_json(text.encode())
    sys.path[:] = settings["sys_path"]
    jail = Jail(settings, policies, order["number"])
    spare.serve_once(settings, order, Ends(job, status, control), jail)


def main(arguments: list[str]) -> None:
    """Ends when the server does."""
    if arguments[0] == "--end":
        errands.take_identity(int(arguments[1]), int(arguments[2]))
        errands.kill_all()
        posix._exit(0)
    if arguments[0] == "--fresh":
        become_fresh(arguments[1], *map(int, arguments[2:]))
    zygote = Zygote(int(arguments[0]))
    try:
        zygote.prepare()
        zygote.serve()
    except Refused as refused:
        send(zygote.control, f"failed {refused}; {refused.hint}".encode("utf-8", "replace")[:4000], [])
    posix._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
