"""A double of AWS Lambda's runtime API, on a socket, that forgives nothing.

What it holds a runtime to is published: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html, its
OpenAPI document, and the order of states in aws/aws-lambda-runtime-interface-emulator. Whatever a runtime
does that these do not allow is a violation; `with LambdaDouble()` fails at its end where there was one.
"""

from __future__ import annotations

import contextlib
import json
import queue
import re
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any, Self

PREFIX = "/2018-06-01/runtime/"
MAX_ANSWER_BYTES = 6 * 1024 * 1024 + 100
ERROR_TYPE = re.compile(r"(Runtime|Function)\.[A-Z][A-Za-z]+")
ANSWERS = re.compile(re.escape(PREFIX) + r"invocation/([^/]+)/(response|error)")
FUNCTION = "arn:aws:lambda:eu-central-1:123456789012:function:sandbox"
TRACE = "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=1"
ACCEPTED = b'{"status":"OK"}\n'


@dataclass(frozen=True)
class Answer:
    """What a runtime said to one invocation, or of its start."""

    kind: str
    """response, error or init"""
    body: Any
    error_type: str = ""


@dataclass
class Event:
    """An invocation on its way, and how the double treats it."""

    body: bytes
    deadline_s: float
    headers: dict[str, str]
    status: int
    """What its answer gets: 202, or what makes the runtime think that something is wrong."""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    deadline: float = 0.0
    answered: bool = False
    answers: queue.SimpleQueue[Answer] = field(default_factory=queue.SimpleQueue)


class Request:
    """One request, whole, read strictly."""

    def __init__(self, head: bytes) -> None:
        first, *lines = head.decode("ascii").split("\r\n")
        self.method, self.path, version = first.split(" ")
        assert version == "HTTP/1.1", first
        self.headers: dict[str, str] = {}
        for line in lines:
            match = re.fullmatch(r"([A-Za-z0-9-]+): ([\x20-\x7e]*)", line)
            assert match, f"not a header: {line!r}"
            assert match[1].lower() not in self.headers, f"twice: {line!r}"
            self.headers[match[1].lower()] = match[2]
        self.body = b""


class LambdaDouble:
    """The API of one execution environment; the runtime is whoever connects."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.violations: list[str] = []
        self.connections = 0
        """How many there have been."""
        self.raw: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        """What the next requests get in place of an answer, before the connection is closed."""
        self.hang_ups = 0
        """So many of the next requests find the connection closed before they are read."""
        self.chunked = False
        self.close_each = False
        """Whether each connection ends with its first answer."""
        self.ready = threading.Event()
        """Set with the first `next`."""
        self.deaf = threading.Event()
        """Set by `close`: what comes then is not the runtime's fault."""
        self._state = "started"
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._current: Event | None = None
        self._init: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server((host, 0))
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        assert kind is not None or not self.violations, self.violations

    def close(self) -> None:
        """Closes every connection, as the end of the environment does."""
        self.deaf.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone leaves the one that waits in accept
        self._listener.close()
        self._events.put(None)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def invoke(self, event: object, *, deadline_s: float = 10.0, **how: Any) -> Answer:
        """The runtime's answer to `event`, JSON or bytes."""
        return self.send(event, deadline_s=deadline_s, **how).answers.get(timeout=deadline_s + 20)

    def send(
        self,
        event: object,
        *,
        deadline_s: float = 10.0,
        headers: dict[str, str] | None = None,
        status: int = 202,
    ) -> Event:
        """Has the runtime get `event` when it asks next."""
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        sent = Event(body, deadline_s, headers or {}, status)
        self._events.put(sent)
        return sent

    def init_error(self, timeout_s: float = 30.0) -> Answer:
        """What the runtime said of a start that failed."""
        return self._init.get(timeout=timeout_s)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.connections += 1
                if self._open:
                    self.violations.append("a second connection at the same time")
                self._open.add(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while (request := self._read(connection)) and not self.deaf.is_set():
                if not self.raw.empty():
                    connection.sendall(self.raw.get())
                    return
                status, headers, body = self._answer(request)
                if status == 0:
                    return
                if self.close_each:
                    headers["Connection"] = "close"
                with self._lock:
                    if self.close_each:  # before the runtime can know, and so before it connects again
                        self._open.discard(connection)
                    connection.sendall(self._render(status, headers, body))
                if self.close_each:
                    return
        except OSError as error:
            if not self.deaf.is_set():
                self.violations.append(f"the connection broke: {error}")
        except (AssertionError, ValueError) as error:
            self.violations.append(str(error))
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _read(self, connection: socket.socket) -> Request | None:
        data = b""
        if connection.recv(1, socket.MSG_PEEK) and self.hang_ups:
            self.hang_ups -= 1
            return None
        while b"\r\n\r\n" not in data:
            part = connection.recv(1 << 16)
            if not part:
                assert not data, "half a request"
                return None
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        request = Request(head)
        assert request.headers.get("host") == self.address, (
            f"the header Host is {request.headers.get('host')!r}"
        )
        assert "transfer-encoding" not in request.headers, "a coded request"
        length = request.headers.get("content-length")
        if request.method == "GET":
            assert length in (None, "0"), "a GET with a body"
            length = "0"
        assert length is not None, "a POST without Content-Length"
        while len(body) < int(length):
            part = connection.recv(1 << 20)
            assert part, "half a body"
            body += part
        assert len(body) == int(length), "more than one request at once"
        request.body = body
        return request

    def _render(self, status: int, headers: dict[str, str], body: bytes) -> bytes:
        lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
        if self.chunked:
            half = len(body) // 2
            parts = [part for part in (body[:half], body[half:]) if part]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
            lines.append("Transfer-Encoding: chunked")
        else:
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _answer(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if (request.method, request.path) == ("GET", PREFIX + "invocation/next"):
            return self._next()
        if (request.method, request.path) == ("POST", PREFIX + "init/error"):
            return self._init_error(request)
        match = ANSWERS.fullmatch(request.path)
        if request.method == "POST" and match:
            return self._settle(request, match[1], match[2])
        return self._refuse(404, f"there is no {request.method} {request.path}")

    def _refuse(self, status: int, why: str) -> tuple[int, dict[str, str], bytes]:
        self.violations.append(why)
        body = json.dumps({"errorType": "InvalidStateTransition", "errorMessage": why}).encode()
        return status, {"Content-Type": "application/json"}, body

    def _next(self) -> tuple[int, dict[str, str], bytes]:
        if self._state not in ("started", "ready", "sent"):
            return self._refuse(403, f"next in the state {self._state}")
        self._state = "ready"
        self.ready.set()
        event = self._events.get()
        if event is None:
            return 0, {}, b""
        event.deadline = time.time() + event.deadline_s
        self._current, self._state = event, "running"
        headers = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": event.id,
            "Lambda-Runtime-Deadline-Ms": str(int(event.deadline * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": FUNCTION,
            "Lambda-Runtime-Trace-Id": TRACE,
        }
        return 200, headers | event.headers, event.body

    def _settle(self, request: Request, identity: str, kind: str) -> tuple[int, dict[str, str], bytes]:
        event = self._current
        if event is None or identity != event.id:
            return self._refuse(400, f"{kind} to {identity}, which is not the invocation at hand")
        if self._state != "running":
            return self._refuse(403, f"{kind} in the state {self._state}: one answer an invocation")
        self._state = "sent"
        if time.time() > event.deadline:
            self.violations.append(f"{kind} after the deadline")
        attempt = "Lambda-Runtime-Invocation-Id"
        if request.headers.get(attempt.lower()) != event.headers.get(attempt):
            self.violations.append(f"{attempt} is {request.headers.get(attempt.lower())!r}")
        if len(request.body) > MAX_ANSWER_BYTES:
            event.answers.put(Answer("too large", None))
            return self._refuse(413, f"an answer of {len(request.body)} bytes")
        event.answers.put(self._read_answer(request, kind))
        return event.status, {"Content-Type": "application/json"}, ACCEPTED

    def _init_error(self, request: Request) -> tuple[int, dict[str, str], bytes]:
        if self._state != "started":
            return self._refuse(403, f"init/error in the state {self._state}")
        self._state = "failed"
        self._init.put(self._read_answer(request, "init"))
        return 202, {"Content-Type": "application/json"}, ACCEPTED

    def _read_answer(self, request: Request, kind: str) -> Answer:
        body = json.loads(request.body)
        if kind == "response":
            assert request.headers.get("content-type") == "application/json", request.headers
            return Answer(kind, body)
        error_type = request.headers.get("lambda-runtime-function-error-type", "")
        assert ERROR_TYPE.fullmatch(error_type), f"the error type {error_type!r}"
        assert request.headers.get("content-type") == "application/vnd.aws.lambda.error+json", request.headers
        assert set(body) == {"errorMessage", "errorType", "stackTrace"}, body
        assert body["errorType"] == error_type, body
        assert isinstance(body["errorMessage"], str), body
        assert body["errorMessage"], body
        assert isinstance(body["stackTrace"], list), body
        return Answer(kind, body, error_type)
