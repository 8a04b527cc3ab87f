"""The compiled policy on arm64's own kernel: each call of the table, each vector, each denied call's name."""

from __future__ import annotations

import base64
import json
import signal
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from builder.arch import ARCHES, Arch
from builder.archive import unpack_archive
from builder.policies import Programs, of_image
from builder.seccomp import check, default_groups, kernel
from builder.seccomp.bpf import errno_action
from builder.seccomp.compile import compile_policy
from builder.seccomp.policy import Request, effective_policy
from builder.seccomp.snapshot import DENY, Snapshot
from builder.seccomp.syscalls import number, table
from builder.seccomp.vectors import our_vectors
from tests.machine.conftest import Machines
from tests.machine.machine import GUEST, Machine

FILTER = (GUEST / "filter.py").read_text()
ALL_BITS = (1 << 64) - 1


@pytest.fixture(scope="session")
def programs(archives: dict[str, Path]) -> dict[str, Programs]:
    """What the images have, by architecture."""
    found = {}
    for name, path in archives.items():
        with tempfile.TemporaryDirectory() as folder:
            unpack_archive(path, Path(folder) / "root")
            found[name] = of_image(path, Path(folder) / "root")
    return found


def answers(machine: Machine, program: bytes, calls: Sequence[kernel.Call]) -> list[int]:
    """builder.seccomp.kernel.answers, of the machine's kernel."""
    marked, meanings = kernel.mark(program)
    packed = b"".join(
        struct.pack("<7Q", one & ALL_BITS, *(word & ALL_BITS for word in (*arguments, *[0] * 6)[:6]))
        for one, arguments in calls
    )
    head = struct.pack("<2Q", number("seccomp", machine.arch) or 0, len(marked))
    ended = machine.python("outside", FILTER, stdin=head + marked + packed)
    assert (ended.exit_code, ended.stderr) == (0, "")
    errnos = json.loads(ended.stdout)
    assert len(errnos) == len(calls), "the process that tries calls ended"
    return [meanings.get(errno, errno_action(errno)) for errno in errnos]


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_the_kernel_answers_as_the_policy_says(
    arch: Arch, machines: Machines, programs: dict[str, Programs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sandbox-build policy test`, with the kernel of either machine in the place of this one's."""
    machine: Machine = getattr(machines, arch.name)
    monkeypatch.setattr(check, "host_arch", lambda: arch)
    monkeypatch.setattr(kernel, "answers", lambda program, calls: answers(machine, program, calls))
    monkeypatch.setattr(kernel, "foreign_answers", lambda *_: None)
    made = programs[arch.name]
    report = check.check(made.programs, made.policy, our_vectors(), channel=made.channel, on_kernel=True)
    assert report.disagreements == []
    assert report.programs == 4
    assert report.kernel > 30_000


def test_a_wrong_filter_is_found(machines: Machines, programs: dict[str, Programs]) -> None:
    """The control: one answer of the plain filter is turned around, and arm64's kernel says so."""
    program = programs["arm64"].programs["chroot"]
    getpid = number("getpid", ARCHES["arm64"]) or 0
    allowed, denied = struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000), struct.pack("<HBBI", 6, 0, 0, 0x00050001)
    assert answers(machines.arm64, program, [(getpid, ())]) == [0x7FFF0000]
    wrong = program.replace(allowed, denied)
    assert answers(machines.arm64, wrong, [(getpid, ())]) == [0x00050001]


DENIALS = """
import ctypes, json, sys
libc = ctypes.CDLL(None, use_errno=True)
answers = []
for number in json.loads(sys.argv[1]):
    libc.syscall(ctypes.c_long(number), *[ctypes.c_long(-1)] * 6)
    answers.append(ctypes.get_errno())
print(set(answers))
"""


def denied(policy: Snapshot) -> dict[str, int]:
    """Calls that are denied when each argument is -1: their names and numbers."""
    return {
        name: at
        for at, name in table(policy.arch).items()
        if policy.answer(at, [ALL_BITS] * 6) == DENY and (policy.arch.name, at) not in kernel.UNFILTERED
    }


def named(machine: Machine, calls: dict[str, int], place: str) -> dict[str, int]:
    """The names and numbers that the supervisor tells of a run that makes all the calls."""
    ended = machine.execute(place, "-c", DENIALS, json.dumps([*calls.values()]), status=True, timeout_s=120)
    assert (ended.exit_code, ended.stdout) == (0, "{1}\n"), ended.stderr
    lines = [json.loads(line) for line in ended.status.splitlines()]
    return {line["denied"]["call"]: line["denied"]["number"] for line in lines if "denied" in line}


@pytest.mark.parametrize("place", ["chroot", "landlock"])
def test_every_denied_call_is_named(place: str, machines: Machines, programs: dict[str, Programs]) -> None:
    """Each call that the policy denies is EPERM, and the supervisor knows it by arm64's number."""

    def calls(machine: Machine) -> dict[str, int]:
        policy = programs[machine.arch.name].policy
        return denied(policy if place == "chroot" else policy.at_landlock())

    for found, due in machines.each(lambda machine: (named(machine, calls(machine), place), calls(machine))):
        assert found == due


def test_the_architectures_deny_the_same_names(programs: dict[str, Programs]) -> None:
    """What one denies and the other does not is a call that the other one does not have."""
    one, other = (programs[name].policy for name in ("amd64", "arm64"))
    common = set(table(one.arch).values()) & set(table(other.arch).values())
    assert {*denied(one)} & common == {*denied(other)} & common
    assert {"open", "fork", "vfork"} & common == set()


def arm_program(code: str) -> bytes:
    """A static program of 32-bit Arm, of one page: an ELF header, a program header, instructions (in hex)."""
    start = 0x10000
    body = b"".join(int(word, 16).to_bytes(4, "little") for word in code.split())
    identity = b"\x7fELF\x01\x01\x01" + bytes(9)
    size = 52 + 32 + len(body)
    header = struct.pack("<HHIIIIIHHHHHH", 2, 40, 1, start + 84, 52, 0, 0x05000000, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 0, start, start, size, size, 5, 0x1000)
    return identity + header + segment + body


EXECUTE = """
import base64, ctypes, json, os, struct, sys
program, seccomp, filters = json.loads(sys.stdin.read())
with open("/tmp/program", "wb") as file:
    file.write(base64.b64decode(program))
os.chmod("/tmp/program", 0o755)
libc = ctypes.CDLL(None, use_errno=True)
for one in filters:
    child = os.fork()
    if child == 0:
        if one:
            code = ctypes.create_string_buffer(base64.b64decode(one))
            fprog = struct.pack("@HP", (len(code) - 1) // 8, ctypes.addressof(code))
            assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.syscall(seccomp, 1, 0, fprog) == 0
        os.execve("/tmp/program", ["program"], {})
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_32_bit_program_is_killed_at_its_first_call(machines: Machines) -> None:
    """arm64's other ABI: where exec is allowed, a program of 32-bit Arm runs without the filter, and ends
    with SIGSYS under it, for the numbers of its calls are not arm64's.
    """
    arch = machines.arm64.arch
    # mov r7, #1 (exit); mov r0, #42; svc #0
    program = arm_program("e3a07001 e3a0002a ef000000")
    policy = effective_policy(Request((*default_groups(), "exec"), replace=True), arch)
    texts = [base64.b64encode(one).decode() for one in (program, compile_policy(policy, arch))]
    request = [texts[0], number("seccomp", arch), ["", texts[1]]]
    ended = machines.arm64.python("outside", EXECUTE, stdin=json.dumps(request).encode())
    assert (ended.stdout.split(), ended.stderr) == (["42", str(-signal.SIGSYS)], "")
