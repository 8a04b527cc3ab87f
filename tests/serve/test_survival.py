"""What a run does to be a nuisance is over with the run: the next request is fine, and nothing is left."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.serve.conftest import Server, Serving

CONFIG = """
syscalls: {groups: [processes, signals]}
limits:
  {memory: 128MiB, cpu_s: 3, file_size: 16MiB, processes: 40, open_files: 64, output: 1MiB, scratch: 8MiB}
worker_timeout: 3
"""
"""Programs may fork and signal, which by default they may not: so there is something to survive."""

SLEEPERS = """
import posix
def processes_of(users):
    found = []
    for name in posix.listdir("/proc"):
        if name.isdigit():
            try:
                if posix.stat("/proc/" + name).st_uid in users:
                    found.append(name)
            except OSError:
                pass
    return found
"""


@pytest.fixture(scope="module")
def server(serving_of: Callable[[str], Serving]) -> Server:
    """One that lets its runs fork."""
    return serving_of(CONFIG)()


@pytest.fixture(autouse=True)
def _fine_afterwards(server: Server) -> Any:
    """After each test the next run is fine, and nothing is left of the one before."""
    yield
    assert server.run("print('fine')")["stdout"] == "fine\n"
    _wait_until_nothing_is_left(server)


def _wait_until_nothing_is_left(server: Server) -> None:
    """Returns when there are no more processes, folders and user ids of runs than spares that wait."""
    ends = time.monotonic() + 10
    while True:
        info = server.get("/v1/sandbox/info")[2]["data"]
        left = server.python(SLEEPERS + "print(len(processes_of(range(10002, 60000))))").strip()
        counts = {info["uids"]["taken"], info["spares"]["ready"], int(left), len(_folders(server))}
        if len(counts) == 1:
            return
        assert time.monotonic() < ends, (info, left, _folders(server))
        time.sleep(0.1)


def _folders(server: Server) -> list[str]:
    """The runs' private folders that there are."""
    found = server.python("import os; print(*os.listdir('/var/sandbox/sandbox-python/tmp'))")
    return [name for name in found.split() if name.startswith("run-")]


def test_a_fork_bomb_ends_with_its_run(server: Server) -> None:
    data = server.run(
        "import os\nwhile True:\n try:\n  os.fork()\n except OSError:\n  pass\n",
    )
    assert data["ended_by"] in ("timeout", "cpu")


def test_a_control_for_forks(server: Server) -> None:
    """So that the tests here mean something: a run of this image can fork."""
    data = server.run(
        "import os\npid = os.fork()\nif not pid: os._exit(7)\nprint(os.waitpid(pid, 0)[1] >> 8)"
    )
    assert data["stdout"] == "7\n"


def test_a_memory_bomb_gets_a_memory_error(server: Server) -> None:
    data = server.run("held = []\nwhile True:\n held.append(bytearray(1 << 20))")
    assert data["exit_code"] == 1
    assert "MemoryError" in data["stderr"]


def test_ten_gigabytes_of_output_are_cut_off_and_flagged(server: Server) -> None:
    data = server.run("import os\nblock = b'x' * 65536\nfor _ in range(160_000): os.write(1, block)")
    assert len(data["stdout"]) == 1 << 20
    assert data["stdout_truncated"]
    assert not data["stderr_truncated"]


def test_output_without_a_newline_arrives(server: Server) -> None:
    data = server.run("print('no end', end='')")
    assert (data["stdout"], data["stdout_truncated"]) == ("no end", False)


def test_binary_output_arrives_as_text(server: Server) -> None:
    data = server.run("import os\nos.write(1, bytes(range(256)))")
    assert data["exit_code"] == 0
    assert data["stdout"] == bytes(range(256)).decode("utf-8", "replace")


def test_closing_stdout_is_the_runs_own_affair(server: Server) -> None:
    data = server.run("import os, sys\nos.close(1)\nos.close(2)\nos.close(0)\nopen('file', 'w').write('x')")
    assert data["stdout"] == ""


def test_a_hundred_thousand_files_are_too_many_and_are_removed(server: Server) -> None:
    data = server.run(
        "import os\nfor n in range(100_000): os.close(os.open(f'{n}', os.O_CREAT | os.O_WRONLY))"
    )
    assert data["ended_by"] == "scratch"
    assert "limits.scratch" in data["error"]


def test_a_thousand_files_are_fine_and_are_removed(server: Server) -> None:
    data = server.run("import os\nfor n in range(1000): os.close(os.open(f'{n}', os.O_CREAT | os.O_WRONLY))")
    assert (data["exit_code"], data["ended_by"]) == (0, "")


def test_writing_more_than_the_quota_ends_the_run(server: Server) -> None:
    data = server.run(
        "for n in range(4): open(f'{n}', 'wb').write(b'x' * (4 << 20))\nimport time\ntime.sleep(3)"
    )
    assert data["ended_by"] == "scratch"


def test_a_sparse_file_counts_what_it_takes(server: Server) -> None:
    data = server.run(
        "import os, time\nfor name in ('one', 'two'):\n"
        " file = os.open(name, os.O_CREAT | os.O_RDWR)\n os.lseek(file, (6 << 20) - 1, 0)\n"
        " os.write(file, b'x')\n"
        " print(os.fstat(file).st_size)\ntime.sleep(0.5)",
        outputs=["one"],
    )
    assert (data["stdout"], data["ended_by"]) == (f"{6 << 20}\n" * 2, "")
    assert data["outputs"]["one"] is not None


def test_a_tree_deeper_than_any_path_is_removed(server: Server) -> None:
    data = server.run(
        "import os\nfor n in range(2000):\n os.mkdir('d')\n os.chdir('d')\n"
        "os.close(os.open('x', os.O_CREAT | os.O_WRONLY))\nos.chmod('.', 0)"
    )
    assert data["exit_code"] == 0 or data["ended_by"] == "scratch"


def test_odd_names_modes_and_links_are_removed(server: Server) -> None:
    data = server.run(
        "import os\nfor name in (b'\\xff\\xfe', b'new\\nline', b' ', b'-rf', b'*'):\n os.mkdir(name)\n"
        " os.close(os.open(name + b'/' + name, os.O_CREAT | os.O_WRONLY))\n os.chmod(name, 0)\n"
        "os.symlink('/', 'root')\nos.symlink('nowhere', 'dangling')\nos.mkfifo('fifo')\nprint('made')"
    )
    assert data["stdout"] == "made\n"


def test_exhausting_descriptors_is_an_error_of_the_run(server: Server) -> None:
    data = server.run("import os\nwhile True: os.dup(0)")
    assert "Too many open files" in data["stderr"]


def test_stopping_itself_is_a_time_out(server: Server) -> None:
    data = server.run("import os, signal\nprint('before', flush=True)\nos.kill(os.getpid(), signal.SIGSTOP)")
    assert (data["stdout"], data["exit_code"]) == ("before\n", -1)
    assert "error: timeout" in data["error"]


def test_ignoring_every_signal_does_not_help(server: Server) -> None:
    data = server.run(
        "import signal, time\nfor n in range(1, 32):\n try: signal.signal(n, signal.SIG_IGN)\n"
        " except (OSError, ValueError): pass\nwhile True: time.sleep(1)"
    )
    assert data["ended_by"] == "timeout"


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
        os._exit(0)
    os._exit(0)
print("parent")
"""


def test_a_daemon_that_holds_the_pipes_ends_with_its_run(server: Server) -> None:
    """The run is over when its first process is, and what that has left behind is killed."""
    data = server.run(DAEMON)
    assert (data["stdout"], data["exit_code"], data["ended_by"]) == ("parent\n", 0, "")
    assert data["duration_ms"] < 2000


def test_a_crash_in_machine_code_has_a_shells_exit_code(server: Server) -> None:
    data = server.run("import ctypes\nprint('before', flush=True)\nctypes.string_at(0)")
    assert (data["stdout"], data["exit_code"]) == ("before\n", 139)


def test_a_killed_spare_is_replaced(server: Server) -> None:
    server.python(SLEEPERS + "for one in processes_of(range(10002, 60000)): posix.kill(int(one), 9)")
    time.sleep(1)  # one that was killed, and is not gone yet, may still be given a run
    for number in range(8):
        assert server.run(f"print({number})")["stdout"] == f"{number}\n"


def test_a_killed_zygote_is_started_again_and_runs_in_flight_are_told(server: Server) -> None:
    answers: list[Any] = []

    def long_run() -> None:
        content = {"language": "python3", "code": "import time; time.sleep(2.5); print('done')"}
        answers.append(server.post("/v1/sandbox/run", content))

    thread = threading.Thread(target=long_run)
    thread.start()
    time.sleep(0.5)
    began = time.monotonic()
    server.python(SLEEPERS + "for one in processes_of({10000}): posix.kill(int(one), 9)")
    thread.join()
    (status, _, answer), *_ = answers
    assert (status, answer["code"]) == (500, -500), answer
    assert "zygote" in answer["message"]
    server.wait_until_healthy()
    assert server.run("print('again')")["stdout"] == "again\n"
    # docker exec takes most of it; the service itself restarts the zygote in a tenth of a second.
    assert time.monotonic() - began < 20
    assert server.get("/v1/sandbox/info")[2]["data"]["zygote"]["starts"] == 2


def test_an_empty_pool_of_user_ids_is_said(serving_of: Callable[[str], Serving]) -> None:
    """Three ids: the zygote's, that of what ends runs, and one for runs."""
    server = serving_of(CONFIG + "jail: {uid_range: [20000, 3]}\n")()
    assert server.run("print(1)")["stdout"] == "1\n"
    answers: list[Any] = []

    def run() -> None:
        content = {"language": "python3", "code": "import time; time.sleep(1)"}
        answers.append(server.post("/v1/sandbox/run", content))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = sorted(answer["code"] for _, _, answer in answers)
    assert codes[0] == -429
    assert codes[-1] == 0
    assert server.run("print(2)")["stdout"] == "2\n"


def test_a_full_disk_is_an_error_of_the_run(serving_of: Callable[[str], Serving]) -> None:
    """The jail's /tmp is a file system of one megabyte."""
    tmpfs = "--tmpfs=/var/sandbox/sandbox-python/tmp:size=1m,mode=755"
    server = serving_of(CONFIG)(tmpfs)
    data = server.run("open('file', 'wb').write(b'x' * (4 << 20))")
    assert "No space left on device" in data["stderr"]
    _wait_until_nothing_is_left(server)
    assert server.run("open('file', 'wb').write(b'x' * 100_000); print('ok')")["stdout"] == "ok\n"


def test_no_room_for_private_folders_leaves_runs_without_one(serving_of: Callable[[str], Serving]) -> None:
    server = serving_of(CONFIG)("--read-only")
    assert server.run("import os; print(os.getcwd())")["stdout"] == "/\n"
    scratch = server.get("/v1/sandbox/info")[2]["data"]["scratch"]
    assert scratch == {"private": False, "problem": "Read-only file system"}


def test_a_stop_under_load_answers_what_is_in_flight(serving_of: Callable[[str], Serving]) -> None:
    server = serving_of(CONFIG)()
    answers: list[Any] = []

    def run(number: int) -> None:
        content = {"language": "python3", "code": f"import time; time.sleep(1); print({number})"}
        answers.append((number, server.post("/v1/sandbox/run", content)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    from tests.conftest import result_of

    stopped = result_of(["docker", "stop", "--time=10", server.container], None, 30)
    assert stopped.exit_code == 0, stopped.stderr
    for thread in threads:
        thread.join()
    assert sorted((n, answer["data"]["stdout"]) for n, (_, _, answer) in answers) == [
        (number, f"{number}\n") for number in range(4)
    ]
    state = result_of(["docker", "inspect", "--format={{json .State}}", server.container], None, 30)
    assert json.loads(state.stdout)["ExitCode"] == 0
