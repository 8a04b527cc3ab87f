"""One thread that waits for many descriptors: coroutines on epoll(7).

Not asyncio, whose import costs six times what the interpreter itself does (docs/decisions/0018): this is the
part of it that a server of one process needs. A task is a coroutine; it gives way where it awaits one of the
Loop's methods, an Event or another task, and nowhere else.
"""

import _signal  # type: ignore[import-not-found]  # `signal` would import enum
import errno
import posix
import select
from _heapq import heapify, heappop, heappush
from time import monotonic

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator
    from typing import Any

READ, WRITE, GONE = select.EPOLLIN, select.EPOLLOUT, select.EPOLLRDHUP
ALWAYS = select.EPOLLHUP | select.EPOLLERR
"""What epoll tells of without being asked."""
MAX_EVENTS = 256
MIN_TIMERS = 256


class Cancelled(BaseException):
    """The task shall end: raised where it awaits."""


class Wait:
    """One stop of one task. What comes first ends it: an event, a time-out, or a cancellation."""

    __slots__ = ("over", "task")

    def __init__(self) -> None:
        self.task: Task | None = None
        self.over = False

    def __await__(self) -> "Generator[Wait, Any, Any]":
        return (yield self)

    def go_on(self, value: "Any", error: BaseException | None = None) -> None:
        """Has the task go on at the loop's next turn."""
        if not self.over:
            self.over = True
            if self.task is not None:
                self.task.loop.ready.append((self.task, value, error))


class Task:
    """A coroutine that the loop runs."""

    __slots__ = ("coroutine", "done", "error", "joined", "joining", "loop", "value", "wait")

    def __init__(self, loop: "Loop", coroutine: "Coroutine[Any, Any, Any]") -> None:
        self.loop = loop
        self.coroutine = coroutine
        self.done = False
        self.value: Any = None
        self.error: BaseException | None = None
        self.wait: Wait | None = None
        self.joining: list[Wait] = []
        self.joined = False

    def cancel(self) -> None:
        """Raises Cancelled in the task, where it waits. One that has ended is left alone."""
        if self.done:
            return
        if self.wait is not None and not self.wait.over:
            self.wait.go_on(None, Cancelled())
        else:  # it is to go on anyway, or has not begun
            self.loop.ready.append((self, None, Cancelled()))

    async def join(self) -> "Any":
        """The task's value when it has ended; raises what it raised."""
        self.joined = True
        if not self.done:
            wait = Wait()
            self.joining.append(wait)
            await wait
        if self.error is not None:
            raise self.error
        return self.value

    def step(self, value: "Any", error: BaseException | None) -> None:
        """Runs the coroutine up to its next stop."""
        if self.done:
            return
        if self.wait is not None:
            self.wait.over = True  # cancelled, it no more goes on from there
        self.wait = None
        try:
            wait = self.coroutine.send(value) if error is None else self.coroutine.throw(error)
        except StopIteration as stop:
            self._end(stop.value, None)
        except BaseException as failed:
            self._end(None, failed)
        else:
            self.wait = wait
            wait.task = self
            if wait.over:  # it was settled before anybody waited
                self.loop.ready.append((self, None, None))

    def _end(self, value: "Any", error: BaseException | None) -> None:
        if isinstance(error, Cancelled):
            # Its traceback leads here, and to all that the coroutine held: a circle, kept until a collection.
            error.__traceback__ = None
        self.done, self.value, self.error = True, value, error
        for wait in self.joining:
            wait.go_on(None)
        if error is not None and not self.joined and not isinstance(error, Cancelled):
            self.loop.on_crash(error)


class Event:
    """Something that happens once, and that any number of tasks wait for."""

    __slots__ = ("is_set", "loop", "waits")

    def __init__(self, loop: "Loop") -> None:
        self.loop = loop
        self.is_set = False
        self.waits: list[Wait] = []

    def set(self) -> None:
        """It has happened."""
        self.is_set = True
        waits, self.waits = self.waits, []
        for wait in waits:
            wait.go_on(True)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """True once it has happened; False where `timeout_s` was over before."""
        if self.is_set:
            return True
        wait = Wait()
        self.waits.append(wait)
        if timeout_s is not None:
            self.loop.at(self.loop.now() + timeout_s, wait)
        try:
            return bool(await wait)
        finally:
            if wait in self.waits:
                self.waits.remove(wait)


class Loop:
    """Runs tasks, each until it waits, and waits itself when all of them do."""

    def __init__(self) -> None:
        self.ready: list[tuple[Task, Any, BaseException | None]] = []
        self.on_crash: Callable[[BaseException], None] = _raise
        """Gets what a task has raised that nobody joins."""
        self._epoll = select.epoll()
        self._asked: dict[int, int] = {}
        self._waits: dict[int, dict[int, Wait]] = {}
        self._timers: list[tuple[float, int, Wait]] = []
        self._timer_number = 0
        self._most_timers = MIN_TIMERS
        self._signals: dict[int, Callable[[], None]] = {}
        self._wakeup = -1

    now = staticmethod(monotonic)
    """Seconds of a clock that is never set."""

    def spawn(self, coroutine: "Coroutine[Any, Any, Any]") -> Task:
        """A task, which begins at the next turn."""
        task = Task(self, coroutine)
        self.ready.append((task, None, None))
        return task

    def run(self, coroutine: "Coroutine[Any, Any, Any]") -> "Any":
        """Runs `coroutine`, and all tasks meanwhile, until it ends: its value, or what it raised."""
        main = self.spawn(coroutine)
        main.joined = True
        while True:
            batch, self.ready = self.ready, []
            for task, value, error in batch:
                task.step(value, error)
            if main.done:
                break
            self._await()
        if main.error is not None:
            raise main.error
        return main.value

    def on_signal(self, number: int, react: "Callable[[], None]") -> None:
        """Has `react` called, between two tasks, when the signal comes."""
        if self._wakeup < 0:
            self._wakeup, write = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
            _signal.set_wakeup_fd(write)
            self.spawn(self._hear_signals())
        self._signals[number] = react
        _signal.signal(number, lambda *_: None)  # what counts is the byte that it leaves in the pipe

    def at(self, when: float, wait: Wait) -> None:
        """Has `wait` go on with False at the time `when`."""
        if len(self._timers) > self._most_timers:
            # Most are of waits that are over: a connection's, say, whose next request has come long ago.
            self._timers = [timer for timer in self._timers if not timer[2].over]
            heapify(self._timers)
            self._most_timers = max(MIN_TIMERS, 2 * len(self._timers))
        self._timer_number += 1
        heappush(self._timers, (when, self._timer_number, wait))

    async def sleep(self, seconds: float) -> None:
        """Goes on after `seconds`."""
        wait = Wait()
        self.at(self.now() + seconds, wait)
        await wait

    async def readable(self, descriptor: int, timeout_s: float | None = None) -> bool:
        """Whether there is something to read, or the end of it; False where `timeout_s` was over before."""
        return await self._until(descriptor, READ, timeout_s)

    async def writable(self, descriptor: int, timeout_s: float | None = None) -> bool:
        """Whether there is room to write, or nobody who reads; False where `timeout_s` was over before."""
        return await self._until(descriptor, WRITE, timeout_s)

    async def hung_up(self, descriptor: int) -> None:
        """Goes on when the other side of a socket has closed it."""
        await self._until(descriptor, GONE, None)

    def forget(self, descriptor: int) -> None:
        """Before the descriptor is closed: whoever waits for it gets Cancelled."""
        if self._asked.pop(descriptor, 0):
            self._epoll.unregister(descriptor)
        for wait in self._waits.pop(descriptor, {}).values():
            wait.go_on(None, Cancelled())

    async def _until(self, descriptor: int, what: int, timeout_s: float | None) -> bool:
        waits = self._waits.setdefault(descriptor, {})
        earlier = waits.get(what)
        assert earlier is None or earlier.over, "two tasks wait for one thing"  # noqa: S101
        wait = waits[what] = Wait()
        asked = self._asked.get(descriptor, 0)
        if not asked & what:
            self._ask(descriptor, asked | what)
        if timeout_s is not None:
            self.at(self.now() + timeout_s, wait)
        try:
            return bool(await wait)
        finally:
            if waits.get(what) is wait:
                del waits[what]

    def _ask(self, descriptor: int, mask: int) -> None:
        if descriptor in self._asked:
            self._epoll.modify(descriptor, mask)
        else:
            self._epoll.register(descriptor, mask)
        self._asked[descriptor] = mask

    def _await(self) -> None:
        """Waits until a task can go on."""
        timers = self._timers
        while timers and timers[0][2].over:
            heappop(timers)
        patience = -1.0
        if self.ready:
            patience = 0
        elif timers:
            patience = max(0.0, timers[0][0] - self.now())
        for descriptor, events in self._epoll.poll(patience, MAX_EVENTS):
            self._tell(descriptor, events)
        if timers:
            now = self.now()
            while timers and timers[0][0] <= now:
                heappop(timers)[2].go_on(False)

    def _tell(self, descriptor: int, events: int) -> None:
        """Wakes whoever waits for what has happened; what nobody waits for is not asked for any more."""
        waits = self._waits.get(descriptor, {})
        if events & ALWAYS:
            events |= READ | WRITE | GONE
        told = False
        for what in (READ, WRITE, GONE):
            if events & what and what in waits:
                waits.pop(what).go_on(True)
                told = True
        if not told:
            mask = 0
            for what in waits:
                mask |= what
            if mask and not events & ALWAYS:
                self._ask(descriptor, mask)
            elif self._asked.pop(descriptor, 0):
                self._epoll.unregister(descriptor)
                self._waits.pop(descriptor, None)

    async def _hear_signals(self) -> None:
        while True:
            await self.readable(self._wakeup)
            for number in posix.read(self._wakeup, 1 << 10):
                if number in self._signals:
                    self._signals[number]()


async def write_all(loop: Loop, descriptor: int, data: "bytes | memoryview", timeout_s: float) -> bool:
    """Writes `data` to a descriptor that does not block; False where nobody reads, or not in time."""
    ends = loop.now() + timeout_s
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[posix.write(descriptor, rest) :]
        except BlockingIOError:
            if not await loop.writable(descriptor, ends - loop.now()):
                return False
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                return False
            raise
    return True


def _raise(error: BaseException) -> None:
    raise error
