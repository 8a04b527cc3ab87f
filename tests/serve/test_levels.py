"""What a server does with the privileges that a platform leaves it, and with the volume that it mounts."""

from __future__ import annotations

import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RESTRICTED, result_of
from tests.serve.conftest import START_S, Server, Serving

TREE = "/var/sandbox/sandbox-python"
JAIL_TMP = f"{TREE}/tmp"
OWN_TMP = f"--tmpfs={JAIL_TMP}:size=64m,mode=700,uid=1000"
NEEDED = ("SYS_CHROOT", "SETUID", "SETGID", "SETPCAP")
LITTLE = ("--cap-drop=ALL", *(f"--cap-add={name}" for name in (*NEEDED, "CHOWN")))

OWN_FOLDER = """
import os
assert os.listdir(".") == []
open("file", "w").write("written")
print(open("file").read(), os.getcwd() == os.environ["TMPDIR"])
"""
BESIDE = """
import errno, os
for path in ("/tmp/x", "../x", "/x"):
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT))
        print("made")
    except OSError as error:
        print(errno.errorcode[error.errno])
"""
DENIED = "import os\nos.kill(1, 0)"
FRESH = pytest.mark.parametrize("fresh", [False, True], ids=["warm", "fresh"])


@pytest.fixture(scope="module")
def restricted(serving: Serving) -> Server:
    """A container as Kubernetes' "restricted" standard has it, with a tmpfs of its user's."""
    return serving(*RESTRICTED, OWN_TMP)


@pytest.fixture(scope="module")
def little(serving: Serving) -> Server:
    """Root with what the lock-down uses and no more: without KILL, and without DAC_OVERRIDE."""
    return serving(*LITTLE)


@pytest.fixture(scope="module")
def namespace(serving: Serving) -> Server:
    """An ordinary user who may make a user namespace, which Docker's own filter denies."""
    return serving("--user=1000:1000", "--security-opt=seccomp=unconfined", OWN_TMP)


@pytest.fixture(params=["restricted", "namespace", "little"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of them."""
    found: Server = request.getfixturevalue(request.param)
    return found


def info(server: Server) -> dict[str, Any]:
    data: dict[str, Any] = server.get("/v1/sandbox/info")[2]["data"]
    return data


def nothing_left(server: Server) -> bool:
    """Whether, within a while, there are no more numbers taken than spares that wait."""
    ends = time.monotonic() + 10
    while (now := info(server))["uids"]["taken"] != now["spares"]["wanted"] or now["workers"]["busy"]:
        if time.monotonic() > ends:
            return False
        time.sleep(0.05)
    return True


# What every level gives


def test_the_private_folder_works_and_is_removed(server: Server) -> None:
    for _ in range(6):
        assert server.run(OWN_FOLDER)["stdout"] == "written True\n"
    assert info(server)["scratch"] == {"private": True, "problem": ""}
    assert nothing_left(server)


def test_outputs_come_back(server: Server) -> None:
    data = server.run("open('out', 'w').write('x')", outputs=["out", "missing"])
    assert data["outputs"] == {"out": "eA==", "missing": None}


@FRESH
@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import time; time.sleep(600)", "import threading as t; t.Event().wait()"],
    ids=["busy", "asleep", "waiting"],
)
def test_a_time_out_ends_the_run_and_the_next_is_fine(server: Server, code: str, fresh: bool) -> None:
    content = {"language": "python3", "code": "print('before', flush=True)\n" + code, "timeout_s": 0.5}
    data = server.post("/v1/sandbox/run", content | {"fresh": fresh})[2]["data"]
    assert (data["exit_code"], data["ended_by"], data["stdout"]) == (-1, "timeout", "before\n")
    assert server.run("print('fine')")["stdout"] == "fine\n"
    assert nothing_left(server)


@FRESH
def test_a_denied_call_is_named(server: Server, fresh: bool) -> None:
    data = server.run(DENIED, fresh=fresh)
    assert data["exit_code"] == 1
    assert [(one["call"], one["count"]) for one in data["denied"]] == [("kill", 1)]
    assert "sandbox: denied kill" in data["error"]


TRESPASS = """
import os, sys
own = os.getcwd()
folders = [os.path.dirname(own) + "/" + name for name in sys.stdin.read().split()]
for folder in [one for one in folders if one != own] + [own]:
    for attempt in (
        lambda: os.listdir(folder),
        lambda: os.close(os.open(folder + "/file", os.O_WRONLY | os.O_CREAT)),
        lambda: os.close(os.open(folder + "/file", os.O_RDONLY)),
        lambda: os.unlink(folder + "/file"),
    ):
        try:
            attempt()
        except OSError as error:
            print("denied" if folder != own else error)
        else:
            print("own" if folder == own else "OK")
"""


@FRESH
def test_the_folders_of_other_runs_are_closed(server: Server, fresh: bool) -> None:
    """Also where all runs have one uid. The run's own folder is the control."""
    answers: list[dict[str, Any]] = []
    code = "import os, time; open('file', 'w').close(); time.sleep(2); print(os.listdir('.'))"
    thread = threading.Thread(target=lambda: answers.append(server.run(code)))
    thread.start()
    names = f"import glob, os; print(*map(os.path.basename, glob.glob('{JAIL_TMP}/run-*')))"
    ends = time.monotonic() + 10
    while info(server)["workers"]["busy"] != 1:
        assert time.monotonic() < ends
    folders = inside(server, names)
    lines = server.run(TRESPASS, stdin=folders, fresh=fresh)["stdout"].splitlines()
    thread.join()
    assert len(lines) >= 12
    assert lines[-4:] == ["own"] * 4
    assert set(lines[:-4]) == {"denied"}
    assert answers[0]["stdout"] == "['file']\n"


def inside(server: Server, code: str) -> str:
    """What Python prints that is in the container, and in no jail, as the container's own user."""
    python = ["/usr/bin/python3.13", "-I", "-B", "-c", code]
    done = result_of(["docker", "exec", server.container, *python], None, 60)
    assert done.exit_code == 0, done.stderr
    return done.stdout


# What is said of each


def test_an_ordinary_user_without_privileges_serves_with_landlock(restricted: Server) -> None:
    found = info(restricted)
    assert (found["level"], found["uid_for_each_run"], found["naming"]) == ("landlock", False, True)
    uids = {restricted.run("import os; print(os.getresuid())")["stdout"] for _ in range(2)}
    assert uids == {"(1000, 1000, 1000)\n"}


def test_in_a_user_namespace_runs_share_a_uid(namespace: Server) -> None:
    found = info(namespace)
    assert (found["level"], found["uid_for_each_run"]) == ("chroot", False)


def test_root_with_four_capabilities_and_chown_serves_with_chroot(little: Server) -> None:
    """It cannot signal its runs itself: the errands do it."""
    found = info(little)
    assert (found["level"], found["uid_for_each_run"], found["naming"]) == ("chroot", True, True)
    effective = inside(little, "print(open('/proc/self/status').read().split('CapEff:')[1].split()[0])")
    assert int(effective, 16) == 1 << 0 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 18


@pytest.mark.parametrize(
    ("granted", "lacking"),
    [((), NEEDED), (("SETUID", "SETGID"), ("SYS_CHROOT", "SETPCAP"))],
    ids=["none", "two"],
)
def test_root_that_lacks_capabilities_says_which(
    serving: Serving, granted: tuple[str, ...], lacking: tuple[str, ...]
) -> None:
    """It serves, says so in /health, and runs nothing."""
    server = serving("--cap-drop=ALL", *(f"--cap-add={name}" for name in granted), wait=False)
    ends = time.monotonic() + START_S
    sentence = f"running as root without the capabilities {', '.join(lacking)};"
    while True:
        try:
            status, _, body = server.request("GET", "/health", timeout_s=5)
        except OSError:
            body = b""
        if sentence in body.decode():
            break
        assert time.monotonic() < ends, (body, server.logs())
        time.sleep(0.05)
    assert status == 503
    status, _, answer = server.post("/v1/sandbox/run", {"language": "python3", "code": "print(1)"})
    assert (status, answer["code"]) == (500, -500)
    assert sentence in answer["message"]


# The volume


@FRESH
def test_a_volume_that_everybody_may_write_to_is_closed(
    serving: Serving, tmp_path: Path, fresh: bool
) -> None:
    """As an emptyDir of Kubernetes is mounted. A run writes in its own folder and nowhere beside it."""
    volume = tmp_path / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    assert stat.S_IMODE(volume.stat().st_mode) == 0o777  # the control: not for a umask
    server = serving(f"--volume={volume}:{JAIL_TMP}")
    data = server.run(OWN_FOLDER + BESIDE, fresh=fresh)
    assert data["stdout"].splitlines() == ["written True", "EACCES", "EACCES", "EACCES"]
    assert stat.S_IMODE(volume.stat().st_mode) == 0o755
    assert not (volume / "x").exists()
    assert info(server)["scratch"] == {"private": True, "problem": ""}
