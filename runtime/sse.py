"""What a run prints, as it comes: server-sent events, https://html.spec.whatwg.org/multipage/server-sent-events.html.

Events `stdout` and `stderr` have {"text": ...}; the last one, `result`, has the answer that there would have
been without a stream.
"""

from _codecs import utf_8_decode

from runtime.answer import to_json
from runtime.connection import Gone
from runtime.http_message import Response
from runtime.loop import Event, Loop

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from runtime.connection import Connection

CONTENT_TYPE = "text/event-stream"
FIRST_S, KEEP_ALIVE_S = 1.0, 15.0
"""Without an event: until the answer is begun all the same, and until a comment keeps it alive."""
COMMENT = b": more to come\n\n"


def wants_stream(accept: str) -> bool:
    """Whether an Accept header asks for events rather than for one answer."""
    for one in accept.lower().split(","):
        kind = one.partition(";")[0].strip(" \t")
        if kind in (CONTENT_TYPE, "application/json", "application/*", "*/*"):
            return kind == CONTENT_TYPE
    return False


class EventStream:
    """The events of one run on one connection."""

    def __init__(self, loop: Loop, connection: "Connection", gone: Event) -> None:
        """`gone` is set when the client takes no more."""
        self.loop = loop
        self.connection = connection
        self.gone = gone
        self.begun = False
        """The client has been told that there will be events."""
        self._rest = {"stdout": b"", "stderr": b""}
        """The first bytes of a character that has not come in full."""
        self._pending: list[bytes] = []
        self._over = False
        self._wake = Event(loop)

    def on_output(self, name: str, data: bytes, *, final: bool = False) -> None:
        """Takes in what the run has printed; what is not UTF-8 becomes U+FFFD."""
        data = self._rest[name] + data
        text, used = utf_8_decode(data, "replace", final)
        self._rest[name] = data[used:]
        if text:
            self._add(name, to_json({"text": text}))

    def finish(self, answer: bytes) -> None:
        """Takes in the last event."""
        for name in self._rest:
            self.on_output(name, b"", final=True)
        self._over = True
        self._add("result", answer)

    async def pump(self) -> None:
        """Sends what has been taken in, up to the last event, or until the client takes no more."""
        try:
            while not self._over or self._pending:
                self._wake = Event(self.loop)
                if not self._pending:
                    await self._wake.wait(KEEP_ALIVE_S if self.begun else FIRST_S)
                batch, self._pending = self._pending, []
                if not self.begun:
                    self.begun = True
                    headers = (("Cache-Control", "no-store"),)
                    await self.connection.begin(Response(200, headers=headers, content_type=CONTENT_TYPE))
                await self.connection.part(b"".join(batch) or COMMENT)
            await self.connection.end()
        except Gone:
            self.gone.set()

    def _add(self, name: str, data: bytes) -> None:
        self._pending.append(b"event: %b\ndata: %b\n\n" % (name.encode(), data))
        self._wake.set()
