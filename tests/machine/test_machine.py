"""A machine itself: what it says where something fails, and that nothing of it is left."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from builder.arch import ARCHES
from tests.conftest import REPOSITORY
from tests.machine.conftest import Machines
from tests.machine.machine import MachineFailed, running

PATIENCE_S = 60

STARTING = """
import sys
from pathlib import Path
from builder.arch import ARCHES
from tests.machine.machine import running
with running(ARCHES["arm64"], Path(sys.argv[1])) as machine:
    machine.wait_until_up()
    print("up", flush=True)
    machine.python("outside", "import time; time.sleep(600)", timeout_s=600)
"""

# A tracepoint in a function that every other process is running is switched on and off.
PATCHING = """
import ctypes, os, socket, time
assert ctypes.CDLL(None).mount(b"tracefs", b"/tmp", b"tracefs", 0, None) == 0
ends = time.monotonic() + 5
for _ in range(2):
    if os.fork() == 0:
        while time.monotonic() < ends:
            for end in socket.socketpair():
                end.close()
        os._exit(0)
switched = 0
while time.monotonic() < ends or switched % 2:
    switched += 1
    with open("/tmp/events/kmem/kfree/enable", "w") as switch:
        switch.write(str(switched % 2))
os.wait(), os.wait()
assert switched > 10
"""


def emulators(parent: int) -> list[int]:
    """The processes that `parent` has started and that run a machine."""
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [
        pid for pid in map(int, text.split()) if b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "SIGKILL"])
def test_the_machine_ends_with_who_started_it(
    signal_number: int, archives: dict[str, Path], tmp_path: Path
) -> None:
    """However that ends, in the midst of a command; and no file of it is left."""
    command = [sys.executable, "-c", STARTING, str(archives["arm64"])]
    environment = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        (emulator,) = emulators(starter.pid)
        watched = os.pidfd_open(emulator)
        starter.send_signal(signal_number)
        starter.wait(PATIENCE_S)
    assert select.select([watched], [], [], PATIENCE_S)[0] == [watched]
    os.close(watched)
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_takes_too_long_is_ended(machines: Machines) -> None:
    """With what it had printed; and the machine goes on."""
    with pytest.raises(MachineFailed, match=r"longer than 3 s: begun"):
        machines.arm64.python(
            "outside", "import time; print('begun', flush=True); time.sleep(600)", timeout_s=3
        )
    assert machines.arm64.python("outside", "print(1)").stdout == "1\n"


def test_a_kernel_that_ends_is_told_with_its_last_words(archives: dict[str, Path]) -> None:
    """Not waited for: the console says why."""
    with running(ARCHES["amd64"], archives["amd64"]) as machine:
        machine.wait_until_up()
        with pytest.raises(MachineFailed, match=r"the machine is gone\n(.*\n)*.*sysrq"):
            machine.python("outside", "open('/proc/sysrq-trigger', 'w').write('c')")
        with pytest.raises(MachineFailed, match=r"the machine is gone\n(.*\n)*.*sysrq"):
            machine.python("outside", "print(1)")


def test_a_kernel_may_change_its_own_instructions(machines: Machines) -> None:
    """It does so where a first control group is made, for one. An emulator can run into the change half made
    (see BOARDS), and the machine is gone, by chance: here within a second.
    """
    for ended in machines.each(lambda machine: machine.python("outside", PATCHING)):
        assert (ended.exit_code, ended.stderr) == (0, "")
