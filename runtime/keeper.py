"""The server's end of the zygote: starts it, starts it again, sends its orders and hears its reports."""

import _socket
import posix

from runtime.ends import Errand, PoolDown, Spare, close_all, control_pair, nothing_to_read, overhear, receive
from runtime.image import parse_json, to_json
from runtime.loop import Event, Loop
from runtime.processes import SIGKILL, is_child

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

ZYGOTE, SUPERVISOR = "/sandbox/zygote.pyc", "/sandbox/supervisor.pyc"
MESSAGE_BYTES = 1 << 13
MAX_ORDER_BYTES = 60 << 10
MAX_ANSWER_BYTES = 64 << 20
FIRST_REST_S, MOST_REST_S, GOOD_LIFE_S = 0.05, 5.0, 10.0
"""Between two starts of a zygote; one that has lived for GOOD_LIFE_S is started again after the first."""
READY_S = 10.0


class Keeper:
    """Keeps one zygote running."""

    def __init__(self, loop: Loop, python: str, environment: dict[str, str], log: "Any") -> None:
        self.loop = loop
        self.python = python
        self.environment = environment
        self.run_environment: dict[str, str] = {}
        """What every run has besides: how it finds the proxy of network.allow."""
        self.proxy_port = 0
        """Where that listens; 0 where there is none."""
        self.log = log
        self.reason = "the zygote has not started yet"
        """Why no spare can be had; empty while the zygote is up."""
        self.in_force: dict[str, Any] = {}
        """What the zygote says of its lock-down."""
        self.sets_identity = False
        """Whether each run has a uid of its own."""
        self.up = Event(loop)
        self.on_up: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self.starts = 0
        self.pid = 0
        self.stopping = False
        self.promising = True
        """The zygote is up, or will be in a moment: it was before, or was never tried."""
        self.birth_problem = ""
        """Why the zygote could not fork."""
        self._control: Any = None
        self._failure = ""
        """What the zygote has said before it ended."""
        self._born: dict[int, tuple[Event, list[Spare]]] = {}
        self._by_number: dict[int, Spare] = {}
        self._early: dict[int, list[int]] = {}
        self._by_pid: dict[int, Spare] = {}
        self._errands: dict[int, Errand] = {}
        self._serial = 0
        self._errand_pids: set[int] = set()

    # The zygote itself

    async def keep(self) -> None:
        """Starts the zygote, and again whenever it ends, until `stopping`."""
        rest_s = FIRST_REST_S
        while not self.stopping:
            began = self.loop.now()
            try:
                await self._live_once()
            except (PoolDown, OSError) as error:
                self.reason, self.promising = f"the zygote cannot be started: {error}", False
                self.on_failure()
            if self.stopping:
                return
            rest_s = FIRST_REST_S if self.loop.now() - began > GOOD_LIFE_S else min(2 * rest_s, MOST_REST_S)
            self.log.error("zygote ended", reason=self.reason)
            await self.loop.sleep(rest_s)

    async def _live_once(self) -> None:
        ours, theirs = control_pair()
        said, says = posix.pipe2(posix.O_CLOEXEC)
        nothing = nothing_to_read()
        try:
            self.pid = self._start([ZYGOTE, "3"], {0: nothing, 1: says, 2: says, 3: theirs.fileno()})
        except PoolDown:
            ours.close()
            posix.close(said)
            raise
        finally:
            theirs.close()
            posix.close(says)
            posix.close(nothing)
        self._control = ours
        self.starts += 1
        self._failure = ""
        hearing = self.loop.spawn(self._hear_zygote(ours))
        listening = self.loop.spawn(overhear(self.loop, said, self.log))
        status, _ = await self.wait_for(self.pid)
        await hearing.join()  # what it has said before it ended counts
        listening.cancel()
        self.pid = 0
        self.promising = self.up.is_set
        self.up = Event(self.loop)
        self.reason = self._failure or f"the zygote ended with status {status}: it is started again"
        self.loop.forget(ours.fileno())
        ours.close()
        for spare in list(self._by_pid.values()):
            if not spare.fresh:
                spare.lost = True
                self._by_pid.pop(spare.pid, None)
                spare.ended.set()
        if not self.promising:
            self.on_failure()
        for event, _ in self._born.values():
            event.set()
        for errand in self._errands.values():
            errand.begun.set()
        for rights in self._early.values():
            close_all(rights)
        for waiting in (self._born, self._errands, self._errand_pids, self._early):
            waiting.clear()

    async def stop(self) -> None:
        """Ends the zygote, and with it every run that is not fresh."""
        self.stopping = True
        if self.pid:
            self.end_zygote("the service stops")
            while self.pid:
                await self.loop.sleep(0.001)

    def end_zygote(self, why: str) -> None:
        """Ends it; unless the service stops, another one is started."""
        self._failure = self._failure or why
        # It ends when nobody is left who could tell it anything: it is another user's, and cannot be killed
        # without CAP_KILL. One that is stopped can be ended in no other way.
        self._control.shutdown(_socket.SHUT_RDWR)
        try:  # noqa: SIM105 - contextlib would be an import
            posix.kill(self.pid, SIGKILL)
        except OSError:
            pass

    def _start(self, words: list[str], descriptors: dict[int, int], variables: bool = True) -> int:
        """A new interpreter, with `descriptors` by the number that it gets; its process id."""
        actions = [(posix.POSIX_SPAWN_DUP2, ours, number) for number, ours in descriptors.items()]
        command = [self.python, "-I", "-S", "-B", *words]
        try:
            return posix.posix_spawn(
                self.python,
                command,
                self.environment if variables else {},
                file_actions=actions,
                setsigmask=[],
            )
        except OSError as error:
            raise PoolDown(f"no process could be started: {error.strerror}") from None

    async def wait_for(self, pid: int) -> "tuple[int, Any]":
        """The wait status and the usage of a child of the server, when it has ended."""
        pidfd = posix.pidfd_open(pid)
        try:
            await self.loop.readable(pidfd)
        finally:
            self.loop.forget(pidfd)
            posix.close(pidfd)
        _, status, usage = posix.wait4(pid, 0)
        return status, usage

    async def _hear_zygote(self, control: "Any") -> None:
        """Hears it to its end, and ends it where what it says cannot be taken in."""
        try:
            await self._hear(control)
        except Exception as error:
            self.end_zygote(f"a report of the zygote could not be taken: {type(error).__name__}: {error}")

    async def _hear(self, control: "Any") -> None:
        """Takes in every report, until nobody is left who could send one."""
        while True:
            await self.loop.readable(control.fileno())
            while True:
                try:
                    message, rights = receive(control)
                except BlockingIOError:
                    break
                except ConnectionResetError:
                    return
                if not message:
                    return
                try:
                    self._take_in(message, rights)
                except Exception:
                    close_all(rights)
                    raise

    def _take_in(self, message: bytes, rights: list[int]) -> None:
        word, _, rest = message.partition(b" ")
        if word == b"up":
            self.in_force = parse_json(rest)
            self.sets_identity = self.in_force.pop("sets_identity")
            self.reason = ""
            self.promising = True
            self.up.set()
            self.on_up()
        elif word == b"failed":
            self._failure = rest.decode("utf-8", "replace")
        elif word == b"born":
            number, pid = map(int, rest.split())
            if not is_child(rights[-1], pid, self.pid):
                raise ValueError("a process that is not its child")
            spare = Spare(self.loop, number, pid, rights, fresh=False)
            self._by_number[number] = self._by_pid[pid] = spare
            if number in self._early:
                spare.listener, spare.stacks = self._early.pop(number)
                spare.heard.set()
            event, made = self._born.pop(number)
            made.append(spare)
            event.set()
        elif word == b"listener":
            number = int(rest)
            if number not in self._by_number:
                self._early[number] = rights  # the child was faster than the zygote, which tells of its birth
                return
            spare = self._by_number[number]
            spare.listener, spare.stacks = rights
            spare.heard.set()
        elif word == b"unborn":
            number_text, _, why = rest.partition(b" ")
            event, _ = self._born.pop(int(number_text))
            self.birth_problem = why.decode("utf-8", "replace")
            event.set()
        elif word == b"ended":
            pid, status, cpu_us, peak = map(int, rest.split())
            self._errand_pids.discard(pid)
            if ended := self._by_pid.pop(pid, None):
                ended.end(status, cpu_us / 1e6, peak)
        elif word == b"errand":
            serial, pid = map(int, rest.split())
            self._errand_pids.add(pid)
            errand = self._errands.pop(serial, None)
            if errand is None:
                posix.close(rights[0])  # nobody waits for it any more
                return
            errand.answer = rights[0] if rights else -1
            errand.begun.set()

    def _order(self, order: "dict[str, Any]") -> None:
        if self._control is None or not self.up.is_set:
            raise PoolDown(self.reason)
        message = to_json(order)
        if len(message) > MAX_ORDER_BYTES:
            raise PoolDown("an order to the zygote is too long")
        try:
            self._control.send(message)
        except OSError as error:
            raise PoolDown(f"the zygote takes no orders: {error.strerror}") from None

    # Spares

    async def make_spare(self, number: int, scratch: str, limits: dict[str, int], fresh: bool) -> Spare:
        """A process that locks itself down; PoolDown, with the reason, where none can be made."""
        order = {"number": number, "scratch": scratch, "limits": limits, "env": self.run_environment}
        spare = self._start_fresh(order) if fresh else await self._have_forked(order)
        spare.scratch = scratch
        return spare

    async def see_ready(self, spare: Spare) -> None:
        """Goes on when `spare` waits for its job; PoolDown, with the reason, where it never does."""
        if not await self.loop.readable(spare.status, READY_S):
            raise PoolDown("a spare was not ready in time")
        line = posix.read(spare.status, MESSAGE_BYTES)
        if not line.startswith(b"{"):
            raise PoolDown(line.decode("utf-8", "replace").strip() or "a spare ended before it was ready")
        spare.facts = parse_json(line)
        spare.cpu_before_s = spare.facts["cpu_us"] / 1e6
        self.close(spare, "status")
        if spare.facts["naming"] and not await spare.heard.wait(READY_S):
            raise PoolDown("a spare's listener has not come")

    async def _have_forked(self, order: "dict[str, Any]") -> Spare:
        born = Event(self.loop)
        made: list[Spare] = []
        self._order(order)
        self._born[order["number"]] = born, made
        if not await born.wait(READY_S):
            self.end_zygote("the zygote did not answer in time")
        if not made:
            raise PoolDown(self.reason or self.birth_problem)
        return made[0]

    def _start_fresh(self, order: "dict[str, Any]") -> Spare:
        """A spare of an interpreter of its own, which is a child of the server."""
        ours, theirs = control_pair()
        pipes = [posix.pipe2(posix.O_CLOEXEC) for _ in range(5)]
        (stdin, to_stdin), (out, stdout), (err, stderr), (job, to_job), (from_status, status) = pipes
        given = {0: stdin, 1: stdout, 2: stderr, 3: theirs.fileno(), 4: job, 5: status}
        try:
            pid = self._start([ZYGOTE, "--fresh", to_json(order).decode(), "3", "4", "5"], given)
        except PoolDown:
            ours.close()
            close_all([to_stdin, out, err, stderr, to_job, from_status])
            raise
        finally:
            theirs.close()
            for descriptor in (stdin, stdout, job, status):
                posix.close(descriptor)
        ends = [to_stdin, out, err, stderr, to_job, from_status, posix.pidfd_open(pid)]
        spare = Spare(self.loop, order["number"], pid, ends, fresh=True)
        self._by_number[spare.number] = self._by_pid[pid] = spare
        self.loop.spawn(self._hear_fresh(ours))
        self.loop.spawn(self._see_fresh_end(spare))
        return spare

    async def _hear_fresh(self, control: "Any") -> None:
        try:
            await self._hear(control)
        finally:
            self.loop.forget(control.fileno())
            control.close()

    async def _see_fresh_end(self, spare: Spare) -> None:
        status, usage = await self.wait_for(spare.pid)
        self._by_pid.pop(spare.pid, None)
        spare.end(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss << 10)

    def close(self, spare: Spare, *names: str) -> None:
        """Closes the named ends that are still open."""
        for name in names:
            descriptor = getattr(spare, name)
            if descriptor >= 0:
                setattr(spare, name, -1)
                self.loop.forget(descriptor)
                posix.close(descriptor)

    def forget(self, spare: Spare) -> None:
        """Closes every end; the process has ended."""
        self.close(spare, *Spare.ENDS)
        self._by_number.pop(spare.number, None)

    async def end_fresh(self, number: int, nobody: int) -> None:
        """Ends all processes of a fresh run: its user is not below the zygote, nor ours without CAP_KILL."""
        try:  # noqa: SIM105 - contextlib would be an import
            await self.wait_for(self._start([ZYGOTE, "--end", str(number), str(nobody)], {}, variables=False))
        except (PoolDown, OSError):
            pass  # it is tried again

    def living(self) -> set[int]:
        """The process ids of all spares, runs and errands."""
        return {*self._by_pid, *self._errand_pids}

    # What is done as the run's user

    async def errand(self, name: str, number: int, **facts: "Any") -> bytes:
        """Has errands.py do `name` as the user of run `number`; its answer. PoolDown where nobody can."""
        errand = Errand(self.loop)
        self._serial += 1
        serial = self._serial
        self._order({"errand": name, "serial": serial, "number": number, **facts})
        self._errands[serial] = errand
        try:
            if not await errand.begun.wait(READY_S):
                self.end_zygote("the zygote did not answer in time")
        finally:
            self._errands.pop(serial, None)
        if errand.answer < 0:
            raise PoolDown(self.reason or "the zygote did not do its errand")
        parts, size = [], 0
        try:
            while size <= MAX_ANSWER_BYTES:
                await self.loop.readable(errand.answer)
                data = posix.read(errand.answer, 1 << 16)
                if not data:
                    break
                parts.append(data)
                size += len(data)
        finally:
            self.loop.forget(errand.answer)
            posix.close(errand.answer)
        return b"".join(parts)

    def start_supervisor(self, spare: Spare, mode: str, status: int) -> Event:
        """A supervisor for the calls that this run is denied; what is returned is set when it has ended."""
        given = {3: spare.listener, 4: spare.stacks, 5: spare.pidfd, 6: status, 2: spare.stderr_write}
        proxy = [str(self.proxy_port)] if self.proxy_port else []
        pid = self._start([SUPERVISOR, mode, "3", "4", "5", "6", *proxy], given, variables=False)
        ended = Event(self.loop)

        async def see_it_end() -> None:
            await self.wait_for(pid)
            ended.set()

        self.loop.spawn(see_it_end())
        return ended
