"""A server in the root of an image, as in a default container, with nothing of an engine between."""

from __future__ import annotations

import ctypes
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.dockerfile import entrypoint
from tests.benchmarks.place import NOWHERE, PR_CAPBSET_DROP, settings

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 0x20000, 2, 4, 0x4000, 0x40000
CAP_SYS_ADMIN = 21
KEY = "key-of-the-benchmarks"
START_S = 20


@dataclass(frozen=True)
class Service:
    """One that runs."""

    process: subprocess.Popen[bytes]
    port: int
    started: float
    """time.monotonic() when its process was started."""

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    def processes(self) -> dict[str, int]:
        """The process ids of server and zygote: init's child, and the child of that which stays longest."""
        (server,) = _children(self.process.pid)
        zygote = min(_children(server), key=_start_of)
        return {"server": server, "zygote": zygote}

    def spares(self) -> list[int]:
        """The process ids of the zygote's children."""
        return _children(self.processes()["zygote"])


@contextmanager
def serving(root: Path, **environment: str) -> Iterator[Service]:
    """A service of the image that is unpacked at `root`; it is healthy."""
    port = _free_port()
    python = settings(root)["python"]

    def enter() -> None:
        tmp = root / "var/sandbox/sandbox-python/tmp"
        if (
            LIBC.unshare(CLONE_NEWNS)
            or LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
            or LIBC.mount(b"proc", bytes(root / "proc"), b"proc", 0, None)
            or LIBC.mount(b"tmpfs", bytes(tmp), b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755")
            or LIBC.prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0)
        ):
            os.write(2, b"error: the benchmark needs CAP_SYS_ADMIN\n")
            os._exit(1)
        os.chroot(root)
        os.chdir("/")

    process = subprocess.Popen(
        [*entrypoint(python), "serve"],
        env={"API_KEY": KEY, "PORT": str(port), "DEBUG": "false", **environment},
        stdin=subprocess.DEVNULL,
        stdout=NOWHERE,
        stderr=NOWHERE,
        preexec_fn=enter,
    )
    try:
        yield Service(process, port, time.monotonic())
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(30):
            sys.exit(f"error: the service ended with {process.returncode} after SIGTERM")


def wait_until_healthy(service: Service) -> None:
    """Returns when /health says ok."""
    ends = time.monotonic() + START_S
    while time.monotonic() < ends:
        try:
            connection = http.client.HTTPConnection(*service.address, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.005)
    sys.exit("error: the service did not become healthy")


def resident_kib(pid: int) -> int:
    """The resident memory of a process, shared pages included: VmRSS of proc(5)."""
    return _kib(Path(f"/proc/{pid}/status").read_text(), "VmRSS")


def proportional_kib(pid: int) -> int:
    """Its proportional set size, in which a page that n processes share counts 1/n: Pss of proc(5)."""
    return _kib(Path(f"/proc/{pid}/smaps_rollup").read_text(), "Pss")


def _kib(text: str, name: str) -> int:
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name}:"))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _start_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
