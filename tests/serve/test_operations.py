"""What an operator has of a server: its log, its metrics, and a start that is refused."""

from __future__ import annotations

import base64
import json
import re
import secrets
import socket
import threading
from collections.abc import Callable

import pytest

from runtime.failure import USAGE
from tests.conftest import REPOSITORY, Result, result_of
from tests.serve.conftest import KEY, Server, Serving
from tests.serve.watching import lines, metrics, status_with, until, wait_for

CONFIG = "enable_preload: true\njail: {env_allow: [MARKED]}\n"
"""The shipped config but for two more ways by which something comes into a run; `debug` is on in it."""
RUN = "/v1/sandbox/run"
DENIED = "import socket\nfor _ in range(3):\n try: socket.socket()\n except OSError: pass"
RETURNED = ("code", "preload", "stdin", "env", "file")
"""What the run of the first test prints."""
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PAGE = REPOSITORY / "docs/serve-operations.md"


@pytest.fixture(scope="module")
def start(serving_of: Callable[[str], Serving]) -> Serving:
    """Starts servers of CONFIG's image."""
    return serving_of(CONFIG)


@pytest.fixture(scope="module")
def server(start: Serving) -> Server:
    """One that every test of this module may talk to."""
    return start()


# The log


def test_nothing_of_a_run_and_no_key_is_in_the_log(server: Server) -> None:
    """Whatever way it comes in and out, also with `debug` on; each comes back in an answer first."""
    marks = {
        name: f"mark-{name}-{secrets.token_hex(6)}"
        for name in (*RETURNED, "error", "slow", "events", "bad", "query", "key")
    }
    code = (
        f"import os, sys  # {marks['code']}\n"
        f"print('{marks['code']}', sys.stdin.read(), os.environ['MARKED'])\n"
        f"print(open('{marks['file']}').read())\nraise ValueError('{marks['error']}')"
    )
    data = server.run(
        code,
        preload=f"print('{marks['preload']}')",
        stdin=marks["stdin"],
        env={"MARKED": marks["env"]},
        files={marks["file"]: base64.b64encode(marks["file"].encode()).decode()},
        outputs=[marks["file"]],
    )
    assert data["exit_code"] == 1
    for name in RETURNED:
        assert marks[name] in data["stdout"]
    assert marks["error"] in data["stderr"]
    assert base64.b64decode(data["outputs"][marks["file"]]) == marks["file"].encode()

    slow = {"language": "python3", "code": f"print('{marks['slow']}', flush=True)\nwhile True: pass"}
    _, _, answer = server.post(RUN, {**slow, "timeout_s": 0.3})
    assert (answer["data"]["stdout"], answer["data"]["exit_code"]) == (f"{marks['slow']}\n", -1)

    events = json.dumps({"language": "python3", "code": f"print('{marks['events']}')"}).encode()
    known = {"X-Api-Key": server.key, "Content-Type": "application/json"}
    _, _, body = server.request("POST", RUN, events, {**known, "Accept": "text/event-stream"})
    assert marks["events"].encode() in body

    for bad in (
        b'{"language": "python3", "code": "' + marks["bad"].encode(),
        json.dumps({"language": marks["bad"], "code": ""}).encode(),
        json.dumps({"language": "python3", "code": "", "env": {marks["bad"]: "x"}}).encode(),
        json.dumps({"language": "python3", "code": "", "files": {f"../{marks['bad']}": ""}}).encode(),
        json.dumps({"language": "python3", "code": "", "limits": {marks["bad"]: 1}}).encode(),
    ):
        assert json.loads(server.request("POST", RUN, bad, known)[2])["code"] == -400
    for query in (f"?language={marks['query']}", f"?language=python3&{marks['query']}"):
        server.get(f"/v1/sandbox/dependencies{query}")
    assert status_with(server, marks["key"]) == 401
    server.request("GET", "/health", None, {"Cookie": marks["key"], "Authorization": marks["key"]})
    with socket.create_connection((server.host, server.port)) as client:
        client.sendall(f"GET /{marks['bad']} HTTP/1.1\r\nHost : {marks['bad']}\r\n\r\n".encode())
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 400 ")

    server.get("/v1/sandbox/info", {"X-User-ID": "the-last-one"})
    wait_for(server, "request", user_id="the-last-one")
    kept = server.logs() + server.request("GET", "/metrics")[2].decode()
    assert "mark-" not in kept
    assert base64.b64encode(b"mark-")[:6].decode() not in kept
    assert server.key not in kept
    assert lines(server)


def test_the_line_of_a_run(server: Server) -> None:
    """Who asked, in which trace, and what came of it: nothing else."""
    headers = {
        "traceparent": f"00-{TRACE}-{SPAN}-01",
        "X-User-ID": "usër-1".encode().decode("latin-1"),
        "X-User-Type": "end_user" + "x" * 200,
    }
    content = {"language": "python3", "code": f"{DENIED}\nraise SystemExit(7)"}
    assert server.post(RUN, content, headers)[0] == 200
    (line,) = wait_for(server, "request", trace_id=TRACE)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert line["duration_ms"] >= line["run_ms"] > 0
    assert line["wait_ms"] >= 0
    assert line["bytes_out"] > len('{"code":0}')
    told = {
        "level": "info",
        "event": "request",
        "method": "POST",
        "path": RUN,
        "status": 200,
        "bytes_in": len(json.dumps(content)),
        "exit_code": 7,
        "ended_by": "",
        "denied": ["socket"],
        "trace_id": TRACE,
        "span_id": SPAN,
        "user_id": "usër-1",
        "user_type": "end_user" + "x" * 120,
    }
    assert line == {**line, **told}
    measured = {"time", "duration_ms", "run_ms", "wait_ms", "bytes_out"}
    assert set(line) == set(told) | measured


def test_a_trace_that_is_none_is_left_out(server: Server) -> None:
    server.get("/v1/sandbox/info", {"traceparent": f"00-{'0' * 32}-{SPAN}-01", "X-User-ID": "no-trace"})
    (line,) = wait_for(server, "request", user_id="no-trace")
    assert not {"trace_id", "span_id", "user_type"} & set(line)


# Metrics


def test_metrics_count_what_happens(start: Serving) -> None:
    """Nobody needs a key for them; a server that nobody else talks to has these counts and no others."""
    server = start()
    before = metrics(server)
    server.run("print(1)")
    server.run(f"{DENIED}\nraise SystemExit(1)")
    assert server.run("print('x' * 5000)", limits={"output": 1000})["stdout_truncated"]
    assert server.run("while True: pass", limits={"cpu_s": 1})["ended_by"] == "cpu"
    content = {"language": "python3", "code": "import time\ntime.sleep(60)", "timeout_s": 0.2}
    assert server.post(RUN, content)[2]["data"]["exit_code"] == -1
    assert status_with(server, "wrong") == 401
    for at in range(20):
        server.request("GET", f"/somewhere/{at}")
    after = metrics(server)
    counted = {
        ("sandbox_runs_total", "ok"): 2,
        ("sandbox_runs_total", "error"): 1,
        ("sandbox_runs_total", "limit"): 1,
        ("sandbox_runs_total", "timeout"): 1,
        ("sandbox_denied_calls_total", "socket"): 3,
        ("sandbox_limits_hit_total", "output"): 1,
        ("sandbox_limits_hit_total", "cpu"): 1,
        ("sandbox_requests_total", RUN, "200"): 5,
        ("sandbox_requests_total", "/v1/sandbox/info", "401"): 1,
        ("sandbox_requests_total", "other", "404"): 20,
    }
    told = {
        key: value - before.get(key, 0)
        for key, value in after.items()
        if key[0].endswith("_total") and not key[0].startswith(("process_", "sandbox_spares_"))
    }
    told.pop(("sandbox_requests_total", "/metrics", "200"))
    assert {key: value for key, value in told.items() if value} == counted
    for phase in ("wait", "run", "total"):
        assert after["sandbox_run_seconds_count", phase] == 5
    assert 1.2 < after["sandbox_run_seconds_sum", "run"] <= after["sandbox_run_seconds_sum", "total"]


def test_metrics_tell_of_the_server_as_it_is(start: Serving) -> None:
    """While a run is under way and another one waits, and with the memory of two real processes."""
    server = start(MAX_WORKERS="1")
    content = {"language": "python3", "code": "import time\ntime.sleep(1.5)"}
    threads = [threading.Thread(target=server.post, args=(RUN, content)) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = until(server, "sandbox_runs_waiting")
    names = ("sandbox_up", "sandbox_workers", "sandbox_workers_busy", "sandbox_requests_in_flight")
    assert [seen[(name,)] for name in names] == [1, 1, 1, 2]
    assert seen[("sandbox_zygote_starts_total",)] == 1
    assert seen[("sandbox_spares_made_total",)] >= seen[("sandbox_spares",)]
    assert seen[("sandbox_uids_taken",)] >= 1
    assert seen[("process_open_fds",)] > 10
    for name in ("process_resident_memory_bytes", "sandbox_zygote_resident_memory_bytes"):
        assert 4 << 20 < seen[(name,)] < 64 << 20
    assert seen[("sandbox_log_lines_lost_total",)] == seen[("sandbox_spares_lost_total",)] == 0
    for thread in threads:
        thread.join()


def test_every_metric_is_documented(server: Server) -> None:
    """And nothing that there is not."""
    body = server.request("GET", "/metrics")[2].decode()
    named = set(re.findall(r"^# TYPE (\w+) ", body, re.MULTILINE))
    assert set(re.findall(r"^\| `((?:sandbox|process)_\w+)", PAGE.read_text(), re.MULTILINE)) == named


# A start that is refused


def serve(image: str, *options: str) -> Result:
    """`docker run IMAGE serve`, for one that ends by itself."""
    name = f"sandbox-tests-{secrets.token_hex(8)}"
    try:
        return result_of(["docker", "run", f"--name={name}", *options, image, "serve"], None, 20)
    finally:  # also where it serves after all
        result_of(["docker", "rm", "--force", name], None, 60)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ((), "there is no API key"),
        (("--env=API_KEY=",), "there is no API key"),
        (("--env=API_KEY= ",), "there is no API key"),
        (("--env=API_KEY=dify-sandbox",), "the API key is the one that everybody knows: dify-sandbox"),
    ],
)
def test_no_key_is_no_start(start: Serving, options: tuple[str, ...], what: str) -> None:
    """One line says what is wrong, and one has both ways out. With a key the same image serves: see above."""
    done = serve(start.image, *options)
    assert done.exit_code == USAGE == 208
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"sandbox: error: {what}",
        "sandbox: hint: set API_KEY (or API_KEY_FILE), "
        "or build the image with app: {insecure: true} in config.yaml",
    ]


def test_what_is_wrong_with_the_settings_is_said_at_once(start: Serving) -> None:
    done = serve(start.image, f"--env=API_KEY={KEY}", "--env=PORT=http", "--env=API_KEY_FILE=/nowhere")
    assert done.exit_code == USAGE
    assert done.stderr.splitlines()[0] == (
        "sandbox: error: PORT: 'http' is not a port, 1 to 65535; "
        "API_KEY_FILE: /nowhere: No such file or directory"
    )
    assert KEY not in done.stderr


def test_insecure_serves_without_a_key_and_says_so(serving_of: Callable[[str], Serving]) -> None:
    server = serving_of("app: {insecure: true}\n")(API_KEY="")
    status, _, body = server.request(
        "POST", RUN, b'{"language": "python3", "code": "print(1)"}', {"Content-Type": "application/json"}
    )
    assert (status, json.loads(body)["data"]["stdout"]) == (200, "1\n")
    (line,) = wait_for(server, "settings")
    assert line["level"] == "warning"
    assert "whoever reaches the port may run code" in line["text"]
