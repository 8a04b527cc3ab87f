"""A thread that the filter is missing in."""

from __future__ import annotations

import json
from dataclasses import replace

from runtime import failure
from tests.conftest import Place
from tests.escape.attacks import Attack, judge
from tests.escape.conftest import Entrypoint

IN_THREADS = """
import threading
answers = []
def attempt():
    for act in (lambda: os.setuid(os.getuid()), lambda: call("unshare", 0), lambda: os.kill(os.getpid(), 0)):
        try:
            act()
            answers.append(0)
        except OSError as error:
            answers.append(error.errno)
threads = [threading.Thread(target=attempt) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
found = set(answers)
"""


ATTACKS = {"threads": Attack(IN_THREADS, "{0}", "{1}")}


def test_the_codes_threads_are_filtered(outside: Place, jail: Place, where: str) -> None:
    """Each thread that the code starts gets the answers that the first one gets."""
    judge(ATTACKS, outside, jail, where)


# A thread that is there before the lock-down, as one of an import's would be. The code tells it when to act.
THREADED = """
import _thread, builtins, marshal, posix, sys

def attempt():
    try:
        posix.kill(posix.getpid(), 0)
        return 0
    except OSError as error:
        return error.errno

def thread():
    builtins.before = attempt()
    started.release()
    builtins.go.acquire()
    builtins.after = attempt()
    builtins.done.release()

{first}
started, builtins.go, builtins.done = (_thread.allocate_lock() for _ in range(3))
for lock in (started, builtins.go, builtins.done):
    lock.acquire()
_thread.start_new_thread(thread, ())
started.acquire()
exec(marshal.loads(open("/sandbox/entrypoint.pyc", "rb").read()[16:]), {{"__name__": "__main__"}})
"""
CODE = """
import builtins
builtins.go.release()
builtins.done.acquire()
print([builtins.before, builtins.after])
"""


def test_a_thread_from_before_is_brought_under_the_filter(entrypoint: Entrypoint) -> None:
    """SECCOMP_FILTER_FLAG_TSYNC: what the thread could do before the lock-down is EPERM after it."""
    threaded = replace(entrypoint, script="/threaded.py")
    threaded.replace("threaded.py", THREADED.format(first="").encode())
    ended = threaded.run(CODE)
    assert (ended.exit_code, json.loads(ended.stdout)) == (0, [0, 1])
    assert ended.stderr.startswith("sandbox: denied kill (")


# prctl(PR_SET_NO_NEW_PRIVS) and a filter of its own that allows everything: TSYNC cannot replace it.
OWN_FILTER = """
def own_filter(real=attempt):
    sys.path.insert(0, "/sandbox")
    from runtime import kernel
    allow = bytearray((6).to_bytes(4, "little") + (0x7FFF0000).to_bytes(4, "little"))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    kernel.call(
        kernel.SYS_seccomp, 1, 0,
        bytearray((1).to_bytes(8, "little") + kernel.address(allow).to_bytes(8, "little")),
    )
    return real()
attempt = own_filter
"""


def test_a_thread_that_cannot_be_brought_under_the_filter_ends_the_run(entrypoint: Entrypoint) -> None:
    """A thread with a filter of its own: the run is refused by its exit code, and names the thread."""
    threaded = replace(entrypoint, script="/threaded.py")
    threaded.replace("threaded.py", THREADED.format(first=OWN_FILTER).encode())
    ended = threaded.run(CODE)
    assert (ended.exit_code, ended.stdout) == (failure.SECCOMP, "")
    assert ended.stderr.startswith("sandbox: error: seccomp: thread ")
