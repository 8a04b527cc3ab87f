"""The server's loop: events, tasks and how they end, timers; and that nothing of them is left."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.loop import MIN_TIMERS, Cancelled, Event, Loop, Wait
from tests.unit.tasks import ended_by


class Held:
    """Something that a frame holds, and that a weak reference can lead to."""


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def quiet() -> Iterator[int]:
    """A descriptor on which nothing ever comes."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield read
    for descriptor in (read, write):
        os.close(descriptor)


def test_an_event_wakes_all_who_wait_and_stays(loop: Loop) -> None:
    async def talk() -> list[bool]:
        event = Event(loop)
        early = await event.wait(0.001)
        waiting = [loop.spawn(event.wait()) for _ in range(3)]
        await loop.sleep(0)
        event.set()
        return [early, *[await task.join() for task in waiting], await event.wait(), bool(event.waits)]

    assert loop.run(talk()) == [False, True, True, True, True, False]


def test_join_gives_the_value_or_raises_the_error_before_and_after_the_end(loop: Loop) -> None:
    async def value() -> int:
        await loop.sleep(0)
        return 7

    async def fail() -> None:
        await loop.sleep(0)
        raise KeyError("no")

    async def talk() -> list[Any]:
        good, bad = loop.spawn(value()), loop.spawn(fail())
        first = [await ended_by(bad), await good.join()]
        return [*first, await ended_by(bad), await good.join()]

    assert loop.run(talk()) == ["KeyError", 7, "KeyError", 7]


# Cancellation


@pytest.mark.parametrize("when", ["before it begins", "while it waits", "while it is to go on"])
def test_a_cancelled_task_ends(loop: Loop, when: str) -> None:
    """Twice is once. It may have gone on once more where it was to, but it never gets to its end."""
    went: list[str] = []

    async def work(event: Event) -> None:
        went.append("begun")
        await event.wait()
        went.append("gone on")
        await loop.sleep(0)
        went.append("finished")

    async def talk() -> str:
        event = Event(loop)
        task = loop.spawn(work(event))
        if when != "before it begins":
            await loop.sleep(0)
        if when == "while it is to go on":
            event.set()
        task.cancel()
        task.cancel()
        return await ended_by(task)

    assert loop.run(talk()) == "Cancelled"
    assert "finished" not in went
    if when == "while it waits":
        assert went == ["begun"]


def test_a_task_may_catch_its_cancellation_and_go_on(loop: Loop, quiet: int) -> None:
    """And what it waited for then does not wake it a second time."""
    seen: list[str] = []

    async def work(event: Event) -> str:
        try:
            await event.wait()
        except Cancelled:
            seen.append("caught")
        event.set()
        seen.append(str(await loop.readable(quiet, 0.01)))
        return "ended well"

    async def talk() -> str:
        event = Event(loop)
        task = loop.spawn(work(event))
        await loop.sleep(0)
        task.cancel()
        value: str = await task.join()
        task.cancel()  # it has ended: nothing happens
        return value

    assert loop.run(talk()) == "ended well"
    assert seen == ["caught", "False"]


def test_a_crash_of_a_task_that_nobody_joins_is_told_and_the_loop_goes_on(loop: Loop) -> None:
    crashes: list[BaseException] = []
    loop.on_crash = crashes.append

    async def fail() -> None:
        await loop.sleep(0)
        raise KeyError("no")

    async def talk() -> str:
        loop.spawn(fail())
        loop.spawn(loop.sleep(60)).cancel()  # no crash
        await loop.sleep(0.01)
        return "went on"

    assert loop.run(talk()) == "went on"
    assert [repr(crash) for crash in crashes] == ["KeyError('no')"]


def test_a_cancelled_task_leaves_nothing_for_the_collector(loop: Loop, quiet: int) -> None:
    """A server that makes garbage circles with each request has pauses, and grows between them."""
    refs: list[weakref.ref[Held]] = []

    async def work() -> None:
        held = Held()
        refs.append(weakref.ref(held))
        await loop.readable(quiet)

    async def talk() -> list[bool]:
        task = loop.spawn(work())
        await loop.sleep(0)
        alive = refs[0]() is not None
        task.cancel()
        del task
        await loop.sleep(0)
        await loop.sleep(0)
        return [alive, refs[0]() is None]

    gc.disable()
    try:
        assert loop.run(talk()) == [True, True]
    finally:
        gc.enable()


def test_timers_of_waits_that_are_over_do_not_pile_up(loop: Loop) -> None:
    async def talk() -> int:
        most = 0
        for _ in range(20 * MIN_TIMERS):
            wait = Wait()
            loop.at(loop.now() + 60, wait)
            wait.over = True
            most = max(most, len(loop._timers))
        return most

    assert loop.run(talk()) <= 2 * MIN_TIMERS


def test_timers_that_are_waited_for_are_kept(loop: Loop) -> None:
    """The control: what is thrown away is not what somebody waits for; each is woken, in order."""
    order: list[int] = []

    async def work(number: int) -> None:
        await loop.sleep(number / 10_000)
        order.append(number)

    async def talk() -> None:
        for task in [loop.spawn(work(number)) for number in range(3 * MIN_TIMERS)]:
            await task.join()

    loop.run(talk())
    assert sorted(order) == list(range(3 * MIN_TIMERS))
