"""Starts the image's HTTP service as an engine does, asks it, and stops it. Prints JSON.

    python3.13 -I -S -B service.py ENTRYPOINT...

The clock of the machine is set forth and back meanwhile.
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, "/sandbox")

from runtime.cgroup import find_groups

KEY = "key-of-the-tests"
PORT = 8194
START_S = 60
HOUR_S = 3600

BEYOND_MEMORY = """
held = bytearray(60 << 20)
for at in range(0, len(held), 4096): held[at] = 1
with open("file", "wb") as file:
    for _ in range(60): file.write(bytes(1 << 20))
print("not ended")
"""
THREADS = """
import threading
ends, started = threading.Event(), []
try:
    for _ in range(100):
        started.append(threading.Thread(target=ends.wait))
        started[-1].start()
except RuntimeError as error:
    print(error, len(started) < 64)
ends.set()
"""
SLEEP = "import time; began = time.monotonic(); time.sleep(1); print(0.9 < time.monotonic() - began < 60)"


def request(method: str, path: str, content: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    headers = {"X-Api-Key": KEY, "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if content is None else json.dumps(content), headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return json.loads(body) if body.startswith(b"{") else body.decode()


def run(code: str, **fields: Any) -> dict[str, Any]:
    answer = request("POST", "/v1/sandbox/run", {"language": "python3", "code": code, **fields})
    data: dict[str, Any] = answer["data"]
    return data


def wait_until_healthy() -> None:
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        try:
            if request("GET", "/health") in ("ok", '"ok"'):
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit("the service does not become healthy")


def during(jump_s: int, act: Callable[[], Any]) -> Any:
    """What `act` returns while another process sets the clock by `jump_s` seconds, half a second after."""
    child = os.fork()
    if child == 0:
        time.sleep(0.5)
        time.clock_settime(time.CLOCK_REALTIME, time.time() + jump_s)
        os._exit(0)
    try:
        return act()
    finally:
        os.waitpid(child, 0)


def groups() -> list[str]:
    """The control groups of runs."""
    return [name for name in os.listdir("/sys/fs/cgroup") if name.startswith("run-")]


def wait_until_empty() -> None:
    """Spares end by themselves when their server has ended, each in its own time."""
    ends = time.monotonic() + START_S
    for name in groups():
        while "populated 1" in Path(f"/sys/fs/cgroup/{name}/cgroup.events").read_text():
            if time.monotonic() > ends:
                raise SystemExit(f"processes of {name} live on")
            time.sleep(0.01)


def outcome(data: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the machine's haste, as a denied call's line does."""
    calls = [(one["call"], one["allow"], one["count"]) for one in data["denied"]]
    return {name: data[name] for name in ("stdout", "exit_code", "ended_by")} | {"denied": calls}


def main() -> None:
    service = subprocess.Popen([*sys.argv[1:], "serve"], env={**os.environ, "API_KEY": KEY})
    try:
        wait_until_healthy()
        told = {
            "info": request("GET", "/v1/sandbox/info"),
            "hello": outcome(run("print(6 * 7)")),
            "fresh": outcome(run("print(6 * 7)", fresh=True)),
            "denied": outcome(run("import os\nos.fork()")),
            "files": run(
                "open('out', 'w').write(open('in').read() * 2)", files={"in": "dGV4dA=="}, outputs=["out"]
            ).get("outputs"),
            "threads": outcome(run(THREADS)),
            "beyond memory": outcome(run(BEYOND_MEMORY, limits={"memory": 112 << 20}, timeout_s=5)),
            "too long": outcome(run("import time; time.sleep(60)", timeout_s=1)),
        }
        for name, jump_s in (("forth", HOUR_S), ("back", -2 * HOUR_S)):
            told[f"while the clock goes {name}"] = outcome(during(jump_s, lambda: run(SLEEP)))
            told[f"after it went {name}"] = outcome(run("print(1)"))
        began = time.monotonic()
        told["too long after that"] = outcome(run("while True: pass", timeout_s=1))
        told["in time"] = time.monotonic() - began < 30
        told["too much processor time"] = outcome(run("while True: pass", limits={"cpu_s": 1}, timeout_s=5))
        told["metrics"] = "sandbox_" in request("GET", "/metrics")
        told["groups"] = len(groups())
    finally:
        service.send_signal(signal.SIGTERM)
        try:
            ended = service.wait(30)
        except subprocess.TimeoutExpired:
            service.kill()
            raise
    wait_until_empty()
    find_groups()  # as the next server does
    print(json.dumps(told | {"ended": ended, "groups left": groups()}))


main()
