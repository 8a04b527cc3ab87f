"""The first process of a machine: starts commands in places, as a port asks it to, and tells how they ended.

    python3.13 -I -S -B /machine/init.py

A request is a line of JSON, and so is its answer; each is a process of its own, so that many can be under
way. Runs on the image's own interpreter, outside of every jail. If it ends, so does the machine.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

sys.path.insert(0, "/machine")

import places  # type: ignore[import-not-found]  # beside this file in the machine

PORT = "/dev/vport0p1"
_PATIENCE_S = 60


def main() -> None:
    """Serves until the machine is switched off."""
    for source, target in (("proc", "proc"), ("sysfs", "sys"), ("devtmpfs", "dev")):
        os.makedirs(f"/{target}", exist_ok=True)
        places._mount(source, f"/{target}", source)
    places._mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    places._write("/sys/fs/cgroup/cgroup.subtree_control", "+memory +pids")
    os.makedirs(places.ROOT, exist_ok=True)
    os.environ["PATH"] = "/usr/bin"
    bring_loopback_up()
    port = open_port()
    tell(port, {"id": 0, "kernel": os.uname().release, "machine": os.uname().machine})
    requests = os.fdopen(os.dup(port), "rb")
    signal.signal(signal.SIGCHLD, reap)
    while line := requests.readline():
        if os.fork() == 0:
            serve(port, json.loads(line))
    # Whoever asks has gone: the kernel switches off when its first process ends.


def reap(*_: object) -> None:
    """Orphans too are the first process's."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def open_port() -> int:
    """The port, which appears when its driver has found it."""
    ends = time.monotonic() + _PATIENCE_S
    while not os.path.exists(PORT) and time.monotonic() < ends:
        time.sleep(0.01)
    return os.open(PORT, os.O_RDWR | os.O_CLOEXEC)


def tell(port: int, answer: dict[str, Any]) -> None:
    """Writes one line, whole."""
    data = json.dumps(answer).encode() + b"\n"
    with open("/machine/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        while data:
            data = data[os.write(port, data) :]


def serve(port: int, request: dict[str, Any]) -> None:
    """Does what one request asks for; ends the process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        answer = run(request)
    except Exception as error:
        answer = {"failed": f"{type(error).__name__}: {error}"}
    try:
        tell(port, answer | {"id": request["id"]})
    finally:
        os._exit(0)


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Runs a command, as subprocess.run would; its exit code is a shell's, its output in base64."""
    place = places.PLACES[request["place"]]
    options = {"scratch": request["scratch"], "network": request["network"]}
    command = request["command"]
    status = os.memfd_create("status")
    if request["status"] is not None:
        command.insert(request["status"], str(status))
        command.insert(request["status"], "--status-fd")
    timed_out = False
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=request["env"],
        pass_fds=(status,) if request["status"] is not None else (),
        preexec_fn=lambda: places.enter(place, **options),
    ) as process:
        try:
            out, err = process.communicate(base64.b64decode(request["stdin"]), request["timeout_s"])
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            timed_out = True
    code = process.returncode
    printed = {"stdout": out, "stderr": err, "status": os.pread(status, 1 << 20, 0)}
    encoded = {name: base64.b64encode(text).decode() for name, text in printed.items()}
    return {"exit_code": code if code >= 0 else 128 - code, "timed_out": timed_out} | encoded


def bring_loopback_up() -> None:
    """Sets IFF_UP of `lo`: SIOCSIFFLAGS of netdevice(7)."""
    import socket
    import struct

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, 0x8914, struct.pack("16sH14x", b"lo", 1))


main()
