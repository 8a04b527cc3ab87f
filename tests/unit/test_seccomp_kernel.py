"""The default policy under the kernel of this machine: what it must stop, and what must run.

Each act is done twice, in a child without the filter (the control: the kernel itself would have answered
otherwise) and in a child with it. All acts are harmless: their arguments are such that the kernel refuses
them, or nothing comes of it.
"""

import ctypes
import errno
import mmap
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from builder.arch import host_arch
from builder.seccomp import Request, compile_policy, default_groups, effective_policy, load_groups
from builder.seccomp.syscalls import number
from tests import bpf

ARCH = host_arch()
LIBC = ctypes.CDLL(None, use_errno=True)
POLICY = effective_policy(Request(), ARCH)
DEFAULT = compile_policy(POLICY, ARCH)
EVERY_GROUP = compile_policy(effective_policy(Request(tuple(load_groups()), network=True), ARCH), ARCH)

Act = Callable[[], int]
Outcome = tuple[str, int]
"""("signal", number), ("exit", code), or ("errno", number), which is 0 where the call succeeded."""


def outcome(act: Act, program: bytes | None) -> Outcome:
    """What becomes of `act`, which returns an errno, in a child under `program`, or under no filter."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if program is not None:
                bpf.load(program)
            os.write(writer, str(act()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "signal", os.WTERMSIG(status)
    return ("errno", int(said)) if said else ("exit", os.waitstatus_to_exitcode(status))


def raw(call: int, arguments: Sequence[int]) -> int:
    result = LIBC.syscall(ctypes.c_long(call), *(ctypes.c_long(argument) for argument in arguments))
    return ctypes.get_errno() if result == -1 else 0


def call(name: str, *arguments: int) -> Act:
    found = number(name, ARCH)
    assert found is not None
    return lambda: raw(found, arguments)


def on_this_machine(calls: dict[str, tuple[int, ...]]) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, arguments) for name, arguments in calls.items() if number(name, ARCH) is not None]


KILLED = {
    "ptrace": (-1, -1, 0, 0),
    "process_vm_readv": (-1, 0, 0, 0, 0, -1),
    "process_vm_writev": (-1, 0, 0, 0, 0, -1),
    "pidfd_getfd": (-1, -1, -1),
    "bpf": (-1, 0, 0),
    "userfaultfd": (-1,),
    "init_module": (0, 0, 0),
    "finit_module": (-1, 0, -1),
    "delete_module": (0, 0),
    "kexec_load": (0, -1, 0, -1),
    "kexec_file_load": (-1, -1, 0, 0, -1),
    "open_by_handle_at": (-1, 0, 0),
    "pivot_root": (0, 0),
    "iopl": (-1,),
    "ioperm": (-1, -1, 1),
}


def test_every_killed_call_is_tried() -> None:
    """The list of this test is the catalog's own."""
    assert set(KILLED) == {rule.name for rule in POLICY.kill}


@pytest.mark.parametrize(("name", "arguments"), on_this_machine(KILLED))
def test_an_attack_ends_the_process(name: str, arguments: tuple[int, ...]) -> None:
    """The call that the kernel would merely refuse ends the process with SIGSYS, whatever groups are open."""
    assert outcome(call(name, *arguments), None)[0] == "errno"
    assert outcome(call(name, *arguments), DEFAULT) == ("signal", signal.SIGSYS)
    assert outcome(call(name, *arguments), EVERY_GROUP) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize(
    ("name", "arguments"),
    on_this_machine(
        {
            "chroot": (0,),
            "unshare": (0,),
            "setns": (-1, 0),
            "mount": (0, 0, 0, 0, 0),
            "umount2": (0, -1),
            "setuid": (os.getuid(),),
            "setgid": (os.getgid(),),
            "setresuid": (-1, -1, -1),
            "setresgid": (-1, -1, -1),
            "capset": (0, 0),
            "seccomp": (-1, -1, 0),
            "landlock_create_ruleset": (0, 0, -1),
            "execveat": (-1, 0, 0, 0, 0),
            "personality": (0xFFFFFFFF,),
            "keyctl": (-1,),
            "perf_event_open": (0, 0, 0, 0, 0),
            "mknodat": (-1, 0, 0o20600, 0),
            "setrlimit": (-1, 0),
            "rt_sigqueueinfo": (-1, 0, 0),
        }
    ),
)
def test_no_group_opens_set_up_calls(name: str, arguments: tuple[int, ...]) -> None:
    """EPERM where the kernel gives another answer, with the default groups and with all of them."""
    assert outcome(call(name, *arguments), None) not in (("errno", errno.EPERM), ("signal", signal.SIGSYS))
    assert outcome(call(name, *arguments), DEFAULT) == ("errno", errno.EPERM)
    assert outcome(call(name, *arguments), EVERY_GROUP) == ("errno", errno.EPERM)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("execve", (0, 0, 0)),
        ("kill", (0, 0)),
        ("tgkill", (0, 0, signal.SIGKILL)),
        ("memfd_create", (0, 0)),
        ("ioctl", (-1, 0x5412, 0)),  # TIOCSTI
        ("fcntl", (-1, 8, 0)),  # F_SETOWN
        ("prctl", (38, 1, 0, 0, 0)),  # PR_SET_NO_NEW_PRIVS
        ("prctl", (4, 1, 0, 0, 0)),  # PR_SET_DUMPABLE
        ("prlimit64", (0, 7, -1, 0)),
        ("clone", (0x00000800, 0, 0, 0, 0)),  # CLONE_SIGHAND without CLONE_VM
        ("clone", (0x10000200, 0, 0, 0, 0)),  # CLONE_NEWUSER | CLONE_FS
        ("socket", (2, 1, 0)),  # AF_INET
        ("socket", (1, 1, 0)),  # AF_UNIX
        ("socket", (16, 3, 0)),  # AF_NETLINK
        ("socket", (38, 5, 0)),  # AF_ALG
        ("socket", (40, 1, 0)),  # AF_VSOCK
        ("socketpair", (1, 2, 0, 0)),  # AF_UNIX, datagrams
        ("sendto", (-1, 0, 0, 0, 1, 16)),
    ],
)
def test_the_default_groups_deny_the_arguments_that_reach_out(name: str, arguments: tuple[int, ...]) -> None:
    """EPERM where the kernel gives another answer."""
    assert outcome(call(name, *arguments), None) != ("errno", errno.EPERM)
    assert outcome(call(name, *arguments), DEFAULT) == ("errno", errno.EPERM)


@pytest.mark.parametrize("name", ["clone3", "openat2", "futex_waitv"])
def test_callers_that_fall_back_get_enosys(name: str) -> None:
    """The kernel has the call, and under the filter it seems not to."""
    assert outcome(call(name, -1, 0, 0, 0, 0), None) not in (("errno", errno.ENOSYS), ("errno", errno.EPERM))
    assert outcome(call(name, -1, 0, 0, 0, 0), DEFAULT) == ("errno", errno.ENOSYS)


def test_a_call_that_nobody_knows_yet_gets_enosys() -> None:
    """The filter answers a number of the future as the kernel does."""
    assert outcome(lambda: raw(999, ()), None) == ("errno", errno.ENOSYS)
    assert outcome(lambda: raw(999, ()), DEFAULT) == ("errno", errno.ENOSYS)


def test_a_number_with_the_x32_bit_ends_the_process() -> None:
    """getpid in the numbering of amd64's x32 ABI; a number of no call on arm64."""
    getpid = number("getpid", ARCH)
    assert getpid is not None
    assert outcome(lambda: raw(0x4000_0000 | getpid, ()), None)[0] == "errno"
    assert outcome(lambda: raw(0x4000_0000 | getpid, ()), DEFAULT) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize(
    "code",
    # mov eax, 20 (getpid of i386); int 0x80; ret
    [bytes.fromhex("b814000000cd80c3")] if ARCH.name == "amd64" else [],
)
def test_the_abi_of_i386_ends_the_process(code: bytes) -> None:
    """Machine code that enters the kernel through int 0x80 is killed, where the control comes back."""
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    assert outcome(lambda: 0 if enter() else errno.EINVAL, None) != ("signal", signal.SIGSYS)
    assert outcome(lambda: 0 if enter() else errno.EINVAL, DEFAULT) == ("signal", signal.SIGSYS)


@pytest.mark.parametrize("name", ["exit", "exit_group"])
def test_machine_code_cannot_exit_as_the_runtime_does(name: str) -> None:
    """Codes 208 to 223 get EPERM and the process lives on; their neighbours end it."""
    for code in (0, 3, 207, 224, 255):
        assert outcome(call(name, code), DEFAULT) == ("exit", code)
    for code in (208, 210, 223):
        assert outcome(call(name, code), None) == ("exit", code)
        assert outcome(call(name, code), DEFAULT) == ("errno", errno.EPERM)


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
