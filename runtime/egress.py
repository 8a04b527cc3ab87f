"""The process of the proxy that network.allow wants: how the server starts it, and what it does first.

    egress LISTENING REPORTS        descriptors: a listening TCP socket, and a pipe for lines of JSON

It is an interpreter of its own, without the server's memory and environment, and without any privilege.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would import enum
import _socket
import posix
import sys
from _json import encode_basestring_ascii as quoted

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any, Protocol

    class Log(Protocol):
        def info(self, event: str, **facts: Any) -> None: ...
        def warn(self, event: str, **facts: Any) -> None: ...
        def error(self, event: str, **facts: Any) -> None: ...


if __name__ == "__main__":
    sys.path.insert(0, "/sandbox")

from runtime import failure, kernel, landlock  # noqa: E402
from runtime.destinations import Destinations  # noqa: E402
from runtime.facts import read_service  # noqa: E402
from runtime.failure import Refused  # noqa: E402
from runtime.image import parse_json  # noqa: E402
from runtime.loop import Loop  # noqa: E402
from runtime.proxy import Denial, Proxy, Upstream  # noqa: E402

PROGRAM = "/sandbox/runtime/egress.pyc"
LOOPBACK = "127.0.0.1"
SIGINT, SIGKILL, SIGTERM = 2, 9, 15
RLIMIT_NOFILE, RLIMIT_AS = 7, 9
OPEN_FILES = 1024  # two for each connection and each name that is looked up
MEMORY_BYTES = 512 << 20
BACKLOG = 512
NOBODY = 65534
MAX_REPORT_BYTES = 1 << 12  # PIPE_BUF: a line is written whole or not at all
AGAIN_S, MAX_AGAIN_S = 0.1, 5.0  # how long a proxy that has ended is not started again


class Egress:
    """The server's end of the proxy: `port` is for the supervisors, `env` for the runs."""

    def __init__(self, loop: Loop, image: "dict[str, Any]", log: "Log") -> None:
        self.loop = loop
        self.log = log
        self.python: str = image["python"]
        # The server's own, and open as long as it lives: a proxy that is started again has the same port.
        self.listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        self.listening.bind((LOOPBACK, 0))
        self.listening.listen(BACKLOG)
        self.listening.setblocking(False)
        self.port: int = self.listening.getsockname()[1]
        url = f"http://{LOOPBACK}:{self.port}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        self.env = {form: url for name in names for form in (name, name.lower())}
        """What a run finds the proxy by. ALL_PROXY is no socks5h://: many clients need a package for it."""
        self.process = 0
        self.reports = self._start()

    def _start(self) -> int:
        """Starts the process; returns the pipe on which it reports."""
        reports, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        try:
            child = posix.fork()
        except OSError:
            posix.close(reports)
            posix.close(write)
            raise
        if child == 0:
            try:
                kernel.close_all_but(0, 1, 2, self.listening.fileno(), write)
                for descriptor in (self.listening.fileno(), write):
                    posix.set_inheritable(descriptor, True)
                command = [self.python, "-I", "-S", "-B", PROGRAM]
                posix.execve(self.python, [*command, str(self.listening.fileno()), str(write)], {})
            finally:
                posix._exit(1)
        posix.close(write)
        self.process = child
        return reports

    async def watch(self) -> None:
        """Writes to the log what the proxy refuses, and starts it again when it ends. For ever."""
        patience_s = AGAIN_S
        while True:
            began = self.loop.now()
            await self._log_reports()
            self.loop.forget(self.reports)
            posix.close(self.reports)
            self.log.error("egress_ended", status=await self._end())
            patience_s = (
                min(MAX_AGAIN_S, patience_s * 2) if self.loop.now() - began < MAX_AGAIN_S else AGAIN_S
            )
            await self.loop.sleep(patience_s)
            while True:
                try:
                    self.reports = self._start()
                    break
                except OSError as error:  # no process to be had, or no descriptor
                    self.log.error("egress_failed", error=str(error.strerror))
                    await self.loop.sleep(MAX_AGAIN_S)

    async def _end(self) -> int:
        """Ends the process, unless it has ended; its status."""
        try:  # noqa: SIM105 - contextlib would be an import
            posix.kill(self.process, SIGKILL)
        except PermissionError:
            pass  # it is another user's, even when it has ended, and we have no CAP_KILL
        pidfd = posix.pidfd_open(self.process)
        try:
            await self.loop.readable(pidfd)
        finally:
            self.loop.forget(pidfd)
            posix.close(pidfd)
        return posix.waitpid(self.process, 0)[1]

    async def _log_reports(self) -> None:
        rest = b""
        while True:
            await self.loop.readable(self.reports)
            try:
                part = posix.read(self.reports, 1 << 16)
            except BlockingIOError:
                continue
            if not part:
                return
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                self._log_report(line)
            if len(rest) > MAX_REPORT_BYTES:
                return  # it is not ours any more

    def _log_report(self, line: bytes) -> None:
        try:
            report = parse_json(line)
            if "error" in report:
                self.log.error("egress_failed", error=str(report["error"]))
                return
            facts = {name: report[name] for name in ("run", "host", "port", "why")}
        except (ValueError, KeyError, TypeError):
            return
        if all(type(value) in (int, str) for value in facts.values()):
            self.log.warn("egress_denied", **facts)


def start(loop: Loop, image: "dict[str, Any]", log: "Log") -> Egress:
    """Starts the proxy of an image whose runtime.json has a network_allow. Spawn `watch` next.

    Refused where a line of it, or the config's own proxy, is not one that can be gone by.
    """
    if image["on_denied"] == "log":
        # Where denied calls are let through, code makes sockets of its own.
        raise Refused(
            failure.IMAGE, "network.allow does not hold with syscalls: {on_denied: log}", "errno or kill"
        )
    try:
        Destinations(image["network_allow"])
        _upstream(image)
    except ValueError as error:
        raise Refused(failure.IMAGE, str(error), "mend config.yaml and build the image again") from None
    return Egress(loop, image, log)


def _upstream(image: "dict[str, Any]") -> Upstream | None:
    url = image.get("upstream_proxy")
    return Upstream(url) if url else None


class Reports:
    """The process's end of the pipe. What the server does not read in time is counted, and told later."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe
        self.lost = 0

    def write_denial(self, denial: Denial) -> None:
        """What network.allow has refused."""
        why = f"{denial.why} ({self.lost} more were not logged)" if self.lost else denial.why
        self._write(
            f'{{"run": {denial.run}, "host": {quoted(denial.host)}, '
            f'"port": {denial.port}, "why": {quoted(why)}}}\n'
        )

    def write_error(self, error: BaseException) -> None:
        """A fault of ours in one connection: the others go on."""
        self._write(f'{{"error": {quoted(f"{type(error).__name__}: {error}"[:200])}}}\n')

    def _write(self, line: str) -> None:
        try:
            posix.write(self.pipe, line.encode())
            self.lost = 0
        except BlockingIOError:
            self.lost += 1


def give_up_privileges(settings: "dict[str, Any]") -> None:
    """No user of any run, no capability, no new privilege, and of files nothing but the tree and /etc."""
    parent = posix.getppid()
    kernel.lower_limit(RLIMIT_NOFILE, OPEN_FILES)
    kernel.lower_limit(RLIMIT_AS, MEMORY_BYTES)
    if posix.getuid() == 0:
        first, count = settings["uid_range"]
        uid = NOBODY if NOBODY not in range(first, first + count) else first + count
        for capability in kernel.bounding_set():
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        posix.setgroups([])
        posix.setresgid(uid, uid, uid)
        posix.setresuid(uid, uid, uid)
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    kernel.set_capabilities(0)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, SIGKILL)
    if posix.getppid() != parent:
        raise OSError("the server has ended")
    if version := landlock.abi():
        landlock.restrict(version, settings["tree"], "", network=True, readable=("/etc",))


def main(listening: str, reporting: str) -> None:
    """Serves until the server ends."""
    _signal.signal(SIGINT, _signal.SIG_IGN)  # of a terminal, meant for the server, which drains
    settings = read_service()
    pipe = int(reporting)
    for descriptor in (pipe, int(listening)):
        posix.set_inheritable(descriptor, False)
    reports = Reports(pipe)
    try:
        # Before files are out of reach: a C library before glibc 2.34 loads what it asks name servers with.
        _socket.getaddrinfo(b"localhost", None)
        give_up_privileges(settings)
        loop = Loop()
        loop.on_crash = reports.write_error
        destinations = Destinations(settings["network_allow"])
        proxy = Proxy(loop, destinations, _upstream(settings), reports.write_denial)
        loop.run(proxy.serve(_socket.socket(fileno=int(listening))))
    except BaseException as error:  # into the log, not in between its lines
        reports.write_error(error)
        posix._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
