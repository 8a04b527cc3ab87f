"""Each step of the lock-down, made to fail for real: the run ends with the step's code and executes nothing.

What fails is the kernel (a filter that the test puts around the runtime answers the step's own call with
EPERM), the caller (a closed descriptor, a capability that is not there) or the image (a file that is cut
short, a folder that is missing).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyseccomp
import pytest

from runtime import failure
from tests import bpf
from tests.conftest import RESTRICTED, Container, Result, result_of
from tests.escape.conftest import LIBC, MS_RDONLY, Entrypoint

MARK = "EXECUTED"
CODE = f"print({MARK!r})"

PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 23, 24, 38, 47
CAPABILITIES = {"SETGID": 6, "SETUID": 7, "SETPCAP": 8, "SYS_CHROOT": 18}


def expect_refusal(ended: Result, code: int) -> None:
    """The run ended with `code`, said why in one line (and a hint), and did not execute the code."""
    assert (ended.exit_code, ended.stdout) == (code, "")
    error, *hints = ended.stderr.splitlines()
    assert error.startswith("sandbox: error: ")
    assert [hint for hint in hints if hint.startswith("sandbox: hint: ")] == hints[:1]


def expect_execution(ended: Result) -> None:
    """Nothing stood in the way of the code."""
    assert ended == Result(0, f"{MARK}\n", "")


@dataclass(frozen=True)
class Denied:
    """A call that the kernel answers with EPERM, whatever the process's privileges."""

    code: int
    call: str
    arguments: Sequence[pyseccomp.Arg] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    uid: int = 0
    also: Sequence[str] = ()


def equal(position: int, value: int) -> pyseccomp.Arg:
    return pyseccomp.Arg(position, pyseccomp.EQ, value)


LANDLOCK = {"level": "landlock"}
SETS_A_LIMIT = pyseccomp.Arg(2, pyseccomp.NE, 0)

DENIED = {
    # Without /proc, which a root has none of before an engine mounts it, there is no other way to close them.
    "close_range": Denied(failure.DESCRIPTORS, "close_range"),
    "limits": Denied(failure.LIMITS, "prlimit64", [SETS_A_LIMIT]),
    "limit of memory": Denied(failure.LIMITS, "prlimit64", [SETS_A_LIMIT, equal(1, 9)]),
    "limit of core files": Denied(failure.LIMITS, "prlimit64", [SETS_A_LIMIT, equal(1, 4)]),
    "capabilities, asked": Denied(failure.PRIVILEGES, "capget"),
    "user namespace": Denied(failure.PRIVILEGES, "unshare", settings={"level": "chroot"}, uid=1000),
    "Landlock, asked": Denied(failure.PRIVILEGES, "landlock_create_ruleset", settings=LANDLOCK),
    "Landlock, asked, and no root": Denied(
        failure.PRIVILEGES, "landlock_create_ruleset", uid=1000, also=["unshare"]
    ),
    "chroot": Denied(failure.CHROOT, "chroot"),
    "chdir": Denied(failure.CHROOT, "chdir"),
    "chdir, Landlock": Denied(failure.CHROOT, "chdir", settings=LANDLOCK),
    "bounding set": Denied(failure.IDENTITY, "prctl", [equal(0, PR_CAPBSET_DROP)]),
    "bounding set, one": Denied(failure.IDENTITY, "prctl", [equal(0, PR_CAPBSET_DROP), equal(1, 21)]),
    "bounding set, asked": Denied(failure.IDENTITY, "prctl", [equal(0, PR_CAPBSET_READ)]),
    "groups": Denied(failure.IDENTITY, "setgroups"),
    "gid": Denied(failure.IDENTITY, "setresgid"),
    "uid": Denied(failure.IDENTITY, "setresuid"),
    "ambient capabilities": Denied(failure.CAPABILITIES, "prctl", [equal(0, PR_CAP_AMBIENT)]),
    "capabilities": Denied(failure.CAPABILITIES, "capset"),
    "capabilities, no root": Denied(failure.CAPABILITIES, "capset", uid=1000, also=["unshare"]),
    "no_new_privs": Denied(failure.NO_NEW_PRIVS, "prctl", [equal(0, PR_SET_NO_NEW_PRIVS)]),
    "dumpable": Denied(failure.NO_NEW_PRIVS, "prctl", [equal(0, PR_SET_DUMPABLE)]),
    "ruleset": Denied(failure.LANDLOCK, "landlock_create_ruleset", [equal(2, 0)], LANDLOCK),
    "rule": Denied(failure.LANDLOCK, "landlock_add_rule", settings=LANDLOCK),
    "Landlock": Denied(failure.LANDLOCK, "landlock_restrict_self", settings=LANDLOCK),
    "Landlock, no root": Denied(failure.LANDLOCK, "landlock_restrict_self", uid=1000, also=["unshare"]),
    "seccomp": Denied(failure.SECCOMP, "seccomp"),
    "seccomp, Landlock": Denied(failure.SECCOMP, "seccomp", settings=LANDLOCK),
}


def deny(entrypoint: Entrypoint, denied: Denied, action: int) -> Entrypoint:
    """The runtime as `denied` has it, under a filter that takes `action` in place of the call."""
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    if action != pyseccomp.ALLOW:
        rules.add_rule(action, denied.call, *denied.arguments)
    for call in denied.also:
        rules.add_rule(pyseccomp.ERRNO(errno.EPERM), call)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        program = file.read()

    def before_exec() -> None:
        if denied.uid:
            os.setgroups([])
            os.setresgid(denied.uid, denied.uid, denied.uid)
            os.setresuid(denied.uid, denied.uid, denied.uid)
        bpf.load(program)

    entrypoint.set(**denied.settings)
    return replace(entrypoint, before_exec=before_exec)


@pytest.mark.parametrize("name", DENIED)
def test_a_call_that_the_kernel_denies_ends_the_run(name: str, entrypoint: Entrypoint) -> None:
    """EPERM for one call of one step."""
    denied = DENIED[name]
    expect_refusal(deny(entrypoint, denied, pyseccomp.ERRNO(errno.EPERM)).run(CODE), denied.code)


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("level", ["any", "landlock"])
def test_without_the_denial_the_code_is_executed(level: str, uid: int, entrypoint: Entrypoint) -> None:
    """The control: the same roots, users and levels, under a filter that denies nothing that they need."""
    control = Denied(0, "", settings={"level": level}, uid=uid, also=["unshare"] if uid else [])
    expect_execution(deny(entrypoint, control, pyseccomp.ALLOW).run(CODE))


@pytest.mark.parametrize("name", CAPABILITIES)
def test_root_without_a_capability_is_refused(name: str, entrypoint: Entrypoint) -> None:
    """Root in name alone, as under --cap-drop: the line names what is missing."""
    dropped = replace(
        entrypoint, before_exec=lambda: LIBC.prctl(PR_CAPBSET_DROP, CAPABILITIES[name], 0, 0, 0)
    )
    ended = dropped.run(CODE)
    expect_refusal(ended, failure.PRIVILEGES)
    assert name in ended.stderr


def test_a_container_without_capabilities_is_refused(loaded_image: str) -> None:
    """The same, as an engine does it."""
    expect_refusal(Container(loaded_image, ("--cap-drop=SETUID",)).run(CODE), failure.PRIVILEGES)


def test_a_required_chroot_is_not_exchanged_for_landlock(entrypoint: Entrypoint, loaded_image: str) -> None:
    """level: chroot in a "restricted" container, which has neither root nor user namespaces."""
    entrypoint.set(level="chroot")
    settings = f"--volume={entrypoint.root}/sandbox/runtime.json:/sandbox/runtime.json:ro"
    expect_refusal(Container(loaded_image, (*RESTRICTED, settings)).run(CODE), failure.PRIVILEGES)
    expect_execution(Container(loaded_image, RESTRICTED).run(CODE))


def test_a_user_namespace_that_cannot_be_mapped_ends_the_run(entrypoint: Entrypoint) -> None:
    """An ordinary user may make one, and /proc, where it is mapped, is missing: there is no falling back."""
    user = replace(entrypoint, before_exec=lambda: os.setresuid(1000, 1000, 1000))
    expect_refusal(user.run(CODE), failure.USER_NAMESPACE)


def test_capabilities_that_cannot_be_read_keep_the_namespaces_from_being_left(entrypoint: Entrypoint) -> None:
    """The runtime asks for its capabilities twice: the first answer, an earlier step's, is the kernel's."""
    strace = ["strace", "--follow-forks", "-qq", "--output=/dev/null", "--trace=capget"]
    command = ["chroot", str(entrypoint.root), *entrypoint.command("-c", CODE)]
    expect_execution(result_of([*strace, *command], None, 60))
    second = "--inject=capget:error=EPERM:when=2"
    expect_refusal(result_of([*strace, second, *command], None, 60), failure.NAMESPACES)


def test_a_namespace_that_cannot_be_left_ends_the_run(entrypoint: Entrypoint) -> None:
    """With the capability to leave it there is no going on in the container's."""
    read, write = os.pipe()
    try:
        for action, says in (
            (pyseccomp.ALLOW, b'"namespaces": ["net", "ipc", "uts"]'),
            (pyseccomp.ERRNO(errno.EPERM), b'{"refused": 222}'),
        ):
            started = replace(deny(entrypoint, Denied(0, "unshare"), action), pass_fds=(write,))
            ended = started.start("--status-fd", str(write), "-c", CODE)
            if action == pyseccomp.ALLOW:
                expect_execution(ended)
            else:
                expect_refusal(ended, failure.NAMESPACES)
            assert says in os.read(read, 4096)
    finally:
        os.close(read)
        os.close(write)


IMAGES: dict[str, tuple[int, str, Callable[[bytes], bytes | None]]] = {
    "policy, missing": (failure.IMAGE, "policy.bpf", lambda _: None),
    "policy, empty": (failure.IMAGE, "policy.bpf", lambda _: b""),
    "policy, a byte short": (failure.IMAGE, "policy.bpf", lambda whole: whole[:-1]),
    "policy, an instruction short": (failure.IMAGE, "policy.bpf", lambda whole: whole[:-8]),
    "policy, an instruction long": (failure.IMAGE, "policy.bpf", lambda whole: whole + whole[-8:]),
    "policy, half": (failure.IMAGE, "policy.bpf", lambda whole: whole[: len(whole) // 16 * 8]),
    "policy, longer than any": (failure.IMAGE, "policy.bpf", lambda whole: whole * 100),
    "policy, one bit": (failure.IMAGE, "policy.bpf", lambda whole: whole[:-1] + bytes([whole[-1] ^ 1])),
    "settings, missing": (failure.IMAGE, "runtime.json", lambda _: None),
    "settings, empty": (failure.IMAGE, "runtime.json", lambda _: b""),
    "settings, garbage": (failure.IMAGE, "runtime.json", lambda _: b"\0\xff garbage"),
    "settings, cut short": (failure.IMAGE, "runtime.json", lambda whole: whole[: len(whole) // 2]),
    "settings, something behind": (failure.IMAGE, "runtime.json", lambda whole: whole + b"garbage"),
    "settings, of another shape": (failure.INTERNAL, "runtime.json", lambda _: b"[]"),
    "settings, a key short": (
        failure.INTERNAL,
        "runtime.json",
        lambda whole: whole.replace(b'"tree"', b'"three"'),
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_is_not_whole_ends_the_run(name: str, entrypoint: Entrypoint) -> None:
    """policy.bpf and runtime.json, damaged in each way that a copy is."""
    code, file, damage = IMAGES[name]
    whole = (entrypoint.root / "sandbox" / file).read_bytes()
    entrypoint.replace(f"sandbox/{file}", damage(whole))
    expect_refusal(entrypoint.run(CODE), code)


@pytest.mark.parametrize("byte", [b"\xff", b"\0"])
def test_a_policy_that_is_no_filter_is_refused(byte: bytes, entrypoint: Entrypoint) -> None:
    """What the kernel does not take ends the run, whatever digest it comes with."""
    size = (entrypoint.root / "sandbox/policy.bpf").stat().st_size
    entrypoint.replace("sandbox/policy.bpf", byte * size)
    entrypoint.set(policy_sha256=hashlib.sha256(byte * size).hexdigest())
    expect_refusal(entrypoint.run(CODE), failure.SECCOMP)


def test_a_policy_longer_than_the_kernel_takes_is_refused(entrypoint: Entrypoint) -> None:
    """4097 instructions for one level, and settings that expect so many."""
    policy = (entrypoint.root / "sandbox/policy.bpf").read_bytes()
    entrypoint.replace("sandbox/policy.bpf", policy[-8:] * 4100)
    names = list(entrypoint.settings["policy_instructions"])
    for name in names:
        lengths = dict.fromkeys(names, 1) | {name: 4097}
        digest = hashlib.sha256(policy[-8:] * 4100).hexdigest()
        entrypoint.set(policy_instructions=lengths, policy_sha256=digest)
        expect_refusal(entrypoint.run(CODE), failure.IMAGE)


SETTINGS: dict[str, tuple[int, dict[str, Any]]] = {
    "uid 0": (failure.IDENTITY, {"uid_range": [0, 1]}),
    "no tree": (failure.SCRATCH, {"tree": "/nonexistent"}),
    "a limit that is no number": (failure.INTERNAL, {"limits": {}}),
    "an unknown namespace": (failure.INTERNAL, {"namespaces": ["mind"]}),
    "an environment of numbers": (failure.INTERNAL, {"env": {"ONE": 1}}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_cannot_be_had_end_the_run(name: str, entrypoint: Entrypoint) -> None:
    """What runtime.json asks for is done, or nothing is."""
    code, settings = SETTINGS[name]
    entrypoint.set(**settings)
    expect_refusal(entrypoint.run(CODE), code)


def test_a_tree_that_the_run_could_write_is_refused(entrypoint: Entrypoint) -> None:
    """Mode 777, or the run's own: what it wrote, the next run would import."""
    entrypoint.tree.chmod(0o777)
    expect_refusal(entrypoint.run(CODE), failure.IDENTITY)
    entrypoint.tree.chmod(0o755)
    os.chown(entrypoint.tree, 12345, 12345)
    expect_refusal(entrypoint.start("--uid", "12345", "-c", CODE), failure.IDENTITY)
    expect_execution(entrypoint.start("--uid", "12346", "-c", CODE))


def scratch(entrypoint: Entrypoint, flags: int = 0) -> Entrypoint:
    """The jail's /tmp is a file system of its own."""
    target = os.fsencode(entrypoint.tree / "tmp")

    def mount() -> None:
        if LIBC.mount(b"tmpfs", target, b"tmpfs", flags, None):
            raise OSError(ctypes.get_errno(), "mount")
        if not flags:
            (entrypoint.tree / "tmp/run-4242").mkdir()

    return replace(entrypoint, before_pivot=mount)


def test_a_scratch_folder_that_cannot_be_made_ends_the_run(entrypoint: Entrypoint) -> None:
    """/tmp is read-only, or missing, or has another run's folder of that name: that is not shared."""
    expect_execution(scratch(entrypoint).start("--uid", "4343", "-c", CODE))
    expect_refusal(scratch(entrypoint).start("--uid", "4242", "-c", CODE), failure.SCRATCH)
    expect_refusal(scratch(entrypoint, MS_RDONLY).run(CODE), failure.SCRATCH)
    shutil.rmtree(entrypoint.tree / "tmp")
    expect_refusal(entrypoint.run(CODE), failure.SCRATCH)


@pytest.mark.parametrize("call", ["mkdir", "chown"])
def test_a_scratch_folder_that_the_kernel_denies_ends_the_run(call: str, entrypoint: Entrypoint) -> None:
    """Made, but not to be given to the run's user; or not made."""
    denied = deny(entrypoint, Denied(failure.SCRATCH, call), pyseccomp.ERRNO(errno.EPERM))
    expect_refusal(scratch(denied).run(CODE), failure.SCRATCH)


@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_closed_standard_stream_ends_the_run(descriptor: int, entrypoint: Entrypoint) -> None:
    """It would become the first thing that the code opens."""
    ended = replace(entrypoint, before_exec=lambda: os.close(descriptor)).run(CODE)
    if descriptor == 2:  # nowhere to say it
        assert ended == Result(failure.DESCRIPTORS, "", "")
    else:
        expect_refusal(ended, failure.DESCRIPTORS)


def test_code_that_cannot_be_read_ends_the_run(entrypoint: Entrypoint, tmp_path: Path) -> None:
    """Stdin is closed, or holds more than there is room for; the descriptor is write-only, or a folder."""
    closed = replace(entrypoint, before_exec=lambda: os.close(0))
    expect_refusal(closed.start("-"), failure.CODE)
    padding = b" " * (16 * 1024 * 1024)
    expect_execution(entrypoint.start(input=CODE.encode()))
    expect_refusal(entrypoint.start(input=f"{CODE}#".encode() + padding), failure.CODE)
    (tmp_path / "code").write_text(CODE)
    for path, flags in ((tmp_path / "code", os.O_WRONLY), (tmp_path, os.O_RDONLY)):
        descriptor = os.open(path, flags)
        try:
            passed = replace(entrypoint, pass_fds=(descriptor,))
            expect_refusal(passed.start("--code-fd", str(descriptor)), failure.CODE)
        finally:
            os.close(descriptor)


ARGUMENTS = (
    ["--code-fd"],
    ["--code-fd", "0"],
    ["--code-fd", "2"],
    ["--code-fd", "900"],
    ["--code-fd", "-1"],
    ["--status-fd", "900", "-c", CODE],
    ["--uid", "0", "-c", CODE],
    ["--uid", "-5", "-c", CODE],
    ["--uid", "root", "-c", CODE],
    ["--uid", str(2**31), "-c", CODE],
    ["-c"],
    ["--root", "/"],
    ["main.py"],
)


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
def test_arguments_that_are_not_known_end_the_run(arguments: list[str], entrypoint: Entrypoint) -> None:
    """No argument is guessed at, uid 0 not granted, a descriptor that is not open not waited for."""
    expect_refusal(entrypoint.start(*arguments), failure.USAGE)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_refusal_is_told_on_the_status_descriptor(name: str, entrypoint: Entrypoint) -> None:
    """The exit code once more, for a supervisor that has only the descriptor."""
    code, settings = SETTINGS[name]
    entrypoint.set(**settings)
    read, write = os.pipe()
    try:
        passed = replace(entrypoint, pass_fds=(write,))
        expect_refusal(passed.start("--status-fd", str(write), "-c", CODE), code)
        assert os.read(read, 4096) == b'{"refused": %d}\n' % code
    finally:
        os.close(read)
        os.close(write)


def test_a_refusal_that_nobody_hears_is_a_refusal(entrypoint: Entrypoint) -> None:
    """Stderr is a pipe that nobody reads any more, or a full disk: the exit code is the same."""
    entrypoint.set(uid_range=[0, 1])
    read, write = os.pipe()
    os.close(read)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        for stderr in (write, full):
            assert entrypoint.start("-c", CODE, stderr=stderr).exit_code == failure.IDENTITY
    finally:
        os.close(write)
        os.close(full)


def test_every_documented_code_is_among_these() -> None:
    """No code of runtime/failure.py is without a test that has forced it."""
    forced = {denied.code for denied in DENIED.values()}
    forced |= {code for code, _, _ in IMAGES.values()} | {code for code, _ in SETTINGS.values()}
    forced |= {failure.USER_NAMESPACE, failure.NAMESPACES, failure.CODE, failure.USAGE}  # single tests above
    assert forced == set(failure.RESERVED)
