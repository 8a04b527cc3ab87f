"""What the service says of itself: one JSON object a line. Never code, output, environment or key."""

import posix
from time import gmtime, strftime, time_ns

from runtime.image import to_json

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from runtime.loop import Loop

MAX_TEXT = 2000
MAX_LINE_BYTES = 1 << 16
MAX_HELD_BYTES = 1 << 20
"""What is kept for a reader that stands still; what is said beyond is counted, and lost."""
MAX_HEADER = 128


class Log:
    """Writes lines to a descriptor, and waits for nobody who reads them."""

    def __init__(self, descriptor: int, debug: bool, clock_ns: "Callable[[], int]" = time_ns) -> None:
        self.descriptor = descriptor
        self.says_debug = debug
        self.loop: Loop | None = None
        """Where there is one, what a reader has left standing goes out as soon as it reads on."""
        self.lost_lines = 0
        """All that were ever lost; what is lost is told as soon as something can be."""
        self._clock_ns = clock_ns
        self.held = bytearray()
        """What the reader has not taken yet."""
        self._told_lost = 0
        self._flushing = False
        try:  # noqa: SIM105 - contextlib would be an import
            posix.set_blocking(descriptor, False)
        except OSError:
            pass  # closed: then nothing is said

    def info(self, event: str, **facts: "Any") -> None:
        """What happens in the ordinary course of things."""
        self._say("info", event, facts)

    def warn(self, event: str, **facts: "Any") -> None:
        """What somebody should know, and goes on."""
        self._say("warning", event, facts)

    def error(self, event: str, **facts: "Any") -> None:
        """What is wrong."""
        self._say("error", event, facts)

    def debug(self, event: str, **facts: "Any") -> None:
        """What app.debug asks for."""
        if self.says_debug:
            self._say("debug", event, facts)

    def _say(self, level: str, event: str, facts: "dict[str, Any]") -> None:
        if self.held:
            self.write_out()
        if self.lost_lines > self._told_lost and not self.held:
            self._told_lost, count = self.lost_lines, self.lost_lines - self._told_lost
            self._say("warning", "log lines lost", {"count": count})
        line = self._line(level, event, facts)
        if self.held and len(self.held) + len(line) > MAX_HELD_BYTES:
            self.lost_lines += 1
            return
        self.held += line
        self.write_out()

    def _line(self, level: str, event: str, facts: "dict[str, Any]") -> bytes:
        now_ms = self._clock_ns() // 10**6
        moment = f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(now_ms // 1000))}.{now_ms % 1000:03}Z"
        head: dict[str, Any] = {"time": moment, "level": level, "event": event[:MAX_TEXT]}
        cut = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in facts.items()}
        try:
            line = to_json({**head, **cut, **head})
        except (TypeError, ValueError, RecursionError) as error:
            line = to_json({**head, "unsaid": f"{type(error).__name__}: {error}"[:MAX_TEXT]})
        if len(line) > MAX_LINE_BYTES:
            line = to_json({**head, "unsaid": f"{len(line)} bytes"})
        return line + b"\n"

    def write_out(self) -> None:
        """Writes what is held, as far as the reader takes it."""
        held = self.held
        try:
            while held:
                del held[: posix.write(self.descriptor, held)]
        except BlockingIOError:
            if self.loop is not None and not self._flushing:
                self._flushing = True
                self.loop.spawn(self._flush(self.loop))
        except OSError:  # nobody reads any more, or the disk is full
            self.lost_lines += held.count(b"\n")
            held.clear()

    async def _flush(self, loop: "Loop") -> None:
        try:
            while self.held:
                await loop.writable(self.descriptor)
                self.write_out()
        finally:
            self._flushing = False


def trace_context(traceparent: str) -> dict[str, str]:
    """Ids of the trace and of the caller's span in it, where the header is valid: w3.org/TR/trace-context."""
    parts = traceparent.split("-")
    if len(parts) < 4 or (len(parts) > 4 and parts[0] == "00") or parts[0] == "ff":
        return {}
    version, trace, parent, flags = parts[:4]
    for part, length in ((version, 2), (trace, 32), (parent, 16), (flags, 2)):
        if len(part) != length or part.strip("0123456789abcdef"):
            return {}
    if not trace.strip("0") or not parent.strip("0"):
        return {}
    return {"trace_id": trace, "span_id": parent}


def sender(header: "Callable[[str], str | None]") -> dict[str, str]:
    """What the log says of who asked, out of the headers; `header` has None for one that is not there."""
    facts = trace_context(header("traceparent") or "")
    for name, fact in (("x-user-id", "user_id"), ("x-user-type", "user_type")):
        value = header(name)
        if value is not None:
            facts[fact] = shown_header(value)
    return facts


def shown_header(value: str) -> str:
    """A header's value, from http_message.py, as it goes into the log: 128 characters, printable ones."""
    try:  # noqa: SIM105 - contextlib would be an import
        value = value.encode("latin-1").decode("utf-8", "replace")
    except UnicodeEncodeError:
        pass  # it was text already
    return "".join(one if one.isprintable() else "?" for one in value[:MAX_HEADER])
