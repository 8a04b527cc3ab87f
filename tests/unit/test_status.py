"""The status descriptor's stream: read in pieces, bounded, and given up at the first broken line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.status import Denied, StatusStream

FACTS = b'{"level": "chroot", "naming": true}\n'
RECORD: dict[str, Any] = {
    "call": "mkdirat",
    "number": 258,
    "arguments": [1, 2, 3, 4, 5, 6],
    "line": 3,
    "stack": [["/usr/lib/x.py", 7], ["main.py", 3]],
    "allow": "syscalls: {groups: [files]}",
    "danger": "",
    "passed": False,
}
DENIED = Denied(
    call="mkdirat",
    number=258,
    arguments=(1, 2, 3, 4, 5, 6),
    line=3,
    stack=(("/usr/lib/x.py", 7), ("main.py", 3)),
    allow="syscalls: {groups: [files]}",
    danger="",
    passed=False,
    count=1,
)


def denied(**changes: object) -> bytes:
    return json.dumps({"denied": RECORD | changes}).encode() + b"\n"


def counts(*totals: tuple[str, str, int]) -> bytes:
    return json.dumps({"counts": totals}).encode() + b"\n"


STREAM = (
    FACTS
    + denied()
    + denied(call="socket", line=None, stack=[])
    + counts(("mkdirat", DENIED.allow, 5), ("socket", DENIED.allow, 1))
)


def read(*pieces: bytes) -> StatusStream:
    stream = StatusStream()
    for piece in pieces:
        stream.feed(piece)
    stream.end()
    return stream


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_pieces(size: int) -> None:
    """Wherever the stream is cut into pieces, it says the same: facts, calls in order, their last counts."""
    stream = read(*(STREAM[at : at + size] for at in range(0, len(STREAM), size)))
    assert stream.facts == {"level": "chroot", "naming": True}
    assert [(one.call, one.line, one.stack, one.count) for one in stream.denied] == [
        ("mkdirat", 3, DENIED.stack, 5),
        ("socket", None, (), 1),
    ]
    assert stream.whole


def test_record() -> None:
    """A record comes out as it went in, once; a later count replaces an earlier one."""
    stream = read(denied(), denied(line=9), counts(("mkdirat", DENIED.allow, 2)))
    assert [(one.line, one.count) for one in stream.denied] == [(3, 2)]
    assert read(denied()).denied == (DENIED,)


def test_nothing() -> None:
    """A run that never came to its lock-down has neither facts nor calls."""
    stream = read()
    assert (stream.facts, stream.denied, stream.whole) == ({}, (), True)


@pytest.mark.parametrize(
    "line",
    [
        b"text\n",
        b"[]\n",
        b"1\n",
        b'"denied"\n',
        b"\xff\n",
        b"[" * 100_000 + b"\n",
        b'{"denied": {}}\n',
        b'{"denied": []}\n',
        denied(number="x"),
        denied(stack=[["main.py"]]),
        denied(stack=[["main.py", None]]),
        denied(arguments=3),
        b'{"counts": 1}\n',
        counts(("mkdirat", "another line", 1)),
        counts(("mkdirat", DENIED.allow)),  # type: ignore[arg-type]  # that is the point
        b'{"denied": ',
    ],
)
def test_broken_line(line: bytes) -> None:
    """What was said before a broken line stands, what follows is not read, and that is known."""
    stream = read(FACTS, denied(), line, b"\n", denied(call="socket"))
    assert (stream.facts["level"], [one.call for one in stream.denied]) == ("chroot", ["mkdirat"])
    assert not stream.whole


def test_half_a_line() -> None:
    """A stream that ends within a line is not whole, and says what it said before."""
    stream = read(FACTS, denied(), denied(call="socket")[:-5])
    assert ([one.call for one in stream.denied], stream.whole) == (["mkdirat"], False)


def test_bounded() -> None:
    """No more than 1 MiB is kept, in many lines or in one, and the rest is passed over."""
    for piece in (denied(call="a" * 1000), b"x" * 1000):
        stream = StatusStream()
        stream.feed(FACTS)
        for number in range(3000):
            stream.feed(piece.replace(b"aaaa", b"%04d" % number))
        assert not stream.whole
        assert len(stream.denied) < 1100
        assert len(repr(vars(stream))) < 3 << 20
        assert stream.facts["naming"] is True
