"""The server's loop on real pipes and sockets: what ends a wait, and what does not keep it busy."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from runtime.loop import Loop, write_all
from tests.unit.tasks import ended_by


class Counted(Loop):
    """Counts its turns: what spins makes many."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0

    def _await(self) -> None:
        self.turns += 1
        super()._await()


@pytest.fixture
def loop() -> Counted:
    return Counted()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Two ends that do not block."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    yield read, write
    for descriptor in (read, write):
        try:
            os.close(descriptor)
        except OSError:
            continue  # the test has closed it


def fill(write: int) -> int:
    """Leaves no room in the pipe; how many bytes it has taken."""
    taken = 0
    while True:
        try:
            taken += os.write(write, bytes(1 << 16))
        except BlockingIOError:
            return taken


# What ends a wait


def test_what_is_written_wakes_the_reader(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe

    async def talk() -> tuple[bool, bytes, list[str]]:
        order = []

        async def reader() -> bool:
            got = await loop.readable(read)
            order.append("read")
            return got

        reading = loop.spawn(reader())
        await loop.sleep(0)
        order.append("written")
        os.write(write, b"x")
        return await reading.join(), os.read(read, 9), order

    assert loop.run(talk()) == (True, b"x", ["written", "read"])


def test_nothing_to_read_is_a_time_out_and_the_next_wait_works(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe

    async def talk() -> list[bool]:
        waited = [await loop.readable(read, 0.01)]
        os.write(write, b"x")
        return [*waited, await loop.readable(read, 30)]

    assert loop.run(talk()) == [False, True]


def test_a_full_pipe_is_writable_once_it_is_read(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    taken = fill(write)

    async def talk() -> list[bool]:
        waited = [await loop.writable(write, 0.01)]
        os.read(read, taken)
        return [*waited, await loop.writable(write, 30)]

    assert loop.run(talk()) == [False, True]


def test_two_tasks_wait_for_both_directions_of_one_socket(loop: Loop) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        taken = fill(ours.fileno())

        async def talk() -> list[str]:
            order: list[str] = []

            async def note(name: str, wait: Coroutine[Any, Any, bool]) -> None:
                assert await wait
                order.append(name)

            reading = loop.spawn(note("readable", loop.readable(ours.fileno())))
            writing = loop.spawn(note("writable", loop.writable(ours.fileno())))
            await loop.sleep(0)
            theirs.send(b"x")
            await reading.join()
            while taken and order == ["readable"]:
                theirs.recv(1 << 20)
                await loop.sleep(0)
            await writing.join()
            return order

        assert loop.run(talk()) == ["readable", "writable"]


def test_the_end_of_the_other_side_hangs_up(loop: Loop) -> None:
    """Also while there is something to read, which nobody reads."""
    ours, theirs = socket.socketpair()
    with ours:

        async def talk() -> list[bool]:
            gone = loop.spawn(loop.hung_up(ours.fileno()))
            theirs.send(b"unread")
            await loop.sleep(0.01)
            before = gone.done
            theirs.close()
            await gone.join()
            return [before, gone.done]

        assert loop.run(talk()) == [False, True]


def test_the_end_of_a_writer_is_readable(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(write)
    assert loop.run(loop.readable(read, 30)) is True


def test_forget_wakes_the_waiter_with_cancelled(loop: Loop, pipe: tuple[int, int]) -> None:
    """And the number can be another descriptor's at once."""
    read, _ = pipe

    async def talk() -> list[Any]:
        reading = loop.spawn(loop.readable(read))
        await loop.sleep(0)
        loop.forget(read)
        os.close(read)
        ended = await ended_by(reading)
        other, end = os.pipe2(os.O_NONBLOCK)
        os.dup2(other, read)
        os.write(end, b"x")
        answer = [ended, await loop.readable(read, 30)]
        for descriptor in (other, end):
            os.close(descriptor)
        return answer

    assert loop.run(talk()) == ["Cancelled", True]


def test_a_hang_up_that_nobody_waits_for_does_not_spin(loop: Counted, pipe: tuple[int, int]) -> None:
    """Epoll tells of it at every turn, until it is no more asked about that descriptor."""
    read, write = pipe

    async def talk() -> int:
        assert not await loop.readable(read, 0.001)
        os.close(write)
        before = loop.turns
        await loop.sleep(0.2)
        return loop.turns - before

    assert loop.run(talk()) < 10


def test_bytes_that_nobody_waits_for_do_not_spin(loop: Counted, pipe: tuple[int, int]) -> None:
    read, write = pipe

    async def talk() -> int:
        assert not await loop.readable(read, 0.001)
        os.write(write, b"x")
        before = loop.turns
        await loop.sleep(0.2)
        return loop.turns - before

    assert loop.run(talk()) < 10


def test_write_all_waits_for_the_reader_and_gives_up_without_one(loop: Loop, pipe: tuple[int, int]) -> None:
    read, write = pipe
    data = os.urandom(1 << 20)

    async def talk() -> list[bool]:
        received = bytearray()

        async def reader() -> None:
            while len(received) < len(data):
                await loop.readable(read)
                received.extend(os.read(read, 1 << 16))

        reading = loop.spawn(reader())
        done = [await write_all(loop, write, data, 60)]
        await reading.join()
        done += [bytes(received) == data, await write_all(loop, write, data, 0.01)]
        os.close(read)
        return [*done, await write_all(loop, write, data, 60)]

    assert loop.run(talk()) == [True, True, False, False]


# Signals


def test_a_signal_calls_its_reaction_between_two_tasks(loop: Loop) -> None:
    came: list[str] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    try:

        async def talk() -> list[str]:
            loop.on_signal(signal.SIGUSR1, lambda: came.append("one"))
            loop.on_signal(signal.SIGUSR2, lambda: came.append("two"))
            os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGUSR2)
            at_once = list(came)
            while len(came) < 2:
                await loop.sleep(0.001)
            return at_once

        assert loop.run(talk()) == []
        assert sorted(came) == ["one", "two"]
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
