"""A warm run is locked down as every run is, and the zygote has no more than it needs: from both sides."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Container, result_of
from tests.serve.conftest import KEY, Server, Serving

TREE = "/var/sandbox/sandbox-python"
ZYGOTE_UID, FIRST_UID, END_UID = 10000, 10002, 60000
SET_ID = 1 << 6 | 1 << 7  # CAP_SETGID, CAP_SETUID: capabilities(7)
OF_THE_C_LIBRARY = 1 << 31 | 1 << 32
"""Signals 32 and 33: posix_spawn(3) leaves them ignored, and the first thread gets them back."""
PATIENCE_S = 20
CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

INSIDE = """
import ctypes, json, os, resource, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
def prctl(option, *arguments):
    return libc.prctl(option, *arguments, *[0] * (4 - len(arguments)))
death = ctypes.c_int(-1)
prctl(2, ctypes.byref(death))
uids, gids = {*os.getresuid()}, {*os.getresgid()}
print(json.dumps({
    "one uid that is its gid": [len(uids), uids == gids, uids != {0}],
    "groups": os.getgroups(),
    "umask": os.umask(0),
    "limits": {
        name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name[:7] == "RLIMIT_"
    },
    "no_new_privs": prctl(39),
    "seccomp": prctl(21),
    "dumpable": prctl(3),
    "parent_death_signal": death.value,
    "keep_capabilities": prctl(7),
    "handlers": {one.name: repr(signal.getsignal(one)) for one in signal.Signals},
    "masked": [one.name for one in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "root": sorted(os.listdir("/")),
    "stdin is at its end": os.read(0, 1) == b"",
    "modules": sorted(name for name in sys.modules if "runtime" in name or "sandbox" in name),
    "path": sys.path,
    "flags": list(sys.flags),
}))
"""

# `root` may be read with CAP_SYS_PTRACE: nothing of the service can be dumped.
OUTSIDE = """
import json, os
found = []
for pid in os.listdir("/proc"):
    if not pid.isdigit():
        continue
    try:
        lines = open(f"/proc/{pid}/status").read().splitlines()
        one = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
        one["words"] = open(f"/proc/{pid}/cmdline").read().split(chr(0))[:-1]
        one["root"] = os.readlink(f"/proc/{pid}/root")
        one["open"] = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        continue
    found.append(one)
print(json.dumps(found))
"""

MEMORY = """
import json, os, sys
needles = [bytes.fromhex(text) for text in sys.argv[1:]]
found = {}
for pid in os.listdir("/proc"):
    if not pid.isdigit() or int(pid) == os.getpid():
        continue
    there = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            span, modes, *_ = line.split()
            first, end = (int(text, 16) for text in span.split("-"))
            if modes[0] != "r" or first >= 1 << 47:
                continue
            try:
                memory.seek(first)
                content = memory.read(end - first)
            except OSError:
                continue
            there |= {number for number, needle in enumerate(needles) if needle in content}
    words = open(f"/proc/{pid}/cmdline").read()
    name = "init" if pid == "1" else "zygote and runs" if "zygote" in words else "server"
    found[name] = sorted({*found.get(name, []), *there})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def server(serving: Serving) -> Server:
    """One whose processes root can look into by `docker exec`."""
    return serving("--cap-add=SYS_PTRACE")


@pytest.fixture(scope="module")
def cold(loaded_image: str) -> Iterator[str]:
    """A container with one cold run, which sleeps."""
    name = f"sandbox-tests-{secrets.token_hex(8)}"
    code = "import time; time.sleep(300)"
    command = [
        "docker",
        "run",
        "--detach",
        f"--name={name}",
        "--cap-add=SYS_PTRACE",
        loaded_image,
        "-c",
        code,
    ]
    started = result_of(command, None, 60)
    assert started.exit_code == 0, started.stderr
    yield name
    result_of(["docker", "rm", "--force", name], None, 60)


@pytest.fixture
def sleeping(server: Server) -> Iterator[None]:
    """A warm run and a fresh one are under way."""
    answers: list[dict[str, Any]] = []

    def run(fresh: bool) -> None:
        answers.append(server.run("import time; time.sleep(3)", fresh=fresh))

    threads = [threading.Thread(target=run, args=(fresh,)) for fresh in (False, True)]
    for thread in threads:
        thread.start()
    wait_for(lambda: server.get("/v1/sandbox/info")[2]["data"]["workers"]["busy"] == 2)
    yield
    for thread in threads:
        thread.join()
    assert [answer["exit_code"] for answer in answers] == [0, 0]


def wait_for(there: Callable[[], Any]) -> Any:
    """What `there` gives, as soon as it gives something."""
    ends = time.monotonic() + PATIENCE_S
    while not (found := there()):
        assert time.monotonic() < ends
        time.sleep(0.05)
    return found


def processes(container: str) -> list[dict[str, Any]]:
    """Every process in a container: status(5), words, root."""
    command = ["docker", "exec", "--user=0", container, "/usr/bin/python3.13", "-I", "-B", "-c", OUTSIDE]
    done = result_of(command, None, 60)
    assert done.exit_code == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def locked_down(container: str) -> list[dict[str, Any]]:
    """Those of them that have a run's uid, and are done with the lock-down."""
    found = [one for one in processes(container) if FIRST_UID <= int(one["Uid"][0]) < END_UID]
    return [one for one in found if int(one["Seccomp_filters"][0]) > 1]


def confinement(process: dict[str, Any]) -> dict[str, Any]:
    """What is the same for each run."""
    same = (
        "Groups",
        "NoNewPrivs",
        "Seccomp",
        "Seccomp_filters",
        "SigBlk",
        "SigCgt",
        "Umask",
        "Threads",
    )
    ignored = f"{int(process['SigIgn'][0], 16) & ~OF_THE_C_LIBRARY:x}"
    return {name: process[name] for name in (*CAPABILITIES, *same, "root", "open")} | {"SigIgn": ignored}


@pytest.mark.parametrize("fresh", [False, True], ids=["warm", "fresh"])
def test_a_run_sees_of_its_lock_down_what_a_cold_run_sees(
    server: Server, loaded_image: str, fresh: bool
) -> None:
    seen = server.run(INSIDE, fresh=fresh)
    assert seen["exit_code"] == 0, seen
    expected = Container(loaded_image).run(INSIDE)
    assert expected.exit_code == 0, expected.stderr
    mine, of_a_cold_run = json.loads(seen["stdout"]), json.loads(expected.stdout)
    assert mine == of_a_cold_run
    assert mine["one uid that is its gid"] == [1, True, True]
    assert (mine["groups"], mine["no_new_privs"], mine["seccomp"], mine["dumpable"]) == ([], 1, 2, 0)
    assert mine["parent_death_signal"] == 9
    assert mine["limits"]["RLIMIT_CORE"] == [0, 0]


@pytest.mark.usefixtures("sleeping")
def test_a_run_and_every_spare_are_confined_as_a_cold_run_is(server: Server, cold: str) -> None:
    """As the kernel tells it to others; the container's own processes are the control."""
    (of_a_cold_run,) = wait_for(lambda: locked_down(cold))
    expected = confinement(of_a_cold_run)
    assert {name: expected[name] for name in CAPABILITIES} == {name: ["0" * 16] for name in CAPABILITIES}
    assert (expected["NoNewPrivs"], expected["Seccomp"], expected["root"]) == (["1"], ["2"], TREE)

    def all_there() -> list[dict[str, Any]]:
        found = locked_down(server.container)
        return found if len(found) >= 6 else []  # four spares, and the two runs

    found = wait_for(all_there)
    assert any("--fresh" in one["words"] for one in found)
    for one in found:
        assert confinement(one) == expected | {"open": one["open"]}
        assert len({*one["Uid"], *one["Gid"]}) == 1
    assert len({one["Uid"][0] for one in found}) == len(found)
    # A spare has the pipe besides by which its job comes.
    assert {one["open"] for one in found} == {expected["open"], expected["open"] + 1}
    outside = [one for one in processes(server.container) if one["Uid"] == ["0"] * 4]
    assert all(int(one["CapEff"][0], 16) for one in outside)


def test_the_zygote_may_change_users_and_nothing_else(server: Server) -> None:
    own = [one for one in processes(server.container) if one["Uid"] == [str(ZYGOTE_UID)] * 4]
    (zygote,) = own
    assert zygote["words"][-2:] == ["/sandbox/zygote.pyc", "3"]
    assert zygote["Gid"] == [str(ZYGOTE_UID)] * 4
    assert zygote["Groups"] == []
    held = {name: int(zygote[name][0], 16) for name in CAPABILITIES}
    assert held == {"CapInh": 0, "CapPrm": SET_ID, "CapEff": SET_ID, "CapBnd": 0, "CapAmb": 0}
    assert zygote["NoNewPrivs"] == ["1"]
    assert zygote["root"] == TREE
    assert zygote["Threads"] == ["1"]
    (init,) = [one for one in processes(server.container) if one["Pid"] == ["1"]]  # the control
    assert init["root"] == "/"
    assert int(init["CapBnd"][0], 16) & ~SET_ID


@pytest.mark.usefixtures("sleeping")
def test_neither_the_key_nor_its_digest_is_in_the_memory_of_a_run_or_the_zygote(server: Server) -> None:
    """Byte by byte. The server is the control: it keeps the digest, and gets the key with each request."""
    needles = (
        KEY.encode(),
        hashlib.sha256(KEY.encode()).digest(),
        hashlib.sha256(KEY.encode()).hexdigest().encode(),
    )
    words = [needle.hex() for needle in needles]
    found = json.loads(server.execute("/usr/bin/python3.13", "-I", "-B", "-c", MEMORY, *words))
    assert found["zygote and runs"] == []
    assert 2 in found["server"]
