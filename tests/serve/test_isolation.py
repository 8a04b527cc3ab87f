"""What runs of one server have of each other, and of the server: nothing."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.serve.conftest import KEY, Server, Serving

WARM = ["random", "uuid", "tempfile", "ssl", "secrets"]
CONFIG = f"warm: {json.dumps(WARM)}\n"
TREE = "/var/sandbox/sandbox-python"
FIRST_UID = 10000
PATIENCE_S = 20

FRESH = pytest.mark.parametrize("fresh", [False, True], ids=["warm", "fresh"])


@pytest.fixture(scope="module")
def server(serving_of: Callable[[str], Serving]) -> Server:
    """One whose zygote has imported what draws random numbers."""
    return serving_of(CONFIG)()


def printed(server: Server, code: str, **fields: Any) -> Any:
    """The JSON that the code prints; it must end well."""
    data = server.run(code, **fields)
    assert (data["exit_code"], data["error"]) == (0, ""), data
    return json.loads(data["stdout"])


def seen(server: Server, code: str) -> Any:
    """The same of code in the container, as root and outside of every jail, as soon as it is not empty."""
    ends = time.monotonic() + PATIENCE_S
    while not (found := json.loads(server.python(code))):
        assert time.monotonic() < ends, (code, server.logs())
        time.sleep(0.05)
    return found


@contextmanager
def meanwhile(server: Server, code: str, answers: list[dict[str, Any]]) -> Iterator[threading.Thread]:
    """A run that is under way; its data is in `answers` afterwards."""
    thread = threading.Thread(target=lambda: answers.append(server.run(code)))
    thread.start()
    yield thread
    thread.join()


FOLDERS_WITH = f"""
import json, os
print(json.dumps([one for one in os.listdir("{TREE}/tmp") if os.path.exists("{TREE}/tmp/" + one + "/%s")]))
"""
SUPERVISORS = """
import glob, json
def words(path):
    try:
        return open(path).read()
    except OSError:
        return ""
print(json.dumps([path for path in glob.glob("/proc/[0-9]*/cmdline") if "supervisor" in words(path)]))
"""

# What a run is given


DESCRIPTORS = """
import fcntl, json, os, stat
def opened():
    found = {}
    for number in range(4096):
        try:
            kind = stat.S_IFMT(os.fstat(number).st_mode) == stat.S_IFIFO
        except OSError:
            continue
        flags = fcntl.fcntl(number, fcntl.F_GETFL)
        found[number] = [kind, flags & os.O_ACCMODE == os.O_WRONLY, bool(flags & os.O_NONBLOCK)]
    return found
before = opened()
extra = os.dup(0)
print(json.dumps([before, sorted(set(opened()) - set(before)) == [extra]]))
"""


@FRESH
def test_a_run_has_the_standard_streams_and_one_pipe_that_does_not_block(server: Server, fresh: bool) -> None:
    """That at the number below the limit; the control: one that is opened is seen."""
    limit = server.get("/v1/sandbox/info")[2]["data"]["limits"]["open_files"]["value"]
    found, control = printed(server, DESCRIPTORS, fresh=fresh)
    assert control
    assert found == {
        "0": [True, False, False],
        "1": [True, True, False],
        "2": [True, True, False],
        str(limit - 1): [True, True, True],
    }


ENVIRONMENT = """
import ctypes, json, os
lines = (ctypes.c_char_p * 64).from_address(ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value)
raw = []
for line in lines:
    if line is None:
        break
    raw.append(line.decode())
print(json.dumps([dict(os.environ), raw, os.getcwd()]))
"""


@FRESH
def test_the_environment_is_what_the_config_says_and_no_more(server: Server, fresh: bool) -> None:
    """For Python, and for machine code; the control: the container's own has the key."""
    environment, raw, folder = printed(server, ENVIRONMENT, fresh=fresh)
    assert environment == {
        "HOME": folder,
        "TMPDIR": folder,
        "MPLCONFIGDIR": folder,
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
    }
    assert sorted(raw) == sorted(f"{name}={value}" for name, value in environment.items())
    assert seen(server, "import json, os; print(json.dumps(os.environ['API_KEY']))") == KEY


SEARCH = """
import gc, sys
backwards = sys.stdin.read().split()
def everything():
    frame = sys._getframe()
    while frame:
        yield repr(frame.f_globals) + repr(frame.f_locals)
        frame = frame.f_back
    for thing in gc.get_objects():
        try:
            yield repr(thing)
        except Exception:
            continue
    for module in list(sys.modules.values()):
        yield repr(vars(module))
def search():
    found = set()
    for text in everything():
        for number, one in enumerate(backwards):
            if one[::-1] in text:  # never kept forwards: the search would find itself
                found.add(number)
    return sorted(found)
before = search()
planted = [one[::-1] for one in backwards]
print([before, search()])
"""


@FRESH
def test_neither_the_key_nor_its_digest_is_among_the_runs_objects(server: Server, fresh: bool) -> None:
    """They are given backwards, so that they are not there already; the control plants them."""
    needles = [KEY, hashlib.sha256(KEY.encode()).hexdigest()]
    found = printed(server, SEARCH, fresh=fresh, stdin="\n".join(needle[::-1] for needle in needles))
    assert found == [[], [0, 1]]


# What runs have of each other


def test_no_two_runs_have_one_uid(server: Server) -> None:
    """Neither one after another, nor at the same time."""
    sleeper: list[dict[str, Any]] = []
    code = "import os, time; open('uid-held', 'w').close(); time.sleep(1.5); print(os.getuid())"
    with meanwhile(server, code, sleeper):
        (held,) = seen(server, FOLDERS_WITH % "uid-held")
        uids = [
            printed(server, "import os; print(list({*os.getresuid(), *os.getresgid()}))") for _ in range(8)
        ]
        fresh = printed(server, "import os; print(list({*os.getresuid(), *os.getresgid()}))", fresh=True)
        assert not sleeper, "it has ended too early for this to mean anything"
    every = [int(sleeper[0]["stdout"]), *(uid for ids in (*uids, fresh) for uid in ids)]
    assert held == f"run-{every[0]}"
    assert len(every) == len(set(every)) == 10
    assert min(every) >= FIRST_UID + 2  # the first two are the zygote's and the errands'


TRESPASS = """
import errno, json, os, sys
def outcome(attempt, *arguments):
    try:
        attempt(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "OK"
def attempts(there):
    return {
        "list": outcome(os.listdir, there),
        "enter": outcome(os.chdir, there),
        "read": outcome(os.open, there + "/secret", os.O_RDONLY),
        "stat": outcome(os.stat, there + "/secret"),
        "write": outcome(os.open, there + "/new", os.O_WRONLY | os.O_CREAT),
        "rename": outcome(os.rename, there + "/secret", there + "/renamed"),
        "remove": outcome(os.unlink, there + "/renamed"),
    }
home = os.getcwd()
open("secret", "w").close()
theirs = attempts(sys.stdin.read())
os.chdir(home)
print(json.dumps([theirs, attempts(home)]))
"""


@FRESH
def test_the_folder_of_another_run_is_closed(server: Server, fresh: bool) -> None:
    """The control is the run's own: everything can be done there."""
    name = f"held-{fresh}"
    answers: list[dict[str, Any]] = []
    code = (
        f"import os, time; open('secret', 'w').write('x'); open('{name}', 'w').close(); time.sleep(2);"
        "print(os.listdir('.'))"
    )
    with meanwhile(server, code, answers):
        (folder,) = seen(server, FOLDERS_WITH % name)
        theirs, own = printed(server, TRESPASS, stdin=f"/tmp/{folder}", fresh=fresh)
        assert not answers
    assert set(own.values()) == {"OK"}
    assert theirs == dict.fromkeys(own, "EACCES")
    assert sorted(json.loads(answers[0]["stdout"].replace("'", '"'))) == [name, "secret"]


def test_nothing_of_a_run_is_in_the_folder_of_the_next_that_has_its_uid(
    serving_of: Callable[[str], Serving],
) -> None:
    """With six uids for twenty runs the same ones come again; not while the folder is not removed."""
    server = serving_of("jail: {uid_range: [20000, 8]}\napp: {spares: 1}\n")()
    code = (
        "import json, os, stat\nfolder = os.stat('.')\n"
        "print(json.dumps([os.getuid(), os.listdir('.'), folder.st_uid, stat.S_IMODE(folder.st_mode)]))\n"
        "os.mkdir('folder')\nopen('folder/file', 'w').close()\nopen('file', 'w').close()\n"
    )
    found = [printed(server, code) for _ in range(20)]
    assert [(content, owner, mode) for _, content, owner, mode in found] == [
        ([], uid, 0o700) for uid, *_ in found
    ]
    assert len({uid for uid, *_ in found}) <= 6


DRAWN = """
import sys
warm = sorted({"random", "uuid", "tempfile", "ssl", "secrets"} & set(sys.modules))
import json, os, random, secrets, ssl, tempfile, uuid
print(json.dumps([warm, {
    "random": random.random(),
    "random.Random": random.Random().random(),
    "random.SystemRandom": random.SystemRandom().random(),
    "uuid1": str(uuid.uuid1()),
    "uuid4": str(uuid.uuid4()),
    "secrets": secrets.token_hex(),
    "tempfile": os.path.basename(tempfile.mkdtemp()),
    "tempfile.mktemp": os.path.basename(tempfile.mktemp()),
    "ssl": ssl.RAND_bytes(16).hex(),
    "urandom": os.urandom(16).hex(),
    "folder": tempfile.gettempdir(),
}]))
"""


def test_what_is_drawn_at_random_is_another_in_each_warm_run(server: Server) -> None:
    """Though all of them have the generators that the zygote has seeded."""
    draws = []
    for _ in range(4):
        warm, drawn = printed(server, DRAWN)
        assert warm == sorted(WARM)
        draws.append(drawn)
    assert {name for name in draws[0] if len({drawn[name] for drawn in draws}) < 4} == set()


def test_the_hash_seed_is_the_zygotes_and_a_fresh_run_has_its_own(server: Server) -> None:
    warm = {printed(server, "print(hash('sandbox'))") for _ in range(3)}
    fresh = {printed(server, "print(hash('sandbox'))", fresh=True) for _ in range(3)}
    assert len(warm) == 1
    assert len(fresh) == 3
    assert not warm & fresh


LEFT = """
import builtins, json, os, random, sys, threading
left = {
    "builtins": hasattr(builtins, "left"),
    "module": hasattr(random, "left"),
    "function": random.random.__name__ != "random",
    "modules": "left" in sys.modules,
    "path": "/left" in sys.path,
    "environment": "LEFT" in os.environ,
    "main": hasattr(sys.modules["__main__"], "set_by_a_run"),
    "hook": sys.excepthook is not sys.__excepthook__,
    "thread": threading.active_count() > 1,
    "limit": sys.getrecursionlimit() == 4321,
}
set_by_a_run = builtins.left = random.left = sys.modules["left"] = 1
random.random = len
sys.path.append("/left")
os.environ["LEFT"] = "1"
sys.excepthook = print
sys.setrecursionlimit(4321)
print(json.dumps(left))
"""


def test_nothing_that_a_run_sets_is_there_for_the_next(server: Server) -> None:
    found = [printed(server, LEFT) for _ in range(6)]  # more than there are spares
    assert [{name for name, there in one.items() if there} for one in found] == [set()] * 6
    again = printed(server, LEFT.replace("print(json", "pass  # ") + LEFT)  # the control: twice in one run
    assert {name for name, there in again.items() if not there} == {"thread"}


@FRESH
def test_no_run_waits_for_another_that_was_denied_a_call(server: Server, fresh: bool) -> None:
    """The supervisor of the one has no pipe of the others, which were there before it was started."""
    ended: list[dict[str, Any]] = []
    code = (
        "import os, threading, time\ntry: os.kill(1, 0)\nexcept OSError: pass\n"
        "threading.Thread(target=time.sleep, args=(3,)).start()\n"
    )
    with meanwhile(server, code, ended):
        seen(server, SUPERVISORS)
        for number in range(6):  # the spares that were there, and some that were not
            assert printed(server, f"print({number})", fresh=fresh) == number
            assert not ended, f"run {number} has answered after one that sleeps"
    assert [one["call"] for one in ended[0]["denied"]] == ["kill"]
