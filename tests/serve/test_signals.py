"""SIGHUP brings what files say now, and SIGTERM an end in good order."""

from __future__ import annotations

import json
import threading
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.conftest import result_of
from tests.serve.conftest import Server, Serving
from tests.serve.watching import lines, status_with, until, wait_for

RUN = "/v1/sandbox/run"


def hang_up(server: Server, event: str, count: int = 1) -> dict[str, Any]:
    """Sends SIGHUP; the `count`th line of `event`, which is what it leads to."""
    sent = result_of(["docker", "kill", "--signal=HUP", server.container], None, 30)
    assert sent.exit_code == 0, sent.stderr
    return wait_for(server, event, count)[-1]


# SIGHUP


def test_a_new_key_comes_with_sighup(serving: Serving, tmp_path: Path) -> None:
    """A run that is under way goes on; a file without a key changes nothing, a whole one does again."""
    file = tmp_path / "key"
    file.write_text("first-key\n")
    server = serving(f"--volume={file}:/run/secrets/key:ro", API_KEY="", API_KEY_FILE="/run/secrets/key")
    assert [status_with(server, key) for key in ("first-key", "second-key", "")] == [200, 401, 401]
    answers: list[Any] = []
    content = {"language": "python3", "code": "import time\ntime.sleep(1.5)\nprint('done')"}
    under_way = threading.Thread(
        target=lambda: answers.append(server.post(RUN, content, {"X-Api-Key": "first-key"}))
    )
    under_way.start()
    until(server, "sandbox_workers_busy")

    file.write_text("second-key\n")
    assert status_with(server, "second-key") == 401
    assert hang_up(server, "reloaded")["notes"] == ["the key is changed"]
    assert [status_with(server, key) for key in ("first-key", "second-key", "")] == [401, 200, 401]
    under_way.join()
    assert answers[0][2]["data"]["stdout"] == "done\n"

    file.write_text("")
    line = hang_up(server, "not reloaded")
    assert line["level"] == "error"
    assert line["reason"] == "nothing is changed: API_KEY_FILE: /run/secrets/key: the key is empty"
    assert [status_with(server, key) for key in ("second-key", "")] == [200, 401]

    file.write_text("third-key")
    hang_up(server, "reloaded", 2)
    assert [status_with(server, key) for key in ("second-key", "third-key")] == [401, 200]
    assert not [key for key in ("first-key", "second-key", "third-key") if key in server.logs()]


def test_new_settings_come_with_sighup(serving: Serving, tmp_path: Path) -> None:
    """Those of SANDBOX_SETTINGS; what is wrong in one of them leaves all of them as they were."""
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"max_workers": 1, "worker_timeout": 4}))
    server = serving(f"--volume={file}:/settings.json:ro", SANDBOX_SETTINGS="/settings.json", MAX_WORKERS="3")

    def in_force() -> tuple[int, float]:
        data = server.get("/v1/sandbox/info")[2]["data"]
        return data["workers"]["most"], data["limits"]["wall_s"]["value"]

    assert in_force() == (1, 4)
    file.write_text(json.dumps({"max_workers": 2, "worker_timeout": 0.3, "debug": False}))
    assert hang_up(server, "reloaded")["notes"] == [
        "max_workers: 1 is 2 now",
        "timeout_s: 4 is 0.3 now",
        "debug: True is False now",
    ]
    assert in_force() == (2, 0.3)
    assert server.run("import time\ntime.sleep(60)")["ended_by"] == "timeout"
    probes = [line for line in lines(server) if line.get("path") == "/health"]
    server.request("GET", "/health")  # worth a line with `debug` alone
    server.get("/v1/sandbox/info", {"X-User-ID": "quiet"})
    wait_for(server, "request", user_id="quiet")
    assert [line for line in lines(server) if line.get("path") == "/health"] == probes != []

    bad = ('{"max_workers": 4, "worker_timeout": "soon"}', '{"max_workers": 4', '{"port": 1}')
    for count, content in enumerate(bad, 1):
        file.write_text(content)
        hang_up(server, "not reloaded", count)
    assert in_force() == (2, 0.3)
    file.write_text("{}")
    hang_up(server, "reloaded", 2)
    assert in_force() == (3, 5)


def test_more_workers_let_those_in_who_wait(serving: Serving, tmp_path: Path) -> None:
    """At once, while what holds the only worker so far goes on."""
    file = tmp_path / "settings.json"
    file.write_text('{"max_workers": 1}')
    mounted = f"--volume={file}:/settings.json:ro"
    server = serving(mounted, SANDBOX_SETTINGS="/settings.json", WORKER_TIMEOUT="60")
    content = json.dumps({"language": "python3", "code": "import time\ntime.sleep(60)"})
    headers = {"X-Api-Key": server.key, "Content-Type": "application/json"}
    answers: list[Any] = []
    short_run = threading.Thread(target=lambda: answers.append(server.run("print('in')")))
    with closing(HTTPConnection(server.host, server.port)) as long_run:
        long_run.request("POST", RUN, content, headers)
        until(server, "sandbox_workers_busy")
        short_run.start()
        until(server, "sandbox_runs_waiting")
        file.write_text('{"max_workers": 2}')
        hang_up(server, "reloaded")
        short_run.join()
        assert answers[0]["stdout"] == "in\n"
        until(server, "sandbox_workers_busy", 1)
    until(server, "sandbox_workers_busy", 0)


# SIGTERM


def test_sigterm_lets_runs_end_and_takes_no_others(serving: Serving) -> None:
    """/health says so; the log has the whole life of the server."""
    server = serving()
    answers: list[Any] = []
    content = {"language": "python3", "code": "import time\ntime.sleep(2)\nprint('done')"}
    under_way = threading.Thread(target=lambda: answers.append(server.post(RUN, content)))
    under_way.start()
    until(server, "sandbox_workers_busy")
    assert result_of(["docker", "kill", "--signal=TERM", server.container], None, 30).exit_code == 0
    until(server, "sandbox_up", 0)
    health, _, body = server.request("GET", "/health")
    assert (health, json.loads(body)) == (503, "the server is stopping")
    status, _, answer = server.post(RUN, {"language": "python3", "code": "print(1)"})
    assert (status, answer["code"]) == (503, -503)
    under_way.join()
    assert answers[0][2]["data"]["stdout"] == "done\n"
    assert result_of(["docker", "wait", server.container], None, 30).stdout.strip() == "0"
    said = [line for line in lines(server) if line["event"] in ("serving", "draining", "stopped")]
    assert [line["event"] for line in said] == ["serving", "draining", "stopped"]
    assert said[0]["privilege_level"] == "chroot"
    assert said[1]["in_flight"] == 1
    assert said[2]["unanswered"] == 0
