"""The API that dify-sandbox's clients know: fields, statuses, errors, the key, who waits for whom."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.serve.conftest import Answer, Server, Serving

RUN = "/v1/sandbox/run"
FORM = "application/x-www-form-urlencoded"
NODE = """
def main(arg1: str, numbers: list) -> dict:
    return {"greeting": "Hello, " + arg1, "sum": sum(numbers)}

from base64 import b64decode
import json

inputs = json.loads(b64decode("%s").decode("utf-8"))
print(f"<<RESULT>>{json.dumps(main(**inputs), indent=4)}<<RESULT>>")
"""
"""As dify's code node sends it."""


def post_form(server: Server, fields: dict[str, str], kind: str = FORM, body: bytes | None = None) -> Answer:
    headers = {"Content-Type": kind, "X-Api-Key": server.key}
    status, got, answer = server.request("POST", RUN, body or urlencode(fields).encode(), headers)
    return status, got, json.loads(answer)


def test_a_code_node(server: Server) -> None:
    """Inputs in Base64, the result between marks; dify asks for the network whether it is needed or not."""
    inputs = base64.b64encode(json.dumps({"arg1": "Wörld 中", "numbers": [1, 2.5]}).encode()).decode()
    fields = {"language": "python3", "code": NODE % inputs, "preload": "", "enable_network": True}
    status, headers, answer = server.post(RUN, fields)
    assert (status, answer["code"], answer["message"]) == (200, 0, "success")
    assert headers["content-type"] == "application/json; charset=utf-8"
    data = answer["data"]
    assert (data["error"], data["stderr"], data["exit_code"]) == ("", "", 0)
    _, result, _ = data["stdout"].split("<<RESULT>>")
    assert json.loads(result) == {"greeting": "Hello, Wörld 中", "sum": 3.5}


def test_forms(server: Server) -> None:
    """The same fields as a form, of either kind, or with those of the query."""
    code = "print('a&b=c+%41 中')"
    status, _, answer = post_form(server, {"language": "python3", "code": code, "enable_network": "true"})
    assert (status, answer["data"]["stdout"]) == (200, "a&b=c+%41 中\n")
    parts = "".join(
        f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in (("language", "python3"), ("code", code))
    )
    kind = "multipart/form-data; boundary=x"
    status, _, answer = post_form(server, {}, kind, f"{parts}--x--\r\n".encode())
    assert (status, answer["data"]["stdout"]) == (200, "a&b=c+%41 中\n")


def test_errors(server: Server) -> None:
    """The exit code comes first, then the whole stderr."""
    data = server.run("import sys\nprint('out')\nprint('log', file=sys.stderr)\nsys.exit(7)")
    assert (data["exit_code"], data["stdout"], data["stderr"]) == (7, "out\n", "log\n")
    assert data["error"] == "process exited with code 7\nlog\n"
    data = server.run("1/0")
    assert data["exit_code"] == 1
    assert data["error"].startswith("process exited with code 1\nTraceback (most recent call last):\n")
    assert data["error"].endswith("ZeroDivisionError: division by zero\n")


def test_logging_is_no_error(server: Server) -> None:
    """stderr with exit code 0 leaves `error` empty."""
    data = server.run("import logging\nlogging.warning('careful')")
    assert (data["exit_code"], data["error"]) == (0, "")
    assert data["stderr"] == "WARNING:root:careful\n"


def test_a_blocked_call(server: Server) -> None:
    """It says so, and which."""
    data = server.run("import os\nos.fork()")
    first, second, third, *_ = data["error"].split("\n")
    assert (first, second) == ("process exited with code 1", "error: operation not permitted")
    assert third.startswith("denied ")
    assert "at line 2 of the code; to allow it: syscalls: {groups: [processes]}" in third
    assert data["error"].endswith(data["stderr"])


def test_a_time_out(serving: Serving) -> None:
    """Exit code -1, and what was printed until then."""
    server = serving(WORKER_TIMEOUT="1")
    data = server.run("import time\nprint('begun', flush=True)\ntime.sleep(60)")
    assert (data["exit_code"], data["stdout"]) == (-1, "begun\n")
    assert data["error"] == "process exited with code -1\nerror: timeout"
    assert data["duration_ms"] > 900
    assert server.run("print('next')")["stdout"] == "next\n"


@pytest.mark.parametrize(
    ("fields", "status", "names"),
    [
        ({}, 200, "code"),
        ({"language": "python3"}, 200, "code"),
        ({"language": "python3", "code": ""}, 200, "code"),
        ({"code": "1"}, 200, "language"),
        ({"language": "python3", "code": 1}, 200, "code"),
        ({"language": "python3", "code": "1", "preload": {}}, 200, "preload"),
        ({"language": "python3", "code": "1", "enable_network": "maybe"}, 200, "enable_network"),
        ({"language": "ruby", "code": "1"}, 400, "language"),
        ({"language": "nodejs", "code": "1"}, 400, "language"),
        ("python3", 200, "the body"),
    ],
)
def test_wrong_fields(server: Server, fields: Any, status: int, names: str) -> None:
    """200 with -400 for a field, 400 with -400 for a language; the message names it."""
    got, _, answer = server.post(RUN, fields)
    assert (got, answer["code"], answer["data"]) == (status, -400, None)
    assert answer["message"].startswith(f"{names}")


PRIVATE = [
    ("POST", RUN),
    ("GET", RUN),
    ("GET", "/v1/sandbox/info"),
    ("GET", "/v1/sandbox/dependencies"),
    ("GET", "/v1/sandbox/dependencies/refresh"),
    ("POST", "/v1/sandbox/dependencies/update"),
    ("GET", "/v1/sandbox/nothing"),
    ("OPTIONS", "/v1/sandbox/"),
]


@pytest.mark.parametrize(("method", "path"), PRIVATE)
@pytest.mark.parametrize(
    "key", [None, "", "wrong", "key-of-the-test", "key-of-the-tests ä", "KEY-OF-THE-TESTS"]
)
def test_the_key(server: Server, method: str, path: str, key: str | None) -> None:
    """A bare 401 for everything below /v1/sandbox/, whether it is there or not."""
    headers = {} if key is None else {"X-Api-Key": key}
    status, got, body = server.request(method, path, None, headers)
    assert (status, body, got["connection"]) == (401, b"", "close")


def test_the_key_is_checked_before_the_body(server: Server) -> None:
    """Nobody without it can have us keep one, or wait for one."""
    head = f"POST {RUN} HTTP/1.1\r\nHost: x\r\nX-Api-Key: no\r\nContent-Length: 30000000\r\n\r\n"
    with socket.create_connection((server.host, server.port), timeout=20) as connection:
        connection.sendall(head.encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert answer.endswith(b"\r\n\r\n")


def test_health(server: Server) -> None:
    """Asked without a key."""
    assert server.request("GET", "/health")[::2] == (200, b'"ok"')
    status, headers, body = server.request("HEAD", "/health")
    assert (status, headers["content-length"], body) == (200, "4", b"")


def test_what_is_not_there(server: Server) -> None:
    """404, and 405 with what there is, in the same form as every answer."""
    for path in ("/", "/nothing", "/v1/sandbox", "/v1/sandbox/nothing", "/v1/sandbox/run/", "/health/"):
        status, _, answer = server.get(path)
        assert (status, answer["code"], answer["data"]) == (404, -400, None)
    for method, path, allow in (
        ("GET", RUN, "POST, OPTIONS"),
        ("PUT", RUN, "POST, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/sandbox/info", "GET, HEAD, OPTIONS"),
        ("BREW", "/health", "GET, HEAD, OPTIONS"),
    ):
        status, headers, body = server.request(method, path, None, {"X-Api-Key": server.key})
        assert (status, headers["allow"]) == (405, allow)
        assert json.loads(body)["code"] == -400
        status, headers, body = server.request("OPTIONS", path, None, {"X-Api-Key": server.key})
        assert (status, headers["allow"], body) == (204, allow, b"")


def test_dependencies(server: Server) -> None:
    """Name and version of what the jail has; `language` by query, form or JSON; update does nothing."""
    query = "?language=python3"
    for path in ("/v1/sandbox/dependencies", "/v1/sandbox/dependencies/refresh"):
        assert server.get(path + query)[2] == {"code": 0, "message": "success", "data": {"dependencies": []}}
        assert server.get(path)[2]["code"] == -400
        assert server.get(f"{path}?language=nodejs")[::2][0] == 400
        known = {"X-Api-Key": server.key, "Content-Type": "application/json"}
        _, _, body = server.request("GET", path, b'{"language": "python3"}', known)
        assert json.loads(body)["code"] == 0
    status, _, answer = server.post("/v1/sandbox/dependencies/update", {"language": "python3"})
    assert (status, answer) == (200, {"code": 0, "message": "success", "data": {}})
    assert server.post("/v1/sandbox/dependencies/update", {})[2]["code"] == -400


def run_all(server: Server, codes: list[str]) -> list[Answer]:
    with ThreadPoolExecutor(len(codes)) as threads:
        bodies = [{"language": "python3", "code": code} for code in codes]
        return list(threads.map(lambda body: server.post(RUN, body), bodies))


def test_max_workers(serving: Serving) -> None:
    """One place: further runs wait for it, and none overlaps with another."""
    server = serving(MAX_WORKERS="1")
    code = "import time\nbegan = time.monotonic()\ntime.sleep(0.2)\nprint(began, time.monotonic())"
    answers = run_all(server, [code] * 5)
    spans = sorted(tuple(map(float, answer["data"]["stdout"].split())) for _, _, answer in answers)
    assert len(spans) == 5
    assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))


def test_max_requests(serving: Serving) -> None:
    """Two in flight, waiting included: the third gets 503 at once, and those two their answers."""
    server = serving(MAX_REQUESTS="2", MAX_WORKERS="1")
    slow = {"language": "python3", "code": "import time\ntime.sleep(1.5)\nprint('done')"}
    with ThreadPoolExecutor(2) as threads:
        accepted = [threads.submit(server.post, RUN, slow) for _ in range(2)]
        while b"sandbox_requests_in_flight 2\n" not in server.request("GET", "/metrics")[2]:
            time.sleep(0.01)
        status, headers, answer = server.post(RUN, slow)
        assert (status, answer["code"], answer["data"]) == (503, -503, None)
        assert headers["retry-after"] == "1"
        assert server.request("GET", "/health")[0] == 200
        assert server.get("/v1/sandbox/info")[0] == 200
        for future in accepted:
            assert future.result()[2]["data"]["stdout"] == "done\n"
    assert server.run("print(1)")["stdout"] == "1\n"


def test_no_user_id(serving_of: Callable[[str], Serving]) -> None:
    """One id for runs: who comes while it is taken gets 429, who comes later runs."""
    server = serving_of("jail: {uid_range: [10000, 3]}\napp: {spares: 1}\n")()
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(server.run, "import time\nprint('begun')\ntime.sleep(1.5)")
        while b"sandbox_workers_busy 1\n" not in server.request("GET", "/metrics")[2]:
            time.sleep(0.01)
        status, headers, answer = server.post(RUN, {"language": "python3", "code": "print(1)"})
        assert (status, answer["code"], answer["data"]) == (429, -429, None)
        assert headers["retry-after"] == "1"
        assert first.result()["stdout"] == "begun\n"


PRELOAD = (
    "import os\nbefore = 'preload'\ntry:\n    os.fork()\nexcept OSError as error:\n    print(error.strerror)"
)


def test_preload_is_off(server: Server) -> None:
    """Passed over, as with dify-sandbox."""
    assert server.run("print('before' in dir())", preload=PRELOAD)["stdout"] == "False\n"


def test_preload_runs_in_the_jail(serving_of: Callable[[str], Serving]) -> None:
    """Before the code, after the lock-down: what the code may not do it may not either."""
    server = serving_of("enable_preload: true\n")()
    data = server.run(
        "print(before, os.listdir('/sandbox') if os.path.exists('/sandbox') else None)", preload=PRELOAD
    )
    assert data["stdout"] == "Operation not permitted\npreload None\n"
    assert [one["call"] for one in data["denied"]] == ["clone"]
    data = server.run("print('not reached')", preload="raise SystemExit(3)")
    assert (data["exit_code"], data["stdout"]) == (3, "")


def test_whose_request_it_was(server: Server) -> None:
    """traceparent and the X-User headers go into the log; the code, what it prints and the key do not."""
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "X-User-ID": "user-7", "X-User-Type": "account"}
    fields = {"language": "python3", "code": "print('secret of' + ' the code')", "stdin": "secret of stdin"}
    assert server.post(RUN, fields, headers)[2]["data"]["stdout"] == "secret of the code\n"
    logged = server.logs()
    (line,) = (json.loads(line) for line in logged.splitlines() if trace in line)
    assert (line["event"], line["path"], line["status"], line["exit_code"]) == ("request", RUN, 200, 0)
    assert (line["trace_id"], line["user_id"], line["user_type"]) == (trace, "user-7", "account")
    assert "secret of" not in logged
    assert server.key not in logged
