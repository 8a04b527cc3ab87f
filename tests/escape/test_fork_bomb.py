"""More and more processes and threads."""

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

FORK = """
for count in range(100):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
"""
CLONE = """
child = call("clone", {flags:#x} | 17, 0, 0, 0, 0)  # and SIGCHLD
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""
POSIX_SPAWN = "os.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-S', '-c', 'pass'], {}), 0)"

ATTACKS = {
    "fork": Attack(FORK, "OK", "EPERM"),
    "clone": Attack(CLONE.format(flags=0), "OK", "EPERM"),
    "clone3": Attack('call("clone3", 0, 0)', "EINVAL", "ENOSYS"),
    "posix_spawn": Attack(POSIX_SPAWN, "OK", "EPERM"),
    "CLONE_SIGHAND alone": Attack('call("clone", 0x800, 0, 0, 0, 0)', "EINVAL", "EPERM"),
}


def test_no_process_is_started(mounted: Place, jail: Place, where: str) -> None:
    """EPERM at the first of them: a bomb needs a second process."""
    judge(ATTACKS, mounted, jail, where)


THREADS = """
import threading
threading.stack_size(1 << 18)  # not below the least of arm64, which is 128 KiB
wait, started = threading.Event(), []
try:
    for _ in range(200):
        started.append(threading.Thread(target=wait.wait))
        started[-1].start()
    ended = "all"
except RuntimeError as error:
    started.pop()
    ended = str(error)
wait.set()
found = (len(started) < 64, ended)
"""

BOMB = {"threads": Attack(THREADS, "(False, 'all')", '(True, "can\'t start new thread")')}


def test_threads_count_as_processes(outside: Place, jail: Place, where: str) -> None:
    """limits.processes is 64: the 64th thread beside the first one cannot be started, and the run goes on.

    Fewer can where a run shares its user with others, as every "restricted" container of this machine may.
    """
    judge(BOMB, outside, jail, where)
