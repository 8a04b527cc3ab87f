"""Heads as bytes: what is a request, and what is refused as it could be read in two ways."""

from __future__ import annotations

import pytest

from runtime.http_message import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    BadRequest,
    Request,
    Response,
    find_head,
    read_head,
    write_head,
)

HOST = b"Host: sandbox:8194"


def head(*lines: bytes) -> Request:
    """A GET with these headers beside Host."""
    return read_head(b"\r\n".join([b"GET / HTTP/1.1", HOST, *lines]))


def refused(data: bytes) -> int:
    """The status that a whole head, without its empty line, is refused with."""
    with pytest.raises(BadRequest) as refusal:
        read_head(data)
    return refusal.value.status


def test_a_request_is_read() -> None:
    """Method, path, query, headers by lower-case name without white space around, and the body's length."""
    request = read_head(
        b"POST /v1/sandbox/run?a=1&b=?2 HTTP/1.1\r\nhOST: x\r\nContent-Length: 0012\r\nX-Empty:\r\n"
        b"X-User-ID: \t J\xf6rg \t\r\naccept: a\r\nAccept: b"
    )
    assert (request.method, request.path, request.query) == ("POST", "/v1/sandbox/run", "a=1&b=?2")
    assert request.headers == {
        "host": "x",
        "content-length": "0012",
        "x-empty": "",
        "x-user-id": "J\xf6rg",
        "accept": "a, b",
    }
    assert (request.length, request.keep_alive, request.expects_continue) == (12, True, False)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", "/", ""),
        (b"//a", "//a", ""),
        (b"/%2e%2e/\xc3?", None, ""),
        (b"http://h:1/a?b", "/a", "b"),
        (b"HTTPS://[::1]/a", "/a", ""),
        (b"http://h", "/", ""),
        (b"http://h?b/c", "/", "b/c"),
        (b"ftp://h/a", None, ""),
        (b"http:///a", None, ""),
        (b"http://h@evil/a", None, ""),
        (b"h:443", None, ""),
        (b"*", None, ""),
        (b"a", None, ""),
        (b"/#a", None, ""),
        (b"/\x7f", None, ""),
    ],
)
def test_targets(target: bytes, path: str | None, query: str) -> None:
    """A path, or a URL whose path counts; what a URL cannot be is refused."""
    line = b"GET " + target + b" HTTP/1.1\r\n" + HOST
    if path is None:
        assert refused(line) == 400
    else:
        request = read_head(line)
        assert (request.path, request.query) == (path, query)


def test_all_of_a_server_can_be_asked_for_options() -> None:
    """`*` is a target of OPTIONS alone."""
    assert read_head(b"OPTIONS * HTTP/1.1\r\n" + HOST).path == "*"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / ",
        b"GET  / HTTP/1.1",
        b" GET / HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET\t/ HTTP/1.1",
        b"GET / http/1.1",
        b"GET / HTTP/1,1",
        b"GET / HTTP/11",
        b"GET / HTTP/1.1\rX: y",
        b"G(T / HTTP/1.1",
        b"G\xc3T / HTTP/1.1",
        b"GET /\0 HTTP/1.1",
        b"GET / HTTP/1.1\nX: y",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    ],
)
def test_first_lines_that_are_none(line: bytes) -> None:
    """400: nothing is made of it, TLS on the plain port included."""
    assert refused(line + b"\r\n" + HOST) == 400


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/3.0"])
def test_other_versions(version: bytes) -> None:
    """505, HTTP/2 with prior knowledge included."""
    assert refused(b"GET / " + version + b"\r\n" + HOST) == 505


@pytest.mark.parametrize(
    "line",
    [
        b"X",
        b": y",
        b"X : y",
        b"X\t: y",
        b" X: y",
        b"\tX: y",
        b"X: a\r\n folded",
        b"X: a\r\n\tfolded",
        b"X: a\0b",
        b"X: a\rb",
        b"X: a\nContent-Length: 5",
        b"X: a\x7f",
        b"X: a\x0b",
        b"X\xe4: y",
        b"X\0: y",
        b"X(: y",
        b"",
    ],
)
def test_headers_that_are_none(line: bytes) -> None:
    """400, as one that another reader takes for something else is worse than none."""
    assert refused(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n" + line + b"\r\nY: z") == 400


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], 400),
        ([b"Host: a", b"Host: a"], 400),
        ([b"Host: a, b"], 400),
        ([b"Host: a b"], 400),
        ([b"Host: a/b"], 400),
        ([b"Host: user@a"], 400),
        ([b"Host: \xe4"], 400),
        ([b"Host:"], None),
        ([b"Host: [::1]:80"], None),
    ],
)
def test_hosts(lines: list[bytes], status: int | None) -> None:
    """HTTP/1.1 needs exactly one."""
    text = b"\r\n".join([b"GET / HTTP/1.1", *lines])
    if status is None:
        assert read_head(text).path == "/"
    else:
        assert refused(text) == status


def test_http_1_0_needs_no_host() -> None:
    """And its connection is closed unless it asks otherwise."""
    assert not read_head(b"GET / HTTP/1.0").keep_alive
    assert read_head(b"GET / HTTP/1.0\r\nConnection: Keep-Alive").keep_alive
    assert refused(b"GET / HTTP/1.0\r\nHost: a\r\nHost: a") == 400


@pytest.mark.parametrize(
    ("value", "keep_alive"),
    [
        (b"close", False),
        (b"Close", False),
        (b"upgrade, close", False),
        (b"keep-alive", True),
        (b"closed", True),
        (b"", True),
    ],
)
def test_connection_header(value: bytes, keep_alive: bool) -> None:
    """`close` anywhere in the list closes."""
    assert head(b"Connection: " + value).keep_alive is keep_alive


SMUGGLED = [
    ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
    ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], 400),
    ([b"Content-Length: 5", b"Content-Length: 6"], 400),
    ([b"Content-Length: 5", b"Content-Length: 5"], 400),
    ([b"Content-Length: 5, 5"], 400),
    ([b"Content-Length: 5, 6"], 400),
    ([b"Content-Length: +5"], 400),
    ([b"Content-Length: -5"], 400),
    ([b"Content-Length: -1"], 400),
    ([b"Content-Length: 0x5"], 400),
    ([b"Content-Length: 5_0"], 400),
    ([b"Content-Length: 5 0"], 400),
    ([b"Content-Length: 5.0"], 400),
    ([b"Content-Length: 1e3"], 400),
    ([b"Content-Length:"], 400),
    ([b"Content-Length: \xb2"], 400),  # a digit to str.isdigit
    ([b"Content-Length: \xd9\xa5"], 400),  # an Arabic five in UTF-8
    ([b"Content-Length: " + b"9" * 17], 400),
    ([b"Content-Length : 5"], 400),
    ([b"Content-Length\0: 5"], 400),
    ([b"Transfer-Encoding : chunked"], 400),
    ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 400),
    ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], 400),
    ([b"Transfer-Encoding: chunked, identity"], 400),
    ([b"Transfer-Encoding: identity"], 400),
    ([b"Transfer-Encoding: xchunked"], 400),
    ([b"Transfer-Encoding: chunked\x0b"], 400),
    ([b"Transfer-Encoding: \x0bchunked"], 400),
    ([b"Transfer-Encoding: \xa0chunked"], 400),
    ([b'Transfer-Encoding: "chunked"'], 400),
    ([b"Transfer-Encoding: chunked;q=1"], 400),
    ([b"Transfer-Encoding:"], 400),
    ([b"Transfer-Encoding: gzip, chunked"], 501),
    ([b"Transfer-Encoding:\r\n chunked"], 400),
    ([b"Transfer_Encoding: chunked", b"Content-Length: 5"], None),  # another header, and nobody's framing
]


@pytest.mark.parametrize(("lines", "status"), SMUGGLED)
def test_smuggling(lines: list[bytes], status: int | None) -> None:
    """A body whose end could be seen in two places is no body."""
    text = b"\r\n".join([b"POST / HTTP/1.1", HOST, *lines])
    if status is None:
        assert read_head(text).length == 5
    else:
        assert refused(text) == status


def test_chunks_are_of_http_1_1() -> None:
    """A proxy that speaks HTTP/1.0 does not know them."""
    assert refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked") == 400
    assert read_head(b"POST / HTTP/1.1\r\nHost:\r\nTransfer-Encoding: Chunked").length == -1


def test_expectations() -> None:
    """100-continue is waited for where there is a body to come; anything else is refused; 1.0 has none."""
    assert head(b"Expect: 100-Continue", b"Content-Length: 1").expects_continue
    assert not head(b"Expect: 100-continue").expects_continue
    assert refused(b"GET / HTTP/1.1\r\nHost:\r\nExpect: 200-ok") == 417
    assert not read_head(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1").expects_continue


def test_the_key_stands_there_once() -> None:
    """Of two keys nobody knows which one a proxy has checked."""
    assert refused(b"GET / HTTP/1.1\r\nHost:\r\nX-Api-Key: a\r\nx-api-key: b") == 400


def test_the_number_of_headers() -> None:
    """MAX_HEADERS and no more."""
    lines = [b"X: y"] * (MAX_HEADERS - 1)
    assert head(*lines).headers["x"].count("y") == MAX_HEADERS - 1
    assert refused(b"\r\n".join([b"GET / HTTP/1.1", HOST, *lines, b"X: y"])) == 431


def test_a_head_may_come_in_pieces() -> None:
    """Its end is found wherever it is cut, and looked for from where nothing was found before."""
    text = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n\r\nrest"
    whole = text.index(b"\r\n\r\n")
    data, looked = bytearray(), 0
    for at in range(len(text)):
        data += text[at : at + 1]
        end, looked = find_head(data, looked)
        assert end == (whole if at >= whole + 3 else -1)
        if end >= 0:
            break
    assert at == whole + 3


@pytest.mark.parametrize("text", [b"\n", b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: x\n\r\n", b"a\r\n\n"])
def test_a_line_ends_with_both(text: bytes) -> None:
    """LF alone is refused at once: the end that we would wait for has come, to whoever has sent it."""
    with pytest.raises(BadRequest) as refusal:
        find_head(bytearray(text), 0)
    assert refusal.value.status == 400


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_the_size_of_a_head(end: bytes) -> None:
    """431 beyond MAX_HEAD_BYTES, whole or not."""
    assert find_head(bytearray(b"a" * MAX_HEAD_BYTES), 0)[0] == -1
    with pytest.raises(BadRequest) as refusal:
        find_head(bytearray(b"a" * (MAX_HEAD_BYTES + 1) + end), 0)
    assert refusal.value.status == 431


def test_the_head_of_an_answer() -> None:
    """Length or chunks, and what becomes of the connection."""
    response = Response(200, b"{}", (("Retry-After", "1"),))
    assert write_head(response, 2, True, True) == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: 2\r\n"
        b"Retry-After: 1\r\n\r\n"
    )
    assert b"\r\nConnection: close\r\n" in write_head(response, 2, False, True)
    assert b"\r\nConnection: keep-alive\r\n" in write_head(response, 2, True, False)
    assert b"\r\nTransfer-Encoding: chunked\r\n" in write_head(response, -1, True, True)
    assert write_head(Response(401), 0, False, True) == (
        b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    assert write_head(Response(204), 0, True, True) == b"HTTP/1.1 204 No Content\r\n\r\n"
