"""`serve`: the HTTP service. One thread waits for connections, runs and signals alike.

The order of a start: the settings, the environment wiped (it holds the key), the zygote started, and only
then, while that comes up, what else is to be imported. The port is open from the beginning: /health says
503, with the reason, until a run inside the jail has succeeded.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would import enum
import _socket
import posix

from runtime import kernel
from runtime.ends import PoolDown, reserve_descriptors
from runtime.facts import read_service
from runtime.failure import INTERNAL, Refused
from runtime.image import read_file
from runtime.log import Log
from runtime.loop import Event, Loop
from runtime.pool import NoUid, Pool
from runtime.run import Job
from runtime.settings import Settings, read_settings, reload

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

SIGKILL, SIGHUP, SIGTERM, SIGINT, SIGPIPE = 9, 1, 15, 2, 13  # asm-generic/signal.h
BACKLOG = 4096
RLIMIT_NOFILE = 7
SELF_TEST = b"import sys\nsys.stdout.write('ok')\n"
PROXY_TEST = b"""
import _socket
one = _socket.socket()
one.connect(("127.0.0.1", 9))
one.send(b"GET / HTTP/1.0\\r\\n\\r\\n")
assert one.recv(9)
"""
"""With network.allow: on a kernel that cannot lend sockets no run would have any."""
SELF_TEST_AGAIN_S = 0.5
MAX_SAID = 500
NEEDS = "; network.allow needs Linux 5.14 with seccomp's user notification, which gVisor has not"


class Server:
    """The service, from its start to its end."""

    def __init__(self, settings: Settings, log: Log, environ: dict[bytes, bytes]) -> None:
        self.settings = settings
        self.log = log
        self.environ = environ
        self.loop = Loop()
        self.loop.on_crash = self._crash
        log.loop = self.loop
        self.pool = Pool(self.loop, settings, zygote_environment(settings.image, environ), log)
        self.stopping = Event(self.loop)

    async def serve(self) -> None:
        """Returns when everything that was asked before SIGTERM is answered, or its time is over."""
        starting = self.loop.spawn(self._start_pool())
        # What is imported from here on is imported while the zygote starts, on another processor.
        from runtime.api import Api
        from runtime.http import serve_connections
        from runtime.metrics import Metrics

        self.api = Api(self.loop, self.pool, self.settings, self.log, Metrics())
        listener = listen(self.settings.port)
        self.loop.on_signal(SIGTERM, self._drain)
        self.loop.on_signal(SIGINT, self._drain)
        self.loop.on_signal(SIGHUP, self._reload)
        serving = self.loop.spawn(serve_connections(self.loop, listener, self.api, self.settings, self.log))
        await starting.join()
        self._tell_in_force("serving", port=self.settings.port)
        await self.stopping.wait()
        ends = self.loop.now() + self.settings.grace_s
        while self.api.in_flight and self.loop.now() < ends:
            await self.loop.sleep(0.01)
        serving.cancel()
        await self.pool.stop()
        self.log.info("stopped", unanswered=self.api.in_flight)

    async def _start_pool(self) -> None:
        self._open_network()
        await self.pool.start()
        while not self.stopping.is_set:
            try:
                problem = await self._try_a_run()
            except (PoolDown, NoUid) as error:
                problem = str(error)
            if not problem:
                return
            reason = f"the self-test failed: {problem}"
            if reason != self.pool.untested:
                self.log.error("self-test failed", reason=problem)
                self.pool.untested = reason
            await self.loop.sleep(SELF_TEST_AGAIN_S)

    async def _try_a_run(self) -> str:
        """The self-test: what is wrong with a run in the jail; empty, and the pool is tested, if nothing."""
        allow_list = self.settings.image["network_allow"]
        outcome = await self.pool.run(Job((PROXY_TEST if allow_list else b"") + SELF_TEST))
        if (outcome.exit_code, outcome.stdout) == (0, b"ok"):
            self.pool.untested = ""
            return ""
        said = outcome.stderr.decode("utf-8", "replace").strip()[-MAX_SAID:]
        problem = f"exit code {outcome.exit_code}: {outcome.error} {said}"
        return problem + NEEDS if allow_list else problem

    def _tell_in_force(self, event: str, **facts: "Any") -> None:
        in_force = self.pool.facts()
        self.log.info(event, privilege_level=in_force.pop("level", ""), **facts, **in_force)

    def _open_network(self) -> None:
        """What an image with the network on needs: name servers, or the proxy of network.allow."""
        image = self.settings.image
        if image["network_allow"]:
            from runtime import egress

            proxy = egress.start(self.loop, image, self.log)
            self.pool.keeper.run_environment, self.pool.keeper.proxy_port = proxy.env, proxy.port
            self.loop.spawn(proxy.watch())
        elif image["network"] and posix.getuid() == 0:
            from runtime import nameservice

            if said := nameservice.bring(image["tree"]):
                self.log.warn("name service", text=said)

    def _drain(self) -> None:
        self.log.info("draining", in_flight=self.api.in_flight)
        self.api.draining = True
        self.stopping.set()

    def _reload(self) -> None:
        settings, notes = reload(self.settings, self.environ, read_file)
        if settings is self.settings:
            self.log.error("not reloaded", reason=notes[0])
            return
        self.settings = self.api.settings = self.pool.settings = settings
        self.log.says_debug = settings.debug
        self.pool.admit()
        self.log.info("reloaded", notes=notes)

    def _crash(self, error: BaseException) -> None:
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where is not None else ""
        self.log.error("internal", error=type(error).__name__, at=place)


def listen(port: int) -> "_socket.socket":
    """A socket that listens on `port` of every address, IPv4 and IPv6 where there is one."""
    for family, address in ((_socket.AF_INET6, "::"), (_socket.AF_INET, "0.0.0.0")):  # noqa: S104 - a container's
        try:
            listener = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
            listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            if family == _socket.AF_INET6:
                listener.setsockopt(_socket.IPPROTO_IPV6, _socket.IPV6_V6ONLY, 0)
            listener.bind((address, port))
            listener.listen(BACKLOG)
            listener.setblocking(False)
            return listener
        except OSError as error:
            problem = error.strerror
    raise Refused(INTERNAL, f"port {port} cannot be listened on: {problem}", "set PORT to a free one")


def zygote_environment(image: "dict[str, Any]", environ: dict[bytes, bytes]) -> dict[str, str]:
    """What the zygote's interpreter starts with: what runs get, and nothing of the server's own."""
    kept = {
        name: environ[name.encode()].decode("utf-8", "surrogateescape")
        for name in image["env_keep"]
        if name.encode() in environ
    }
    return {**image["env"], **kept}


def take_environment() -> dict[bytes, bytes]:
    """The environment, of which nothing is left in memory where a library would look for it."""
    environ = {bytes(bytearray(name)): bytes(bytearray(value)) for name, value in posix.environ.items()}
    kernel.clear_environment()
    return environ


def harden() -> None:
    """Ends with init, gains no privilege, and cannot be looked into by a process of its own user."""
    kernel.prctl(kernel.PR_SET_PDEATHSIG, SIGKILL)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 0)


def prepare(settings: Settings) -> Log:
    """Makes the process fit for a service, and says what should be known of its settings."""
    harden()
    reserve_descriptors()
    kernel.raise_limit(RLIMIT_NOFILE)
    _signal.signal(SIGPIPE, _signal.SIG_IGN)
    log = Log(2, settings.debug)
    for warning in settings.warnings:
        log.warn("settings", text=warning)
    return log


def main(arguments: list[str]) -> None:
    """Ends the process with 0 after SIGTERM; Refused where it cannot serve."""
    if arguments:
        raise Refused(INTERNAL, f"serve takes no arguments: {arguments}", "settings come by the environment")
    image = read_service()
    environ = take_environment()
    settings = read_settings(image, environ, read_file)
    server = Server(settings, prepare(settings), environ)
    server.loop.run(server.serve())
    posix._exit(0)
