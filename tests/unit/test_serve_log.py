"""Log lines: JSON, one a line, and nobody waits for who reads them."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from runtime.log import MAX_HELD_BYTES, MAX_LINE_BYTES, MAX_TEXT, Log, shown_header, trace_context
from runtime.loop import Loop

REPOSITORY = Path(__file__).parents[2]
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
LEAST_PIPE_BYTES = 4096


class Pipe:
    """A log's descriptor, and what comes out of it."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, LEAST_PIPE_BYTES)
        os.set_blocking(self.read_end, False)
        self.rest = b""

    def read(self) -> bytes:
        """All that is there now."""
        found = b""
        while True:
            try:
                part = os.read(self.read_end, 1 << 16)
            except BlockingIOError:
                return found
            if not part:
                return found
            found += part

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines that are there now, and those that were read before with no end."""
        *lines, self.rest = (self.rest + self.read()).split(b"\n")
        return [json.loads(line) for line in lines]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for descriptor in (made.read_end, made.write_end):
        try:  # noqa: SIM105
            os.close(descriptor)
        except OSError:
            pass  # a test has


def test_a_line_is_an_object_with_time_level_and_event(pipe: Pipe) -> None:
    """In this order, for people; in UTC, to the millisecond, as RFC 3339 has it."""
    log = Log(pipe.write_end, debug=True, clock_ns=lambda: 1_700_000_000_007_999_999)
    log.info("request", status=200, path="/", denied=["kill"], ended_by="", wait_ms=0.1, none=None)
    log.warn("one")
    log.error("two")
    log.debug("three")
    first, *others = pipe.read().decode().splitlines()
    assert first == (
        '{"time":"2023-11-14T22:13:20.007Z","level":"info","event":"request","status":200,"path":"/",'
        '"denied":["kill"],"ended_by":"","wait_ms":0.1,"none":null}'
    )
    assert [(line["level"], line["event"]) for line in map(json.loads, others)] == [
        ("warning", "one"),
        ("error", "two"),
        ("debug", "three"),
    ]


def test_the_time_is_now(pipe: Pipe) -> None:
    before = time.time()
    Log(pipe.write_end, debug=False).info("x")
    (line,) = pipe.lines()
    text = line["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert before - 0.001 <= datetime.fromisoformat(text).timestamp() <= time.time()


def test_debug_is_said_only_when_it_is_asked_for(pipe: Pipe) -> None:
    log = Log(pipe.write_end, debug=False)
    log.debug("no")
    log.says_debug = True
    log.debug("yes")
    assert [line["event"] for line in pipe.lines()] == ["yes"]


def test_nothing_that_is_said_can_be_another_line_or_another_field(pipe: Pipe) -> None:
    """Neither a line end, nor a quote, nor what terminals obey; and no fact takes the place of the head."""
    nasty = '"}\n{"level": "error"}\r\x1b[2J\u2028\u202e\x00\ud800é'
    log = Log(pipe.write_end, debug=False)
    log.info(nasty, text=nasty, **{nasty: nasty, "time": "never", "level": "none"})
    data = pipe.read()
    assert data.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in data[:-1])
    line = json.loads(data)
    assert (line["event"], line["text"], line[nasty]) == (nasty, nasty, nasty)
    assert line["level"] == "info"
    assert line["time"] != "never"


def test_long_text_is_cut(pipe: Pipe) -> None:
    Log(pipe.write_end, debug=False).info("x", text="a" * 100_000)
    assert pipe.lines()[0]["text"] == "a" * MAX_TEXT


@pytest.mark.parametrize(
    "facts", [{"a": b"bytes"}, {"a": float("nan")}, {"a": [object()]}, {"a": ["x" * MAX_LINE_BYTES]}]
)
def test_what_cannot_be_said_is_no_crash(pipe: Pipe, facts: dict[str, Any]) -> None:
    """The event is said all the same."""
    Log(pipe.write_end, debug=False).error("odd", **facts)
    (line,) = pipe.lines()
    assert (line["level"], line["event"]) == ("error", "odd")
    assert line["unsaid"]
    assert "a" not in line


# A reader that stands still


def test_nobody_waits_for_a_reader(pipe: Pipe) -> None:
    """What is kept for it has an end; what is lost is counted, and told before anything else is said."""
    log = Log(pipe.write_end, debug=False)
    number = 3 * MAX_HELD_BYTES // 1000
    for at in range(number):
        log.info("x", at=at, text="a" * 1000)
    assert len(log.held) <= MAX_HELD_BYTES
    seen: list[dict[str, Any]] = []
    while log.held:
        seen += pipe.lines()
        log.write_out()
    seen += pipe.lines()
    assert [line["at"] for line in seen] == list(range(len(seen)))
    assert log.lost_lines == number - len(seen) > 0
    log.info("after")
    log.info("more")
    assert [(line["event"], line.get("count")) for line in pipe.lines()] == [
        ("log lines lost", log.lost_lines),
        ("after", None),
        ("more", None),
    ]


def test_what_stood_still_goes_out_when_the_reader_goes_on(pipe: Pipe) -> None:
    """By the loop, though nothing more is said."""
    loop = Loop()
    log = Log(pipe.write_end, debug=False)
    log.loop = loop
    for at in range(100):
        log.info("x", at=at, text="a" * 1000)
    assert log.held
    seen: list[int] = []

    async def read_on() -> None:
        while len(seen) < 100:
            await loop.readable(pipe.read_end, 10)
            found = pipe.lines()
            seen.extend(line["at"] for line in found)

    loop.run(read_on())
    assert seen == list(range(100))
    assert not log.held
    for at in range(100):  # and again
        log.info("x", at=at, text="a" * 1000)
    seen.clear()
    loop.run(read_on())
    assert seen == list(range(100))


@pytest.mark.parametrize("close", ["read_end", "write_end"])
def test_a_reader_that_is_gone_is_no_crash(pipe: Pipe, close: str) -> None:
    """Nothing is kept for one; what it would have read counts as lost."""
    os.close(getattr(pipe, close))
    log = Log(pipe.write_end, debug=False)
    for _ in range(3):
        log.info("x")
    assert not log.held
    assert log.lost_lines >= 3


def test_a_full_disk_is_no_crash() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    log = Log(descriptor, debug=False)
    log.info("x")
    os.close(descriptor)
    assert log.lost_lines == 1
    assert not log.held


# What comes from a request


@pytest.mark.parametrize(
    "header",
    [
        f"00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-00",
        f"00-{TRACE}-{SPAN}-ff",
        f"01-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        f"cc-{TRACE}-{SPAN}-01-",
    ],
)
def test_a_trace(header: str) -> None:
    assert trace_context(header) == {"trace_id": TRACE, "span_id": SPAN}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "-",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-",
        f"00-{TRACE}-{SPAN}-0",
        f"00-{TRACE}-{SPAN}-001",
        f"00-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        f"00-{TRACE}-{SPAN}-01-",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{TRACE}-{SPAN}-0A",
        f"ff-{TRACE}-{SPAN}-01",
        f"0-{TRACE}-{SPAN}-01",
        f"000-{TRACE}-{SPAN}-01",
        f"0A-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}0-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}-01",
        f"00-{TRACE}-{SPAN}0-01",
        f"00-{TRACE[:-1]}.-{SPAN}-01",
        f"00-{TRACE}-{SPAN[:-1]}.-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}٣-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01, cc-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.what-the-future-will-not-be-like",
    ],
)
def test_no_trace(header: str) -> None:
    """As the test suite of the standard has them: too long, too short, in capitals, all zero, sent twice."""
    assert trace_context(header) == {}


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (b"end_user", "end_user"),
        ("Zoë 王".encode(), "Zoë 王"),
        (b"a\tb\x7f", "a?b?"),
        (b"\xff\xfe", "��"),
        ("a\u202eb\u200b\x85".encode(), "a?b??"),
        (b"a" * 129, "a" * 128),
        ("é".encode() * 128, "é" * 128),
        (b"", ""),
    ],
)
def test_a_header_as_it_is_shown(sent: bytes, shown: str) -> None:
    """As UTF-8, whatever is not printable replaced, and not too long."""
    assert shown_header(sent.decode("latin-1")) == shown


def test_a_header_that_was_text_already() -> None:
    """Lambda's are JSON."""
    assert shown_header("王") == "王"


def test_every_event_of_a_server_is_documented() -> None:
    """docs/serve-operations.md has what an operator may meet; lambda's own are its page's."""
    said = set()
    for module in REPOSITORY.glob("runtime/*.py"):
        if module.name != "awslambda.py":
            said |= set(re.findall(r'\blog\.(?:info|warn|error|debug)\(\s*"([^"]+)"', module.read_text()))
    assert {"request", "settings", "zygote ended"} <= said
    page = (REPOSITORY / "docs/serve-operations.md").read_text()
    assert said <= set(re.findall(r"`([^`\n]+)`", page))
