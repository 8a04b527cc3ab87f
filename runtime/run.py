"""One run, from its job to its outcome: feeds the process, reads what it prints, ends it, and counts."""

import posix
import select

from runtime.ends import PoolDown
from runtime.image import parse_json, to_json
from runtime.loop import Cancelled, Event, Loop, Task, write_all

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.ends import Spare
    from runtime.pool import Pool

    OnOutput = Callable[[str, bytes], None]

SIGKILL, SIGSYS = 9, 31  # asm-generic/signal.h
READ_BYTES = 1 << 16
LAST_WORDS_S = 2.0
"""What a supervisor may take to write its last counts."""
GONE_S = 10.0
"""What the kernel may take to end processes that were killed."""
WATCH_AFTER_S = 0.1
OUTPUTS_BYTES = 32 << 20
"""What all files that a run brings back may have."""
PATHS_AT_ONCE = 4  # of 1024 characters each, which JSON may write with 12
TIMED_OUT = -1

KILLED_FOR_CALL = "the run made a system call that the policy kills for: see `sandbox-build policy show`"
SENTENCES = {
    "timeout": "timeout",
    "cpu": "the run has used up its CPU time: limits.cpu_s",
    "memory": "the run has used up its memory: limits.memory",
    "scratch": "the run has filled its private folder: limits.scratch",
    "cancelled": "the client has gone",
    "pool": "the zygote ended, and the run with it: try again",
}
"""What `error` says, by what has ended a run."""


class Job:
    """What one run is given."""

    def __init__(
        self,
        code: bytes,
        *,
        preload: bytes = b"",
        argv: "list[str] | None" = None,
        stdin: bytes = b"",
        files: "dict[str, bytes] | None" = None,
        outputs: "list[str] | None" = None,
        env: "dict[str, str] | None" = None,
        timeout_s: float | None = None,
        limits: "dict[str, int] | None" = None,
        fresh: bool = False,
    ) -> None:
        """`files` and `outputs` have paths relative to the private folder, which is where the code starts.

        `limits` are named as in runtime.json, and may only be lower; `timeout_s` None is the service's own.
        """
        self.code = code
        self.preload = preload
        self.argv = argv or ["-"]
        self.stdin = stdin
        self.files = files or {}
        self.outputs = outputs or []
        self.env = env or {}
        self.timeout_s = timeout_s
        self.limits = limits or {}
        self.fresh = fresh

    def message(self) -> bytes:
        """As spare.py reads it: a line of JSON, and the parts one behind the other."""
        parts = [self.code, self.preload, *self.files.values()]
        head = {
            "sizes": [len(part) for part in parts],
            "files": list(self.files),
            "argv": self.argv,
            "env": self.env,
        }
        return b"".join((to_json(head), b"\n", *parts))


class Outcome:
    """What came of a run."""

    def __init__(self) -> None:
        self.exit_code = 0
        """The code's own, 128 + N for signal N, -1 where the time was over."""
        self.stdout = b""
        self.stderr = b""
        self.stdout_truncated = False
        self.stderr_truncated = False
        self.outputs: dict[str, bytes | None] = {}
        self.outputs_error: dict[str, str] = {}
        self.ended_by = ""
        """Empty where it ended by itself; else timeout, cpu, memory, scratch, killed, cancelled or pool."""
        self.error = ""
        self.denied: list[dict[str, Any]] = []
        self.duration_s = 0.0
        self.wait_s = 0.0
        self.cpu_s = 0.0
        self.peak_memory_bytes = 0
        self.fresh = False
        self.uid = 0


class Stream:
    """What one of the run's two streams has printed, as far as it is kept."""

    def __init__(self, run: "Run", name: str, descriptor: int) -> None:
        self.run = run
        self.name = name
        self.descriptor = descriptor
        self.parts: list[bytes] = []
        self.truncated = False

    async def pump(self) -> None:
        """Reads until nobody can write any more; what is beyond the limit is thrown away."""
        loop = self.run.loop
        while True:
            await loop.readable(self.descriptor)
            data = posix.read(self.descriptor, READ_BYTES)
            if not data:
                return
            room = self.run.output_left
            if len(data) > room:
                data = data[:room]
                self.truncated = True
            self.run.output_left -= len(data)
            if data and self.run.on_output is not None:
                self.run.on_output(self.name, data)
            elif data:
                self.parts.append(data)


class Run:
    """A spare that gets its job. `carry_out` is the whole of it."""

    def __init__(
        self, pool: "Pool", spare: "Spare", job: Job, on_output: "OnOutput | None", cancelled: Event | None
    ) -> None:
        self.pool = pool
        self.loop: Loop = pool.loop
        self.spare = spare
        self.job = job
        self.on_output = on_output
        self.cancelled = cancelled
        self.output_left: int = job.limits.get("output_bytes", pool.limits["output_bytes"])
        self.reason = ""
        self.delivered = True
        """False: the spare had closed its end already, and the code was never begun."""
        self.naming: Task | None = None
        """Takes in what the supervisor says."""
        self.supervisor: Event | None = None
        """Set when it has ended."""
        self.outcome = Outcome()
        self.denied: dict[tuple[str, str], dict[str, Any]] = {}

    async def carry_out(self) -> Outcome:
        """The outcome, with every process of the run gone. The caller retires the spare."""
        spare, loop, outcome = self.spare, self.loop, self.outcome
        began = loop.now()
        stdout, stderr = Stream(self, "stdout", spare.stdout), Stream(self, "stderr", spare.stderr)
        pumps = [loop.spawn(stdout.pump()), loop.spawn(stderr.pump())]
        helpers = [loop.spawn(self._feed())]
        if spare.listener >= 0:
            self.naming = loop.spawn(self._name_denials())
            helpers.append(self.naming)
        if self.cancelled is not None:
            helpers.append(loop.spawn(self._cancel()))
        if spare.scratch:
            helpers.append(loop.spawn(self._watch()))
        timeout_s = self.pool.timeout_s if self.job.timeout_s is None else self.job.timeout_s
        try:
            if not await spare.ended.wait(timeout_s):
                self._end("timeout")
            await self.pool.see_gone(spare)
            outcome.duration_s = loop.now() - began
            if self.naming is not None and self.supervisor is not None:
                await self._bounded(self.naming)  # to the supervisor's last counts: it ends with the run
                await self.supervisor.wait(LAST_WORDS_S)
            self.pool.keeper.close(spare, "stderr_write")
            for pump in pumps:
                await self._bounded(pump)
            if self.job.outputs and not spare.lost:
                await self._bring_outputs()
        finally:
            for task in (*helpers, *pumps):
                task.cancel()
        outcome.stdout, outcome.stderr = b"".join(stdout.parts), b"".join(stderr.parts)
        outcome.stdout_truncated, outcome.stderr_truncated = stdout.truncated, stderr.truncated
        self._conclude()
        return outcome

    def _end(self, reason: str) -> None:
        """Has every process of the run killed; the first reason is the one that is told."""
        if not self.reason:
            self.reason = reason
        self.loop.spawn(self.pool.kill(self.spare))

    async def _feed(self) -> None:
        """Writes the job and the run's stdin. A run that does not read has itself to blame."""
        spare, loop = self.spare, self.loop
        message = self.job.message()
        self.delivered = await write_all(loop, spare.job, message, self.pool.timeout_s + GONE_S)
        if self.delivered:
            self.pool.keeper.close(spare, "job")
            if self.job.stdin:
                await write_all(loop, spare.stdin, self.job.stdin, self.pool.timeout_s + GONE_S)
            self.pool.keeper.close(spare, "stdin")

    async def _cancel(self) -> None:
        assert self.cancelled is not None  # noqa: S101 - asked by the caller
        await self.cancelled.wait()
        self._end("cancelled")

    async def _watch(self) -> None:
        """Ends a run whose private folder gets too large. Most runs are over before this begins."""
        await self.loop.sleep(WATCH_AFTER_S)
        limit = self.job.limits.get("scratch_bytes", self.pool.limits["scratch_bytes"])
        while not self.spare.ended.is_set:
            if await self.pool.errand("watch", self.spare, limit_bytes=limit) == b"full":
                self._end("scratch")
                return
            await self.loop.sleep(WATCH_AFTER_S)  # the zygote has ended, or somebody has killed the watcher

    async def _name_denials(self) -> None:
        """Starts the supervisor when the first call is denied, and takes in what it says."""
        spare, loop = self.spare, self.loop
        await loop.readable(spare.listener)
        if spare.ended.is_set or nobody_left(spare.listener):
            return
        status, theirs = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        try:
            try:
                self.supervisor = self.pool.keeper.start_supervisor(
                    spare, self.pool.image["on_denied"], theirs
                )
            except PoolDown:
                self._end("killed")  # its call would wait for ever
                return
            finally:
                posix.close(theirs)
            rest = b""
            while True:
                await loop.readable(status)
                data = posix.read(status, READ_BYTES)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take_in(parse_json(line))
        finally:
            loop.forget(status)
            posix.close(status)
        if not await spare.ended.wait(LAST_WORDS_S):
            self._end("killed")  # it has no supervisor any more, and its calls would wait for ever

    def _take_in(self, told: "dict[str, Any]") -> None:
        if "denied" in told:
            one = told["denied"]
            key = one["call"], one["allow"]
            self.denied[key] = {name: one[name] for name in ("call", "number", "line", "allow")} | {
                "count": 1
            }
        for name, allow, count in told.get("counts", ()):
            if (name, allow) in self.denied:
                self.denied[name, allow]["count"] = count

    async def _bounded(self, task: "Task") -> None:
        """Waits for the end of what reads, which nobody is left to put off; not for long, to be sure."""
        if task.done:
            return
        late = Event(self.loop)

        async def expire() -> None:
            await self.loop.sleep(LAST_WORDS_S)
            late.set()
            task.cancel()

        timer = self.loop.spawn(expire())
        try:
            await task.join()
        except Cancelled:
            if not late.is_set:
                raise
        finally:
            timer.cancel()

    async def _bring_outputs(self) -> None:
        """Reads the files that the job asks for, as the run's user, and one behind the other."""
        if not self.spare.scratch:
            answer = b"".join(b"no the run has no private folder\n" for _ in self.job.outputs)
        else:
            limit_bytes = OUTPUTS_BYTES // len(self.job.outputs)
            answer = b""
            for at in range(0, len(self.job.outputs), PATHS_AT_ONCE):
                paths = self.job.outputs[at : at + PATHS_AT_ONCE]
                answer += await self.pool.errand("outputs", self.spare, paths=paths, limit_bytes=limit_bytes)
        for path in self.job.outputs:
            line, _, answer = answer.partition(b"\n")
            word, _, what = line.partition(b" ")
            content = None
            if word == b"ok":
                size = int(what)
                content, answer = answer[:size], answer[size:]
            else:
                self.outcome.outputs_error[path] = what.decode("utf-8", "replace") or "it could not be read"
            self.outcome.outputs[path] = content

    def _conclude(self) -> None:
        """The exit code, and what has ended the run."""
        spare, outcome = self.spare, self.outcome
        outcome.denied = list(self.denied.values())
        outcome.uid, outcome.fresh = spare.facts["uid"], spare.fresh
        outcome.cpu_s = max(0.0, spare.cpu_s - spare.cpu_before_s)
        outcome.peak_memory_bytes = spare.peak_memory_bytes
        if spare.lost:
            self.reason = self.reason or "pool"
        signal = spare.wait_status & 0x7F
        outcome.exit_code = 128 + signal if signal else spare.wait_status >> 8
        limits = {**self.pool.limits, **self.job.limits}
        groups = self.pool.groups
        if not self.reason and groups is not None and groups.ran_out_of_memory(spare.number):
            self.reason = "memory"
        if not self.reason and signal == SIGKILL:
            self.reason = "cpu" if outcome.cpu_s > limits["cpu_s"] - 0.5 else "killed"
        if self.reason == "timeout":
            outcome.exit_code = TIMED_OUT
        outcome.ended_by = self.reason
        if self.reason == "killed":
            outcome.error = "the run was killed: out of memory, or by somebody else"
        elif self.reason:
            outcome.error = SENTENCES[self.reason]
        elif signal == SIGSYS:
            outcome.error = KILLED_FOR_CALL


def nobody_left(listener: int) -> bool:
    """Whether no process is left under the filter: then, and only then, the kernel hangs its listener up."""
    poll = select.poll()
    poll.register(listener, 0)
    return bool(poll.poll(0))
