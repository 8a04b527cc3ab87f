"""What runs jobs: places for `max_workers` runs, spares that are ready for them, and a number for each.

A run takes a place in the order of arrival, then a spare. What is left of it is put away behind its answer.
"""

from _collections import deque  # type: ignore[import-not-found]  # `collections` would be an import

from runtime.cgroup import find_groups
from runtime.ends import PoolDown, Spare
from runtime.keeper import Keeper
from runtime.loop import Cancelled, Event, Loop, Wait
from runtime.numbers import Numbers
from runtime.processes import kill_by_descriptor, kill_tree
from runtime.run import GONE_S, SENTENCES, Job, Outcome, Run, nobody_left

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

    from runtime.run import OnOutput

TRIES = 3


class Gone(Exception):
    """Whoever waited for a run waits no more."""


class NoUid(Exception):
    """Nothing was run, for want of a number."""

    def __init__(self) -> None:
        super().__init__("every user id of jail.uid_range has a run: try again")


class Pool:
    """Runs jobs. `reason` says why it cannot, and is empty where it can."""

    def __init__(self, loop: Loop, settings: "Any", environment: dict[str, str], log: "Any") -> None:
        """`settings` is settings.py's; `environment` is what the zygote starts with: no secrets."""
        self.loop = loop
        self.settings = settings
        self.log = log
        self.image: dict[str, Any] = settings.image
        self.limits: dict[str, int] = self.image["limits"]
        self.keeper = Keeper(loop, self.image["python"], environment, log)
        self.counts = {"runs": 0, "spares_made": 0, "spares_lost": 0}
        self.busy = 0
        self.untested = "no run has succeeded yet"
        """Why the pool is not to be trusted though nothing is wrong with it: serve.py's self-test."""
        self.groups = find_groups()
        self._spare_problem = ""
        self._in_force: dict[str, Any] = {}
        """What a spare says of its lock-down."""
        self._queue: deque[Wait] = deque()
        self._idle: list[Spare] = []
        self._wanting: deque[Wait] = deque()
        self._making = 0
        self.numbers = Numbers(self.keeper, self.image, self.groups, log)

    @property
    def problem(self) -> str:
        """Why nothing can be run."""
        return self.keeper.reason or self._spare_problem

    @property
    def reason(self) -> str:
        """The same, and why nobody should be sent here yet."""
        return self.problem or self.untested

    @property
    def timeout_s(self) -> float:
        """What one run may take, in seconds of wall clock."""
        return float(self.settings.timeout_s)

    async def start(self) -> None:
        """Starts the zygote, and goes on when it is up, or cannot be; then `problem` says why."""
        self.keeper.on_up = self._zygote_up
        self.keeper.on_failure = self._disappoint
        self.loop.spawn(self.keeper.keep())
        while not self.keeper.up.is_set and self.keeper.promising:
            await self.keeper.up.wait(0.05)

    def _zygote_up(self) -> None:
        """Clears what an earlier zygote, or an earlier server, has left behind, and has spares made."""
        for number in self.numbers.claim_left():
            self.loop.spawn(self.numbers.free(number))
        self._fill()

    async def stop(self) -> None:
        """Ends the zygote and with it every run."""
        await self.keeper.stop()

    async def run(
        self, job: Job, on_output: "OnOutput | None" = None, cancelled: Event | None = None
    ) -> Outcome:
        """Waits for its turn, and runs `job`; PoolDown or NoUid where it cannot be run."""
        began = self.loop.now()
        try:
            await self._enter(cancelled)
        except Gone:
            return not_run()
        try:
            for _ in range(TRIES):
                spare = await self._take(job, cancelled)
                waited_s = self.loop.now() - began
                run = Run(self, spare, job, on_output, cancelled)
                try:
                    outcome = await run.carry_out()
                finally:
                    self.loop.spawn(self._retire(spare))
                if run.delivered or run.reason:
                    break  # else the spare had ended already, and has not begun with the code
            self.counts["runs"] += 1
            outcome.wait_s = waited_s
            return outcome
        except Gone:
            return not_run()
        finally:
            self._leave()

    def facts(self) -> "dict[str, Any]":
        """What is in force, for those who ask: plain data."""
        controllers = [] if self.groups is None else self.groups.controllers
        by = {
            "memory_bytes": "cgroup and rlimit" if "memory" in controllers else "rlimit, of each process",
            "processes": "cgroup and rlimit" if "pids" in controllers else "rlimit, of the user",
            "output_bytes": "the server",
            "scratch_bytes": "a watcher" if not self.numbers.problem else "",
        }
        limits = {
            name: {"value": value, "by": by.get(name, "rlimit, of each process")}
            for name, value in self.limits.items()
        }
        limits["wall_s"] = {"value": self.timeout_s, "by": "the server"}
        return {
            **{name: self._in_force.get(name) for name in ("level", "landlock_abi", "namespaces", "naming")},
            "uid_for_each_run": self.keeper.sets_identity,
            "limits": limits,
            "cgroup": None if self.groups is None else {"controllers": controllers},
            "scratch": {"private": not self.numbers.problem, "problem": self.numbers.problem},
            "network": self.image["network"],
            "workers": {"most": self.settings.max_workers, "busy": self.busy, "waiting": len(self._queue)},
            "spares": {"ready": len(self._idle), "wanted": self.image["serve"]["spares"]},
            "uids": {"all": len(self.numbers.all), "taken": len(self.numbers.taken)},
            "zygote": {"starts": self.keeper.starts, "warm": self.image["serve"]["warm"]},
        }

    # Places

    async def _enter(self, cancelled: Event | None) -> None:
        if self.busy < self.settings.max_workers and not self._queue:
            self.busy += 1
            return
        wait = Wait()
        self._queue.append(wait)
        try:
            await self._unless(cancelled, wait)
        except (Cancelled, Gone):
            if wait in self._queue:
                self._queue.remove(wait)
            raise

    async def _unless(self, cancelled: Event | None, wait: Wait) -> "Any":
        """What `wait` goes on with; Gone where the client has gone before."""
        if cancelled is None:
            return await wait
        if cancelled.is_set:
            wait.over = True
            raise Gone
        cancelled.waits.append(wait)
        try:
            got = await wait
        finally:
            if wait in cancelled.waits:
                cancelled.waits.remove(wait)
        if got is True:  # what an Event says
            raise Gone
        return got

    def _leave(self) -> None:
        """Gives the place to whoever has waited longest."""
        self.busy -= 1
        self.admit()

    def admit(self) -> None:
        """Lets in as many as there are places: after one is free, or there are more."""
        while self._queue and self.busy < self.settings.max_workers:
            wait = self._queue.popleft()
            if not wait.over:
                self.busy += 1
                wait.go_on(None)

    # Spares

    def _fill(self) -> None:
        """Has as many spares made as shall be ready."""
        wanted = self.image["serve"]["spares"] + len(self._wanting)
        while len(self._idle) + self._making < wanted and not self.problem and not self.keeper.stopping:
            number = self.numbers.take()
            if number is None:
                return
            self._making += 1
            self.loop.spawn(self._make_idle(number))

    async def _make_idle(self, number: int) -> None:
        try:
            spare = await self._make(number, {}, fresh=False)
        except PoolDown as down:
            if self.keeper.reason and self.keeper.promising:
                return  # the next zygote makes it
            self._spare_problem = str(down)
            self._disappoint()
            self.loop.spawn(self._try_again())
            return
        finally:
            self._making -= 1
        self._spare_problem = ""
        self._in_force = spare.facts
        self._offer(spare)

    def _disappoint(self) -> None:
        """Tells those who wait for a spare that there will be none for now."""
        while self._wanting:
            self._wanting.popleft().go_on(None, PoolDown(self.problem))

    async def _try_again(self) -> None:
        await self.loop.sleep(1)
        self._spare_problem = ""
        self._fill()

    def _offer(self, spare: Spare) -> None:
        while self._wanting:
            wait = self._wanting.popleft()
            if not wait.over:
                wait.go_on(spare)
                return
        self._idle.append(spare)
        self.loop.spawn(self._mind(spare))

    async def _mind(self, spare: Spare) -> None:
        """Has one that ends before it got a job replaced."""
        await spare.ended.wait()
        if spare in self._idle and not self.keeper.stopping:
            self._idle.remove(spare)
            self.counts["spares_lost"] += 1
            self.log.warn("spare lost", number=spare.number)
            await self._retire(spare)

    async def _make(self, number: int, limits: dict[str, int], fresh: bool) -> Spare:
        try:
            spare = await self.keeper.make_spare(number, self.numbers.make_folder(number), limits, fresh)
        except PoolDown:
            self.loop.spawn(self.numbers.free(number))
            raise
        try:
            await self.keeper.see_ready(spare)
            if self.groups is not None:
                self.groups.enter(number, spare.pid, {**self.limits, **limits})
        except (PoolDown, OSError) as error:
            self.loop.spawn(self._retire(spare))
            raise PoolDown(str(error)) from None
        self.counts["spares_made"] += 1
        return spare

    async def _make_for(self, number: int, limits: dict[str, int], fresh: bool) -> Spare:
        """The same for one run, which may be cancelled meanwhile: then what is made is put away."""
        making = self.loop.spawn(self._make(number, limits, fresh))

        async def put_away() -> None:
            await self._retire(await making.join())

        try:
            made: Spare = await making.join()
        except Cancelled:
            self.loop.spawn(put_away())
            raise
        return made

    async def _take(self, job: Job, cancelled: Event | None) -> Spare:
        """A spare for `job`: one that is ready, or one made for its limits."""
        fresh = job.fresh or self.settings.fresh
        if fresh or job.limits:
            if self.problem:
                raise PoolDown(self.problem)
            number = self.numbers.take()
            if number is None:
                raise NoUid
            return await self._make_for(number, job.limits, fresh)
        while self._idle:
            spare = self._idle.pop(0)
            self._fill()
            if not spare.ended.is_set:
                return spare
            self.loop.spawn(self._retire(spare))
        if self.problem and not self.keeper.promising:
            raise PoolDown(self.problem)
        wanting = Wait()
        self._wanting.append(wanting)
        self._fill()
        if len(self._wanting) > self._making and not self.problem:
            self._wanting.remove(wanting)
            raise NoUid
        got: Spare = await self._unless(cancelled, wanting)
        return got

    async def _retire(self, spare: Spare) -> None:
        """Sees to it that nothing is left of it, closes its ends, and frees its number."""
        if not spare.gone:
            await self.see_gone(spare)
        self.keeper.forget(spare)
        if not spare.quarantined:
            await self.numbers.free(spare.number)
        self._fill()

    # For run.py

    async def errand(self, name: str, spare: Spare, **facts: "Any") -> bytes:
        """Has errands.py do `name` in the run's private folder, as its user; nothing where nobody can."""
        try:
            return await self.keeper.errand(
                name, spare.number, scratch=self.numbers.seen_by_zygote(spare.number), **facts
            )
        except PoolDown:
            return b""

    async def kill(self, spare: Spare) -> None:
        """Has every process of the run killed. What is killed takes a moment to be gone."""
        kill_by_descriptor(spare.pidfd)
        if self.groups is not None:
            self.groups.kill(spare.number)
        if self.keeper.sets_identity and spare.fresh:
            await self.keeper.end_fresh(spare.number, self.image["uid_range"][0] + 1)
        elif self.keeper.sets_identity:
            await self.errand("kill", spare)
        else:
            kill_tree(spare.pid, self.keeper.pid, self.keeper.living())

    async def see_gone(self, spare: Spare) -> None:
        """Goes on when no process of the run is left; kills what is, and gives up what cannot be ended.

        The listener of a run's filter hangs up when nobody is left under it. Where there is none, nothing
        tells: then all of its user are killed, three times, as two who kill at once may hit each other.
        """
        ends = self.loop.now() + GONE_S
        while not (spare.ended.is_set and (spare.listener < 0 or nobody_left(spare.listener))):
            await self.kill(spare)
            if self.loop.now() > ends:
                spare.quarantined = True
                self.log.error("processes of a run could not be ended", number=spare.number)
                break
            await self.loop.sleep(0.002)
        if spare.listener < 0:
            for _ in range(3):
                await self.kill(spare)
        spare.gone = True


def not_run() -> Outcome:
    """Of a job whose client has gone before its turn."""
    outcome = Outcome()
    outcome.ended_by, outcome.error = "cancelled", SENTENCES["cancelled"]
    return outcome
