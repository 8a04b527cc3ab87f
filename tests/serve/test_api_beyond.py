"""What the API has beyond dify-sandbox's: files in and out, limits, figures, denied calls, events."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.serve.conftest import Server, Serving

RUN = "/v1/sandbox/run"


def run_in(server: Server, code: str, wall_s: float, **fields: Any) -> dict[str, Any]:
    """Runs `code` with a time-out of its own: `timeout_s` of Server.run is the client's."""
    content = {"language": "python3", "code": code, "timeout_s": wall_s, **fields}
    status, _, answer = server.post(RUN, content)
    assert (status, answer["code"]) == (200, 0), answer
    data: dict[str, Any] = answer["data"]
    return data


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def test_stdin(server: Server) -> None:
    """Read to its end; without one there is nothing to read."""
    code = "import sys\ntext = sys.stdin.read()\nprint(len(text), ascii(text[:3]))"
    assert server.run(code, stdin="ä中\n" * 100_000)["stdout"] == "300000 '\\xe4\\u4e2d\\n'\n"
    assert server.run(code)["stdout"] == "0 ''\n"
    assert server.run("print(1)", stdin="x" * 1_000_000)["stdout"] == "1\n"


def test_files_in_and_out(server: Server) -> None:
    """In the folder where the code starts, which is the run's own: bytes go in and come back as they are."""
    every = bytes(range(256)) * 100
    code = (
        "import os\nos.makedirs('out/deep')\n"
        "open('out/deep/copy', 'wb').write(open('in/every', 'rb').read()[::-1])\n"
        "open('empty', 'w').close()\nprint(sorted(os.listdir('.')), open('ä 中').read())"
    )
    data = server.run(
        code, files={"in/every": encoded(every), "ä 中": encoded(b"name")}, outputs=["out/deep/copy", "empty"]
    )
    assert data["stdout"] == "['empty', 'in', 'out', 'ä 中'] name\n", data
    assert data["outputs"] == {"out/deep/copy": encoded(every[::-1]), "empty": ""}
    assert data["outputs_error"] == {}
    assert server.run("import os\nprint(os.listdir('.'))")["stdout"] == "[]\n"


def test_outputs_that_cannot_be_brought(server: Server) -> None:
    """null, and a sentence: no link is followed, nothing but a file is read."""
    code = "import os\nos.symlink('/etc/passwd', 'link')\nos.symlink('/etc', 'folder')\nos.mkdir('d')\n"
    asked = ["nothing", "link", "folder/passwd", "d", "d/nothing"]
    data = server.run(code, outputs=asked)
    assert data["exit_code"] == 0, data
    assert data["outputs"] == dict.fromkeys(asked)
    assert sorted(data["outputs_error"]) == sorted(asked)
    assert all(data["outputs_error"].values())


def test_outputs_of_a_run_that_failed(server: Server) -> None:
    """What it had written comes back all the same."""
    data = server.run("open('a', 'w').write('x')\n1/0", outputs=["a"])
    assert (data["exit_code"], data["outputs"]) == (1, {"a": encoded(b"x")})
    data = run_in(server, "open('a', 'w').write('x')\nwhile True: pass", 0.3, outputs=["a"])
    assert (data["exit_code"], data["outputs"]) == (-1, {"a": encoded(b"x")})


def test_a_time_out_of_ones_own(server: Server) -> None:
    """Lower than worker_timeout, or refused."""
    data = run_in(server, "import time\ntime.sleep(60)", 0.25)
    assert (data["exit_code"], data["ended_by"]) == (-1, "timeout")
    assert 200 < data["duration_ms"] < 5000
    _, _, answer = server.post(RUN, {"language": "python3", "code": "1", "timeout_s": 5.01})
    assert (answer["code"], answer["message"]) == (-400, "timeout_s: is to be more than 0 and at most 5")


def test_lower_limits(server: Server) -> None:
    """Each is in force for this run, and for no other."""
    code = (
        "import resource as r\n"
        "print(*(r.getrlimit(n)[0] for n in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_FSIZE, r.RLIMIT_NOFILE)))"
    )
    usual = server.run(code)["stdout"]
    limits = {"memory": 256 << 20, "cpu_s": 3, "file_size": 1000, "open_files": 20}
    assert server.run(code, limits=limits)["stdout"] == f"{256 << 20} 3 1000 20\n"
    assert server.run(code)["stdout"] == usual
    assert "MemoryError" in server.run("bytearray(128 << 20)", limits={"memory": 100 << 20})["stderr"]
    assert server.run("print(len(bytearray(128 << 20)))")["stdout"] == f"{128 << 20}\n"
    for name, value in (("memory", 1 << 50), ("cpu_s", 11), ("open_files", 257), ("wall", 1)):
        _, _, answer = server.post(RUN, {"language": "python3", "code": "1", "limits": {name: value}})
        assert answer["code"] == -400
        assert answer["message"].startswith(f"limits.{name}: ")


def test_env(serving_of: Callable[[str], Serving], server: Server) -> None:
    """What jail.env_allow names, for this run alone; anything else is refused."""
    fields = {"language": "python3", "code": "1", "env": {"LANG": "C"}}
    assert server.post(RUN, fields)[2]["code"] == -400
    allowing = serving_of("jail: {env_allow: [GREETING, EMPTY]}\n")()
    code = "import os\nprint(os.environ.get('GREETING'), os.environ.get('EMPTY'), os.getenv('API_KEY'))"
    for fresh in (False, True):
        data = allowing.run(code, env={"GREETING": "ä=b\n", "EMPTY": ""}, fresh=fresh)
        assert data["stdout"] == "ä=b\n  None\n", data
        assert allowing.run(code, fresh=fresh)["stdout"] == "None None None\n"
    assert allowing.post(RUN, fields)[2]["message"].startswith("env.LANG: ")


def test_fresh(server: Server) -> None:
    """A new interpreter: its own hash seed; a warm one has the zygote's."""
    code = "print(hash('a'))"
    warm = {server.run(code)["stdout"] for _ in range(4)}
    fresh = {server.run(code, fresh=True)["stdout"] for _ in range(4)}
    assert len(warm) == 1
    assert len(fresh) == 4


def test_denied_calls(server: Server) -> None:
    """Named, with the line, what allows it, and how often."""
    code = "import os\nfor _ in range(3):\n    try:\n        os.fork()\n    except OSError:\n        pass\n"
    data = server.run(code)
    assert (data["exit_code"], data["error"]) == (0, "")
    (one,) = data["denied"]
    assert one == {"call": "clone", "line": 4, "allow": "syscalls: {groups: [processes]}", "count": 3}


def test_figures(server: Server) -> None:
    """Wall clock, CPU time and peak memory are the run's own."""
    data = server.run("import time\ntime.sleep(0.3)")
    assert data["duration_ms"] >= 300 > data["cpu_ms"] > 0
    data = server.run("import time\nwhile time.process_time() < 0.3: pass\nx = bytearray(b'x') * (100 << 20)")
    assert data["cpu_ms"] >= 300
    assert 100 << 20 < data["peak_memory_bytes"] < 400 << 20
    assert server.run("1")["peak_memory_bytes"] < 100 << 20


def test_output_is_cut_off(server: Server) -> None:
    """At limits.output, stdout and stderr together, with a flag for whichever was cut."""
    data = server.run("print('x' * 5000, end='')", limits={"output": 1000})
    assert (data["stdout"], data["stdout_truncated"], data["stderr_truncated"]) == ("x" * 1000, True, False)
    data = server.run("import sys\nsys.stderr.write('y' * 5000)", limits={"output": 10})
    assert (data["stderr"], data["stdout_truncated"], data["stderr_truncated"]) == ("y" * 10, False, True)
    data = server.run("print('x' * 999)", limits={"output": 1000})
    assert (len(data["stdout"]), data["stdout_truncated"]) == (1000, False)


def test_binary_output(server: Server) -> None:
    """U+FFFD for what is no text, and text for the rest."""
    code = "import sys\nsys.stdout.buffer.write(b'a\\xff\\xe4\\xb8\\xad\\0\\xc3')"
    assert server.run(code)["stdout"] == "a\ufffd中\0\ufffd"


def test_info(server: Server) -> None:
    """Level, limits and who keeps them, the policy's digest and the image."""
    status, _, answer = server.get("/v1/sandbox/info")
    data = answer["data"]
    assert (status, answer["code"], data["level"], data["network"]) == (200, 0, "chroot", False)
    runtime = json.loads(server.python("print(open('/sandbox/runtime.json').read())"))
    assert (data["policy_sha256"], data["image"]) == (runtime["policy_sha256"], runtime["image"])
    assert data["limits"]["memory_bytes"]["value"] == runtime["limits"]["memory_bytes"]
    assert all(limit["by"] for limit in data["limits"].values())


# Events


class Stream:
    """A run whose answer comes by events. To be used in a `with`."""

    def __init__(self, server: Server, code: str, **fields: Any) -> None:
        self.connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
        body = json.dumps({"language": "python3", "code": code, **fields})
        headers = {"Content-Type": "application/json", "X-Api-Key": server.key, "Accept": "text/event-stream"}
        self.connection.request("POST", RUN, body, headers)
        self.response = self.connection.getresponse()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.connection.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Each event, as it comes: its name, and what its data is in JSON."""
        while line := self.response.readline():
            if line.startswith(b":"):
                assert self.response.readline() == b"\n"
                continue
            name, data = line.removeprefix(b"event: "), self.response.readline()
            assert line.startswith(b"event: ")
            assert data.startswith(b"data: ")
            assert self.response.readline() == b"\n"
            yield name.decode().strip(), json.loads(data.removeprefix(b"data: "))


def test_events_come_as_they_happen(server: Server) -> None:
    """The first one while the code goes on."""
    code = "import sys, time\nprint('a', flush=True)\ntime.sleep(1)\nprint('b')\nsys.stderr.write('c')"
    with Stream(server, code) as stream:
        assert (stream.response.status, stream.response.getheader("content-type")) == (
            200,
            "text/event-stream",
        )
        events = iter(stream)
        assert next(events) == ("stdout", {"text": "a\n"})
        assert b"sandbox_workers_busy 1\n" in server.request("GET", "/metrics")[2]
        rest = list(events)
    assert sorted(rest[:-1]) == [("stderr", {"text": "c"}), ("stdout", {"text": "b\n"})]
    name, answer = rest[-1]
    assert (name, answer["code"]) == ("result", 0)
    data = answer["data"]
    assert (data["stdout"], data["stderr"], data["exit_code"], data["error"]) == ("", "", 0, "")
    assert sorted(data) == sorted(server.run("1"))


def test_a_connection_is_used_again_after_events(server: Server) -> None:
    """The answer's end is known, so the next request follows."""
    with Stream(server, "print(1)") as stream:
        assert [name for name, _ in stream] == ["stdout", "result"]
        connection = stream.connection.sock
        stream.connection.request("GET", "/health")
        assert stream.connection.getresponse().read() == b'"ok"'
        assert stream.connection.sock is connection is not None


def test_characters_in_pieces(server: Server) -> None:
    """A character whose bytes come one by one is one; what never becomes one is U+FFFD."""
    code = (
        "import os, time\nfor byte in '中😀'.encode() + b'\\xff' + b'\\xe4\\xb8':\n"
        "    os.write(1, bytes([byte]))\n    time.sleep(0.02)\n"
    )
    with Stream(server, code) as stream:
        *printed, (name, _) = stream
    assert name == "result"
    assert "".join(event["text"] for _, event in printed) == "中😀\ufffd\ufffd"


def test_much_output_by_events(server: Server) -> None:
    """All of it up to the limit, in order."""
    with Stream(server, "for n in range(200_000): print(n)") as stream:
        *printed, (_, answer) = stream
    assert "".join(event["text"] for _, event in printed) == "".join(f"{n}\n" for n in range(200_000))
    assert not answer["data"]["stdout_truncated"]
    with Stream(server, "while True: print('x' * 1000)", limits={"output": 100_000}, timeout_s=1) as stream:
        *printed, (_, answer) = stream
    assert len("".join(event["text"] for _, event in printed)) == 100_000
    assert answer["data"]["stdout_truncated"]


def test_a_mistake_is_no_stream(server: Server) -> None:
    """Nor is anything else that is known before something was run."""
    with Stream(server, "1", timeout_s=-1) as stream:
        assert stream.response.getheader("content-type") == "application/json; charset=utf-8"
        assert json.loads(stream.response.read())["code"] == -400


def test_events_for_http_1_0(server: Server) -> None:
    """Which has no chunks: until the connection is closed."""
    body = json.dumps({"language": "python3", "code": "print('ä')"}).encode()
    head = (
        f"POST {RUN} HTTP/1.0\r\nX-Api-Key: {server.key}\r\nContent-Type: application/json\r\n"
        f"Accept: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    _, _, events = answer.partition(b"\r\n\r\n")
    assert events.startswith(
        'event: stdout\ndata: {"text":"ä\\n"}\n\nevent: result\ndata: {"code":0,'.encode()
    )
    assert events.endswith(b"}\n\n")


# Those who leave


def cancelled(server: Server) -> int:
    """How many runs were ended because nobody waited for them any more."""
    for line in server.request("GET", "/metrics")[2].decode().splitlines():
        if line.startswith('sandbox_runs_total{result="cancelled"}'):
            return int(line.split()[-1])
    return 0


@pytest.mark.parametrize("events", [False, True])
def test_a_closed_connection_ends_the_run(server: Server, events: bool) -> None:
    """Long before its time is over, and the place is free."""
    before = cancelled(server)
    body = json.dumps({"language": "python3", "code": "import time\nprint('x', flush=True)\ntime.sleep(4.5)"})
    connection = http.client.HTTPConnection(server.host, server.port, timeout=60)
    accept = "text/event-stream" if events else "*/*"
    connection.request("POST", RUN, body, {"X-Api-Key": server.key, "Accept": accept})
    if events:
        connection.getresponse().readline()
    while b"sandbox_workers_busy 1\n" not in server.request("GET", "/metrics")[2]:
        time.sleep(0.01)
    began = time.monotonic()
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    while cancelled(server) == before:
        assert time.monotonic() < began + 4
        time.sleep(0.01)
    assert b"sandbox_workers_busy 0\n" in server.request("GET", "/metrics")[2]
    assert '"ended_by":"cancelled"' in server.logs()
