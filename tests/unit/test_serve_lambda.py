"""The client of Lambda's runtime API: what it sends, what it believes, and what it does not."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.lambdaapi import Broken, Invocation, LambdaApi, Reply, parse_head
from runtime.loop import Loop
from tests.serve.lambdadouble import TRACE, LambdaDouble

Work = Callable[[LambdaApi], Coroutine[Any, Any, Any]]


@contextmanager
def working(double: LambdaDouble, work: Work) -> Iterator[list[Any]]:
    """Has a client of `double` do `work`; what that returned or raised is in the list at the end."""
    ended: list[Any] = []

    def begin() -> None:
        loop = Loop()
        api = LambdaApi(loop, double.address)
        try:
            ended.append(loop.run(work(api)))
        except Broken as broken:
            ended.append(broken)
        finally:
            api.close()

    thread = threading.Thread(target=begin)
    thread.start()
    yield ended
    thread.join(30)
    assert not thread.is_alive()


async def echo(api: LambdaApi) -> str:
    """Answers one event with itself."""
    invocation = await api.next()
    return await api.respond(invocation, invocation.event)


async def echo_twice(api: LambdaApi) -> list[str]:
    return [await echo(api), await echo(api)]


async def fail(api: LambdaApi) -> str:
    """Answers one event with an error."""
    body = b'{"errorMessage": "no", "errorType": "Runtime.No", "stackTrace": []}'
    return await api.fail(await api.next(), "Runtime.No", body)


async def next_only(api: LambdaApi) -> Invocation:
    return await api.next()


def test_an_event_is_answered_on_one_connection() -> None:
    """Two events and their answers, whole, by one connection."""
    large = {"text": "ä" * 200_000}
    with LambdaDouble() as double:
        with working(double, echo_twice) as ended:
            assert double.invoke({"a": 1}).body == {"a": 1}
            assert double.invoke(large).body == large
        assert ended == [["", ""]]
        assert double.connections == 1


def test_an_event_may_come_in_parts() -> None:
    """The emulator, and so perhaps Lambda, sends larger events chunked."""
    large = {"text": "x" * 3_000_000}
    with LambdaDouble() as double:
        double.chunked = True
        with working(double, echo_twice) as ended:
            assert double.invoke({"a": 1}).body == {"a": 1}
            assert double.invoke(large).body == large
        assert ended == [["", ""]]


def test_a_closed_connection_is_opened_again() -> None:
    """Whether it was announced or not."""
    with LambdaDouble() as double:
        double.close_each = True
        with working(double, echo_twice) as ended:
            assert double.invoke(1).body == 1
            assert double.invoke(2).body == 2
        assert ended == [["", ""]]
        assert double.connections == 4


def test_a_connection_that_ends_without_an_event_is_tried_again() -> None:
    """Waiting is repeated; nothing else is."""
    with LambdaDouble() as double:
        double.raw.put(b"")
        double.raw.put(b"")
        with working(double, echo) as ended:
            assert double.invoke(7).body == 7
        assert ended == [""]
        assert double.connections == 3


def test_an_answer_that_may_have_been_heard_is_not_given_again() -> None:
    """One answer an invocation: where the connection breaks after it, it stays one."""

    async def answer_into_nothing(api: LambdaApi) -> str:
        invocation = await api.next()
        double.raw.put(b"")
        return await api.respond(invocation, b"{}")

    with LambdaDouble() as double:
        double.send({})
        with working(double, answer_into_nothing) as ended:
            pass
        assert ended == ["the connection was closed without an answer"]
        assert double.connections == 1


def test_an_answer_that_cannot_have_been_heard_is_given_again() -> None:
    """A connection that ends before the request is out cannot have carried an answer."""
    large = {"text": "x" * 5_000_000}

    async def answer_on_a_dead_line(api: LambdaApi) -> str:
        invocation = await api.next()
        double.hang_ups = 1
        return await api.respond(invocation, invocation.event)

    with LambdaDouble() as double:
        with working(double, answer_on_a_dead_line) as ended:
            assert double.invoke(large).body == large
        assert ended == [""]
        assert double.connections == 2


def test_the_attempt_goes_back() -> None:
    """Lambda-Runtime-Invocation-Id tells an answer of this attempt from a late one of the last."""
    headers = {"Lambda-Runtime-Invocation-Id": "attempt-1"}
    for work, kind in ((echo, "response"), (fail, "error")):
        with LambdaDouble() as double, working(double, work) as ended:
            assert double.invoke({}, headers=headers).kind == kind
        assert ended == [""]


def test_an_error_has_a_type_and_a_body() -> None:
    """As errors of every runtime do."""
    with LambdaDouble() as double, working(double, fail) as ended:
        answer = double.invoke({})
        assert (answer.kind, answer.error_type, answer.body["errorMessage"]) == ("error", "Runtime.No", "no")
    assert ended == [""]


@pytest.mark.parametrize("status", [400, 403, 410, 413])
def test_an_answer_that_is_not_taken_is_said(status: int) -> None:
    """410 comes where the invocation timed out before; none of these is a reason to end."""
    with LambdaDouble() as double, working(double, echo) as ended:
        double.invoke({}, status=status)
    assert ended[0].startswith(f"{status}: ")


def test_a_container_error_is_the_end() -> None:
    """ "Runtime should exit promptly", says the API's document."""
    with LambdaDouble() as double, working(double, echo) as ended:
        double.invoke({}, status=500)
    assert isinstance(ended[0], Broken)


def test_what_comes_with_an_event() -> None:
    """Id, deadline, trace and function are the headers' own."""
    with LambdaDouble() as double, working(double, next_only) as ended:
        sent = double.send({"a": 1})
    (invocation,) = ended
    assert invocation.id == sent.id
    assert invocation.event == b'{"a": 1}'
    assert invocation.deadline_ms == int(sent.deadline * 1000)
    assert invocation.trace_id == TRACE
    assert invocation.function_arn.endswith(":function:sandbox")


OK = b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a-1\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
        OK + b"\r\n{}",
        OK + b"Content-Length: 2\r\n\r\n{",
        OK + b"Content-Length: 2\r\n\r\n{}}",
        OK + b"Content-Length: +2\r\n\r\n{}",
        OK + b"Content-Length: 99999999\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n{}\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
        OK + b"Folded: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Bare: a\nb\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"No colon\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Endless: " + b"x" * 200_000,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a/../b\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nLambda-Runtime-Aws-Request-Id: a b\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"Lambda-Runtime-Aws-Request-Id: b\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
def test_an_answer_that_is_not_plain_is_not_believed(raw: bytes) -> None:
    """A length that is unclear, a head that is none, an id that would change a path."""
    double = LambdaDouble()
    double.raw.put(raw)
    with working(double, next_only) as ended:
        pass
    double.close()
    assert isinstance(ended[0], Broken), ended


def test_nothing_of_an_answer_becomes_a_line_of_a_request() -> None:
    """What is echoed is one printable line, or there is no request."""
    reply = Reply(
        200, {"lambda-runtime-aws-request-id": "a", "lambda-runtime-invocation-id": "b\x85c"}, b"{}"
    )

    async def answer(api: LambdaApi) -> str:
        return await api.respond(Invocation(reply), b"{}")

    with LambdaDouble() as double:
        with working(double, answer) as ended:
            pass
        assert isinstance(ended[0], Broken)
        assert double.connections == 0


@pytest.mark.parametrize("deadline", ["", "soon", "-5", "1e9", "1" * 17, "²"])
def test_a_deadline_that_is_no_number_is_none(deadline: str) -> None:
    """Then the configured time-out stands alone."""
    headers = {"lambda-runtime-aws-request-id": "a", "lambda-runtime-deadline-ms": deadline}
    assert Invocation(Reply(200, headers, b"{}")).deadline_ms is None


def test_names_of_headers_have_no_case() -> None:
    """RFC 9110; and HTTP/1.0 ends with its answer."""
    assert parse_head(b"HTTP/1.1 200 OK\r\nX-A:  b \r\nx-C: D") == (200, {"x-a": "b", "x-c": "D"}, True)
    assert parse_head(b"HTTP/1.0 202 Accepted") == (202, {}, False)


@pytest.mark.parametrize(
    "address", ["localhost", ":1", "h:0", "h:70000", "h:x", "h\r\n:1", "u@h:1", "[::1]:1"]
)
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    """It becomes a line of each request."""
    with pytest.raises(ValueError, match=re.escape(address)):
        LambdaApi(Loop(), address)


def test_nobody_there_is_said() -> None:
    """Not waited for: Lambda's API is there before the runtime is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    loop = Loop()
    with pytest.raises(Broken, match=f"127.0.0.1:{port}: "):
        loop.run(next_only(LambdaApi(loop, f"127.0.0.1:{port}")))
