"""Bodies as bytes: in chunks, which may be cut anywhere, and of known length; and anything at all."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from runtime.http_message import (
    MAX_CHUNK_LINE_BYTES,
    MAX_CHUNKS,
    MAX_TRAILER_BYTES,
    BadRequest,
    Chunks,
    Sized,
    read_head,
)

CHUNKED = (
    b"5\r\nhello\r\n1;name=value\r\n,\r\n00B ; x\r\n wo\r\nrld\r\n!\r\n0\r\nX-Trailer: y\r\nZ: \r\n\r\n",
    b"hello, wo\r\nrld\r\n!",
)


def test_chunks_may_be_cut_anywhere() -> None:
    """At every single byte, and at every pair of places."""
    text, body = CHUNKED
    text += b"GET "
    for first in range(len(text) + 1):
        for second in range(first, len(text) + 1):
            chunks, data, over = Chunks(), bytearray(), False
            for piece in (text[:first], text[first:second], text[second:]):
                data += piece
                over = over or chunks.feed(data)
            assert over
            assert chunks.content == body
            assert data == b"GET "


def test_chunks_byte_for_byte() -> None:
    """One byte at a time, and the end is seen with the last one."""
    text, body = CHUNKED
    chunks, data = Chunks(), bytearray()
    for at in range(len(text)):
        data += text[at : at + 1]
        assert chunks.feed(data) == (at == len(text) - 1)
    assert chunks.content == body


def feed_bytes(text: bytes) -> None:
    """One byte at a time; none of them is the last."""
    chunks, data = Chunks(), bytearray()
    for at in range(len(text)):
        data += text[at : at + 1]
        assert not chunks.feed(data)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"\r\n", 400),
        (b" 5\r\n", 400),
        (b"5 \r\n", 400),
        (b"+5\r\n", 400),
        (b"-5\r\n", 400),
        (b"0x5\r\n", 400),
        (b"5_0\r\n", 400),
        (b"g\r\n", 400),
        (b"\xef\xbc\x95\r\n", 400),
        (b"5\n", 400),
        (b"5\r\r\n", 400),
        (b"5;a\nb\r\n", 400),
        (b"5;a\rb\r\n", 400),
        (b"5;a\0\r\n", 400),
        (b"f" * 17 + b"\r\n", 400),
        (b"5;" + b"a" * MAX_CHUNK_LINE_BYTES, 400),
        (b"1\r\nab", 400),
        (b"1\r\na\rX", 400),
        (b"1\r\na\nX", 400),
        (b"0\r\nX\r\n\r\n", 400),
        (b"0\r\n X: y\r\n\r\n", 400),
        (b"0\r\nX : y\r\n\r\n", 400),
        (b"0\r\nX: y\n\r\n", 400),
        (b"0\r\n\n", 400),
        (b"0\r\n" + b"X: y\r\n" * (MAX_TRAILER_BYTES // 4 + 1), 431),
        (b"0\r\nX: " + b"y" * MAX_TRAILER_BYTES, 400),
        (b"1\r\na\r\n" * (MAX_CHUNKS + 1), 413),
    ],
)
def test_chunks_that_are_none(text: bytes, status: int) -> None:
    """Refused as soon as it can be told, whole or in single bytes."""
    with pytest.raises(BadRequest) as refusal:
        assert not Chunks().feed(bytearray(text))
    assert refusal.value.status == status
    with pytest.raises(BadRequest) as refusal:
        feed_bytes(text)
    assert refusal.value.status == status


def test_a_body_of_known_length() -> None:
    """Takes its bytes and leaves those of the next request."""
    body, data = Sized(5), bytearray(b"ab")
    assert not body.feed(data)
    data += b"cdeGET"
    assert body.feed(data)
    assert (bytes(body.content), bytes(data)) == (b"abcde", b"GET")


def test_whatever_comes_is_a_request_or_refused() -> None:
    """20,000 mutations of good messages: never another exception, never a body without end."""
    chance = random.Random(5)
    seeds = [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close",
        b"POST /a?b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: \xff",
    ]
    pieces = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b":",
        b" ",
        b"\t",
        b",",
        b"%",
        b"\xff",
        b"Host: b",
        b"chunked",
        b"0",
    ]
    outcomes = set()
    for _ in range(20_000):
        text = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text) + 1)
            text[at : at + chance.randint(0, 2)] = chance.choice(pieces)
        try:
            request = read_head(bytes(text))
        except BadRequest as refusal:
            outcomes.add(refusal.status)
        else:
            assert request.length >= -1
            assert request.path[0] in "/*"
            outcomes.add(200)
        chunked = bytearray(chance.choice([CHUNKED[0], text]))
        chunked[chance.randrange(len(chunked))] = chance.randrange(256)
        chunks = Chunks()
        with suppress(BadRequest):
            chunks.feed(chunked)
        assert len(chunks.content) <= len(CHUNKED[0])
    assert outcomes >= {200, 400, 501, 505}
