"""A client of the HTTP API that costs little: many connections, one thread, nothing but sockets."""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

READ_BYTES = 1 << 18


@dataclass
class Asked:
    """What was answered to one request."""

    number: int
    took_s: float
    status: int
    body: bytes

    @property
    def data(self) -> Mapping[str, Any]:
        """The answer's data; what is no answer of a run ends the benchmark."""
        answer = json.loads(self.body)
        if self.status != 200 or answer["code"] != 0:
            raise SystemExit(f"error: request {self.number} was answered {self.status} {self.body[:500]!r}")
        data: Mapping[str, Any] = answer["data"]
        return data


@dataclass
class _Connection:
    socket: socket.socket
    number: int = -1
    began: float = 0.0
    received: bytearray = field(default_factory=bytearray)

    def send(self, number: int, message: bytes) -> None:
        self.number, self.began = number, time.monotonic()
        self.received.clear()
        self.socket.sendall(message)

    def take(self) -> Asked | None:
        """The answer, when it is whole."""
        part = self.socket.recv(READ_BYTES)
        if not part:
            raise SystemExit(f"error: the connection was closed in the answer to request {self.number}")
        self.received += part
        head, found, body = bytes(self.received).partition(b"\r\n\r\n")
        if not found:
            return None
        lower = head.lower()
        at = lower.index(b"content-length:") + len(b"content-length:")
        length = int(lower[at:].split(b"\r\n", 1)[0])
        if len(body) < length:
            return None
        return Asked(self.number, time.monotonic() - self.began, int(head.split(b" ", 2)[1]), body)


def message(host: str, key: str, content: Mapping[str, Any]) -> bytes:
    """The bytes of a POST to /v1/sandbox/run."""
    body = json.dumps(content).encode()
    head = (
        f"POST /v1/sandbox/run HTTP/1.1\r\nHost: {host}\r\nX-Api-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def ask(
    address: tuple[str, int],
    connections: int,
    requests: int,
    ask_for: Callable[[int], bytes],
    answered: Callable[[Asked], None],
) -> float:
    """Sends `requests` requests, on each connection the next when the last is answered; the seconds it took.

    `ask_for` makes the message of a request by its number.
    """
    selector = selectors.DefaultSelector()
    started = time.monotonic()
    sent = 0
    for _ in range(min(connections, requests)):
        opened = socket.create_connection(address, timeout=60)
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(opened)
        selector.register(opened, selectors.EVENT_READ, connection)
        connection.send(sent, ask_for(sent))
        sent += 1
    waiting = sent
    while waiting:
        ready = selector.select(timeout=60)
        if not ready:
            raise SystemExit("error: nothing was answered for a minute")
        for key, _ in ready:
            got = key.data.take()
            if got is None:
                continue
            answered(got)
            if sent < requests:
                key.data.send(sent, ask_for(sent))
                sent += 1
            else:
                waiting -= 1
                selector.unregister(key.fileobj)
                key.data.socket.close()
    return time.monotonic() - started
