"""What the service says of itself: one JSON object a line. Never code, output, environment or key."""

import posix
from time import gmtime, strftime, time_ns

from runtime.image import to_json

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from typing import Any

MAX_TEXT = 2000
MAX_HELD_BYTES = 1 << 20
"""What is kept for a reader that stands still; what is said beyond is counted, and lost."""


class Log:
    """Writes lines to a descriptor, and waits for nobody who reads them."""

    def __init__(self, descriptor: int, debug: bool) -> None:
        self.descriptor = descriptor
        self.says_debug = debug
        self.lost = 0
        self._held = b""
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
        now_ms = time_ns() // 10**6
        moment = f"{strftime('%Y-%m-%dT%H:%M:%S', gmtime(now_ms // 1000))}.{now_ms % 1000:03}Z"
        line: dict[str, Any] = {"time": moment, "level": level, "event": event}
        line.update(
            (name, value[:MAX_TEXT] if isinstance(value, str) else value) for name, value in facts.items()
        )
        if self.lost and not self._held:
            line["lines_lost"], self.lost = self.lost, 0
        self._write(to_json(line) + b"\n")

    def _write(self, data: bytes) -> None:
        self._held += data
        try:
            while self._held:
                self._held = self._held[posix.write(self.descriptor, self._held) :]
        except BlockingIOError:
            if len(self._held) > MAX_HELD_BYTES:
                # The line that is half out stays whole; those behind it go.
                first, newline, rest = self._held.partition(b"\n")
                self._held = first + newline
                self.lost += rest.count(b"\n")
        except OSError:
            self._held = b""  # nobody reads any more


def trace_context(traceparent: str) -> dict[str, str]:
    """Trace and parent ids of a `traceparent` header, where it is valid: w3.org/TR/trace-context."""
    parts = traceparent.strip().split("-")
    if len(parts) < 4 or (len(parts) > 4 and parts[0] == "00") or parts[0] == "ff":
        return {}
    version, trace, parent, flags = parts[:4]
    for part, length in ((version, 2), (trace, 32), (parent, 16), (flags, 2)):
        if len(part) != length or part.strip("0123456789abcdef"):
            return {}
    if not trace.strip("0") or not parent.strip("0"):
        return {}
    return {"trace_id": trace, "parent_id": parent}


def shown_header(value: str) -> str:
    """A header's value as it goes into the log: 128 characters, printable ones."""
    return "".join(c if c.isprintable() else "?" for c in value[:128])
