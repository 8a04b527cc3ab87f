"""Honest programs under filters that the kernel runs: with their groups they work, one short they do not."""

import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from builder.arch import host_arch
from builder.seccomp import Request, compile_policy, default_groups, effective_policy

ARCH = host_arch()

BARE = """
import json, os
assert os.listdir("/") and open(json.__file__).read(1)
"""

STANDARD_LIBRARY = """
import asyncio, concurrent.futures, datetime, decimal, json, mmap, os, shutil, signal, socket, sqlite3, ssl
import tempfile, threading, time, uuid, zoneinfo

assert json.loads("[1]") == [1] and decimal.Decimal(1) / 4 == decimal.Decimal("0.25")
assert datetime.datetime.now(zoneinfo.ZoneInfo("UTC")) and uuid.uuid1() != uuid.uuid4()
assert ssl.create_default_context()
seen = []
threads = [threading.Thread(target=seen.append, args=(1,)) for _ in range(8)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
assert len(seen) == 8
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert sum(pool.map(abs, range(100))) == 4950
async def loop():
    signal.signal(signal.SIGALRM, lambda *_: seen.append(2))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.02) for _ in range(4)))
asyncio.run(loop())
assert seen[-1] == 2
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "x.db")
    with sqlite3.connect(path) as base:
        base.execute("pragma journal_mode=wal")
        base.execute("create table t (a)")
        base.execute("insert into t values (1)")
    assert base.execute("select a from t").fetchall() == [(1,)]
    base.close()
    shutil.copytree(folder, folder + "/copy")
    os.chmod(path, 0o600), os.symlink("x.db", path + "l"), os.rename(path, path + "2"), os.utime(path + "2")
    with open(path + "2", "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        view.flush()
def run_program(): os.execv("/bin/true", ["true"])
def signal_parent(): os.kill(os.getppid(), 0)
for denied in (os.fork, socket.socket, run_program, signal_parent):
    try:
        denied()
    except PermissionError:
        continue
    raise SystemExit(f"{denied} was allowed")
"""

NETWORK = """
import asyncio, socket
assert socket.getaddrinfo("localhost", 80)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.bind(("127.0.0.1", 0))
    udp.sendto(b"x", udp.getsockname())
    assert udp.recvfrom(9)[0] == b"x"
async def loop():
    async def echo(reader, writer):
        writer.writelines([await reader.readline(), b"more"])
        writer.close()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"line\\n")
    assert await reader.read() == b"line\\nmore"
    writer.close()
    server.close()
asyncio.run(loop())
"""

CLIENT = """
import asyncio, select, socket, sys
first, second = (socket.socket(fileno=int(number)) for number in sys.argv[1:])
first.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
first.settimeout(5)
first.sendall(b"one\\n")
assert select.select([first], [], [], 5)[0] and first.recv(9) == b"one\\n"
address = first.getpeername()
assert first.getsockname() != address
async def loop():
    reader, writer = await asyncio.open_connection(sock=second)
    writer.writelines([b"two", b"\\n"])
    assert await reader.readline() == b"two\\n"
    writer.close()
asyncio.run(loop())
first.settimeout(None)  # with one, accept() waits before it asks the kernel
def tcp(): socket.socket()
def udp(): socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def local(): socket.socket(socket.AF_UNIX)
def connecting(): first.connect(address)
def unconnecting(): first.sendto(b"x", address)
def fast(): first.sendmsg([b"x"], [], socket.MSG_FASTOPEN, address)
def bound(): first.bind(("127.0.0.1", 0))
def listening(): first.listen()
def accepting(): first.accept()
for denied in (tcp, udp, local, connecting, unconnecting, fast, bound, listening, accepting):
    try:
        denied()
    except PermissionError:
        continue
    except OSError as error:
        raise SystemExit(f"{denied.__name__}: {error}")
    raise SystemExit(f"{denied.__name__}: allowed")
first.shutdown(socket.SHUT_WR)
assert first.recv(9) == b""
"""

PROCESSES = """
import multiprocessing, os, subprocess
assert subprocess.run(["true"]).returncode == 0 and os.system("exit 3") >> 8 == 3
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(abs, [-1, -2]) == [1, 2]
"""


DEFAULT_GROUPS = default_groups()


def run_under(
    groups: Sequence[str], program: str, folder: Path, given: Sequence[int] = ()
) -> subprocess.CompletedProcess[str]:
    """Runs `program` with the descriptors `given` as its arguments."""
    on, listed = "network" in groups or "network_client" in groups, "network_client" in groups
    policy = folder / "policy.bpf"
    policy.write_bytes(
        compile_policy(
            effective_policy(Request(tuple(groups), network=on, listed=listed, replace=True), ARCH), ARCH
        )
    )
    start = f"from tests import bpf; bpf.load(open({str(policy)!r}, 'rb').read())"
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", start + program]
    command += map(str, given)
    root = Path(__file__).parents[2]  # where `-c` finds the package tests
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=60, pass_fds=tuple(given)
    )


@pytest.mark.parametrize(
    ("groups", "program"),
    [
        (("core",), BARE),
        (DEFAULT_GROUPS, STANDARD_LIBRARY),
        ((*DEFAULT_GROUPS, "network"), NETWORK),
        # Pool ends its workers by a signal, for which the group `signals` is there.
        ((*DEFAULT_GROUPS, "processes", "exec", "signals"), PROCESSES),
    ],
    ids=["core", "default", "network", "processes"],
)
def test_honest_programs_run(groups: tuple[str, ...], program: str, tmp_path: Path) -> None:
    """Under its groups a program runs to its end and exits with 0, which includes CPython's own exit."""
    ran = run_under(groups, program, tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server on loopback that says what it is told, as long as it is told something."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(1 << 10):
                self.request.sendall(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_connections_that_are_given_can_be_used(echo: int, tmp_path: Path) -> None:
    """Beside network.allow code sends and receives, and has no way to another address."""

    def ran(*groups: str) -> subprocess.CompletedProcess[str]:
        with (
            socket.create_connection(("127.0.0.1", echo)) as first,
            socket.create_connection(("127.0.0.1", echo)) as second,
        ):
            return run_under((*DEFAULT_GROUPS, *groups), CLIENT, tmp_path, (first.fileno(), second.fileno()))

    listed = ran("network_client")
    assert (listed.returncode, listed.stderr) == (0, "")
    whole = ran("network")
    assert (whole.returncode, whole.stderr.strip()) == (1, "tcp: allowed")
    without = ran()
    assert without.returncode == 1
    assert "Operation not permitted" in without.stderr


@pytest.mark.parametrize(
    ("groups", "program", "complaint"),
    [
        (("core",), STANDARD_LIBRARY, "can't start new thread"),
        (DEFAULT_GROUPS, NETWORK, "Operation not permitted"),
        (DEFAULT_GROUPS, PROCESSES, "Operation not permitted"),
    ],
    ids=["default", "network", "processes"],
)
def test_honest_programs_need_their_groups(
    groups: tuple[str, ...], program: str, complaint: str, tmp_path: Path
) -> None:
    """One group short, the same program fails on a denied call: the filter was in force above."""
    ran = run_under(groups, program, tmp_path)
    assert ran.returncode == 1
    assert complaint in ran.stderr
