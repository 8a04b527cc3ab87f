"""Other processes: tracing them, reading their memory, signalling them, bending how they run."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator

import pytest

from tests.conftest import RESTRICTED, Place, result_of
from tests.escape.attacks import NOBODY, Attack, judge, judge_control, judge_killed, outcomes, program, read

KILLED = {
    "PTRACE_TRACEME": Attack('call("ptrace", 0, 0, 0, 0)', "OK", "SIGSYS"),
    "PTRACE_ATTACH": Attack(f'call("ptrace", 16, {NOBODY}, 0, 0)', "ESRCH", "SIGSYS"),
    "process_vm_readv": Attack(f'call("process_vm_readv", {NOBODY}, 0, 0, 0, 0, 0)', "OK", "SIGSYS"),
    "process_vm_writev": Attack(f'call("process_vm_writev", {NOBODY}, 0, 0, 0, 0, 0)', "OK", "SIGSYS"),
    "pidfd_getfd": Attack('call("pidfd_getfd", -1, 0, 0)', "EBADF", "SIGSYS"),
}


def test_the_kernel_would_answer(outside: Place) -> None:
    """The control: outside, each call reaches the kernel."""
    judge_control(KILLED, outside)


@pytest.mark.parametrize("name", KILLED)
def test_reaching_into_a_process_ends_the_run(name: str, jail: Place) -> None:
    """SIGSYS for the whole run at the first call, before any of it was answered."""
    judge_killed(KILLED[name], jail)


ATTACKS = {
    "kill": Attack("os.kill(os.getpid(), 0)", "OK", "EPERM"),
    "kill of init": Attack("os.kill(1, 0)", "OK", "EPERM"),
    "kill of everyone": Attack("os.kill(-1, 0)", "ESRCH", "EPERM"),
    "killpg": Attack("os.killpg(os.getpgrp(), 0)", "OK", "EPERM"),
    "tkill": Attack(f'call("tkill", {NOBODY}, 9)', "ESRCH", "EPERM"),
    "tgkill": Attack(f'call("tgkill", {NOBODY}, {NOBODY}, 9)', "ESRCH", "EPERM"),
    "rt_sigqueueinfo": Attack(f'call("rt_sigqueueinfo", {NOBODY}, 9, 0)', "EFAULT", "EPERM"),
    "rt_tgsigqueueinfo": Attack(f'call("rt_tgsigqueueinfo", {NOBODY}, 1, 9, 0)', "EFAULT", "EPERM"),
    "pidfd_open": Attack(f'call("pidfd_open", {NOBODY}, 0)', "ESRCH", "EPERM"),
    "pidfd_send_signal": Attack('call("pidfd_send_signal", -1, 9, 0, 0)', "EBADF", "EPERM"),
    "a signal by fcntl's F_SETOWN": Attack('call("fcntl", 0, 8, os.getpid())', "OK", "EPERM"),
    "F_SETOWN_EX": Attack('call("fcntl", 0, 15, 0)', "EFAULT", "EPERM"),
    "F_SETSIG": Attack('call("fcntl", 0, 10, 9)', "OK", "EPERM"),
    "process_madvise": Attack('call("process_madvise", -1, 0, 0, 0, 0)', "EBADF", "EPERM"),
    "process_mrelease": Attack('call("process_mrelease", -1, 0)', "EBADF", "EPERM"),
    "kcmp": Attack(f'call("kcmp", {NOBODY}, {NOBODY}, 0, 0, 0)', "ESRCH", "EPERM"),
    "move_pages": Attack(f'call("move_pages", {NOBODY}, 0, 0, 0, 0, 0)', "ESRCH", "EPERM"),
    "setpriority": Attack(f"os.setpriority(os.PRIO_PROCESS, {NOBODY}, 0)", "ESRCH", "EPERM"),
    "sched_setaffinity": Attack(f"os.sched_setaffinity({NOBODY}, [0])", "ESRCH", "EPERM"),
    "sched_setscheduler": Attack(f"os.sched_setscheduler({NOBODY}, 0, os.sched_param(0))", "ESRCH", "EPERM"),
    "ioprio_set": Attack(f'call("ioprio_set", 1, {NOBODY}, 0)', "ESRCH", "EPERM"),
    "limits of another": Attack(f'call("prlimit64", {NOBODY}, 7, 0, 0)', "ESRCH", "EPERM"),
    "setpgid": Attack(f"os.setpgid({NOBODY}, 0)", "ESRCH", "EPERM"),
    "setsid": Attack("os.setsid()", "OK", "EPERM"),
    "get_robust_list": Attack(f'call("get_robust_list", {NOBODY}, 0, 0)', "ESRCH", "EPERM"),
}


def test_other_processes_are_out_of_reach(mounted: Place, jail: Place, where: str) -> None:
    """EPERM from the filter, whichever process is meant, where the kernel did it or knew no such process."""
    judge(ATTACKS, mounted, jail, where)


@pytest.fixture(params=["docker", "restricted"])
def shared_container(request: pytest.FixtureRequest, loaded_image: str) -> Iterator[str]:
    """A container in which one run sleeps as process 1; further runs are started beside it."""
    name = f"escape-{uuid.uuid4().hex}"
    options = RESTRICTED if request.param == "restricted" else ()
    sleep = 'print("ready", flush=True); import time; time.sleep(60)'
    command = ["docker", "run", "--rm", "--network=none", "--name", name, *options, loaded_image, "-c", sleep]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as neighbour:
        try:
            assert neighbour.stdout is not None
            assert neighbour.stdout.readline() == b"ready\n"
            yield name
        finally:
            result_of(["docker", "kill", name], None, 30)


NEIGHBOUR = {
    # The two signals that the filter leaves open, for pthread_kill's question and for abort().
    "is it alive": 'call("tgkill", 1, 1, 0)',
    "abort": 'call("tgkill", 1, 1, 6)',
    "pthread_cancel": 'call("tgkill", 1, 1, 32)',
}


def test_a_run_cannot_signal_the_run_beside_it(shared_container: str, mounted: Place) -> None:
    """Two runs in one container: signals that pass the filter are EPERM by user (chroot) or by Landlock.

    The control asks after a process 1 of its own user.
    """
    assert outcomes(mounted, {"is it alive": NEIGHBOUR["is it alive"]}) == {"is it alive": "OK"}
    second = ["docker", "exec", shared_container, *entrypoint_of(shared_container), "-c", program(NEIGHBOUR)]
    assert read(result_of(second, None, 60)) == dict.fromkeys(NEIGHBOUR, "EPERM")


def entrypoint_of(container: str) -> list[str]:
    found = result_of(
        ["docker", "inspect", "--format", '{{join .Config.Entrypoint "\\n"}}', container], None, 30
    )
    return found.stdout.split()
