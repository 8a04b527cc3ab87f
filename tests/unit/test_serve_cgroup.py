"""Control groups of runs: where the container's own is, and what is done with it on a real cgroup2."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime import cgroup
from runtime.cgroup import Groups, find_groups, own_folder

PROC = "22 21 0:20 / /proc rw,nosuid - proc proc rw\n"
V2 = PROC + "30 29 0:26 / /sys/fs/cgroup rw,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate\n"
V2_READ_ONLY = PROC + "30 29 0:26 / /sys/fs/cgroup ro,nosuid,nodev - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    PROC
    + "29 28 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    + "31 29 0:27 /docker/abc /sys/fs/cgroup/memory rw,master:11 - cgroup cgroup rw,memory\n"
)
HYBRID = V1 + "40 29 0:28 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n"
NESTED = PROC + "30 29 0:26 /docker/abc /sys/fs/cgroup rw master:9 - cgroup2 cgroup rw\n"

LIMITS = {"memory_bytes": 64 << 20, "processes": 8}
PATIENCE_S = 10
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18


@pytest.mark.parametrize(
    ("mounts", "own", "folder"),
    [
        (V2, "0::/\n", "/sys/fs/cgroup"),
        (V2, "0::/system.slice/sandbox.service\n", "/sys/fs/cgroup/system.slice/sandbox.service"),
        (HYBRID, "3:memory:/docker/abc\n0::/\n", "/sys/fs/cgroup/unified"),
        (HYBRID, "3:memory:/docker/abc\n0::/a/b\n", "/sys/fs/cgroup/unified/a/b"),
        (NESTED, "0::/docker/abc\n", "/sys/fs/cgroup"),
        (NESTED, "0::/docker/abc/inner\n", "/sys/fs/cgroup/inner"),
    ],
    ids=["v2", "v2 below", "hybrid", "hybrid below", "nested root", "below a nested root"],
)
def test_the_own_group_is_found(mounts: str, own: str, folder: str) -> None:
    assert own_folder(mounts, own) == folder


@pytest.mark.parametrize(
    ("mounts", "own"),
    [
        (V2_READ_ONLY, "0::/\n"),
        (V1, "3:memory:/docker/abc\n1:name=systemd:/docker/abc\n"),
        (V1, "3:memory:/docker/abc\n0::/\n"),
        (V2, ""),
        ("", "0::/\n"),
        (NESTED, "0::/docker/abcd\n"),
        (NESTED, "0::/elsewhere\n"),
    ],
    ids=[
        "read-only",
        "v1",
        "v1, unified not mounted",
        "no cgroup",
        "no mounts",
        "a longer name",
        "elsewhere",
    ],
)
def test_what_cannot_be_had_is_not_found(mounts: str, own: str) -> None:
    assert own_folder(mounts, own) == ""


def test_of_several_mounts_the_one_that_can_be_written_is_taken() -> None:
    both = V2_READ_ONLY + V2.removeprefix(PROC).replace("/sys/fs/cgroup ", "/run/own ")
    assert own_folder(both, "0::/one\n") == "/run/own/one"


# On a real one


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A group of our own on a cgroup2 that can be written: mounted here, in a mount namespace of our own."""
    mounted = tmp_path / "cgroup2"
    mounted.mkdir()
    with _own_mounts():
        subprocess.run(["mount", "-t", "cgroup2", "none", mounted], check=True)
        made = mounted / f"sandbox-tests-{os.getpid()}"
        made.mkdir()
        yield made
        for inner in sorted(made.glob("**/"), reverse=True):
            _kill_all(inner)
            assert _until_empty(inner)
            inner.rmdir()


@contextmanager
def _own_mounts() -> Iterator[None]:
    """Meanwhile nobody outside of this thread sees what it mounts."""
    where = Path.cwd()
    with Path("/proc/thread-self/ns/mnt").open() as before:
        _checked(LIBC.unshare(CLONE_NEWNS))
        try:
            _checked(LIBC.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None))
            yield
        finally:
            _checked(LIBC.setns(before.fileno(), CLONE_NEWNS))
            os.chdir(where)  # setns(2) has left it for the root


def _checked(answer: int) -> None:
    if answer:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _kill_all(group: Path) -> None:
    for pid in (group / "cgroup.procs").read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def _until_empty(group: Path) -> bool:
    ends = time.monotonic() + PATIENCE_S
    while "populated 1" in (group / "cgroup.events").read_text():
        if time.monotonic() > ends:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """One that has a child as soon as it gets a line, and tells of it."""
    program = ["sh", "-c", "read line; sleep 600 & echo $!; wait"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        yield started
        started.kill()


@pytest.fixture
def outside() -> Iterator[subprocess.Popen[bytes]]:
    """One that is in no group of a run."""
    with subprocess.Popen(["sleep", "600"]) as started:
        yield started
        started.kill()


def offered(folder: Path) -> list[str]:
    return (folder / "cgroup.controllers").read_text().split()


def test_a_run_has_a_group_and_all_of_it_ends_at_once(
    folder: Path, process: subprocess.Popen[bytes], outside: subprocess.Popen[bytes]
) -> None:
    """The child, too, which was born in the group; a process outside of it goes on."""
    assert process.stdin is not None
    assert process.stdout is not None
    groups = Groups(str(folder), [])
    groups.enter(7, process.pid, LIMITS)
    process.stdin.write(b"\n")
    process.stdin.flush()
    child = process.stdout.readline().decode().strip()
    group = folder / "run-7"
    assert set((group / "cgroup.procs").read_text().split()) == {str(process.pid), child}

    groups.kill(7)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert process.stdout.read() == b""  # the child had this end as well
    assert outside.poll() is None
    assert not groups.ran_out_of_memory(7)
    assert _until_empty(group)
    groups.remove(7)
    assert not group.exists()


def test_a_group_is_not_removed_under_a_living_process(
    folder: Path, process: subprocess.Popen[bytes]
) -> None:
    """And its number cannot be entered a second time: what is wrong is said, not passed by."""
    groups = Groups(str(folder), [])
    groups.enter(7, process.pid, LIMITS)
    groups.remove(7)
    assert (folder / "run-7/cgroup.procs").read_text().split() == [str(process.pid)]
    with pytest.raises(FileExistsError):
        groups.enter(7, process.pid, LIMITS)


def test_what_was_never_made_is_no_matter_to_remove_or_kill(folder: Path) -> None:
    groups = Groups(str(folder), [])
    groups.kill(8)
    groups.remove(8)
    assert not groups.ran_out_of_memory(8)
    assert not (folder / "run-8").exists()


def test_a_process_that_has_gone_cannot_enter(folder: Path, process: subprocess.Popen[bytes]) -> None:
    groups = Groups(str(folder), [])
    process.kill()
    process.wait(PATIENCE_S)
    with pytest.raises(ProcessLookupError):
        groups.enter(7, process.pid, LIMITS)


def test_the_containers_processes_move_below_and_absent_controllers_are_absent(
    folder: Path, process: subprocess.Popen[bytes]
) -> None:
    """The files are this machine's own, but for where the group of the server is said to be."""
    (folder / "cgroup.procs").write_text(str(process.pid))
    texts = {
        cgroup.MOUNTS: f"30 29 0:26 / {folder.parent} rw - cgroup2 none rw\n",
        cgroup.OWN: f"0::/{folder.name}\n",
    }
    found = find_groups(texts.__getitem__)
    assert found is not None
    assert found.folder == str(folder)
    assert found.controllers == [name for name in cgroup.WANTED if name in offered(folder)]
    assert (folder / "cgroup.procs").read_text() == ""
    assert (folder / cgroup.SERVICE / "cgroup.procs").read_text().split() == [str(process.pid)]
    texts[cgroup.OWN] = f"0::/{folder.name}/{cgroup.SERVICE}\n"  # a server that was started a second time
    again = find_groups(texts.__getitem__)
    assert again is not None
    assert (again.folder, again.controllers) == (found.folder, found.controllers)

    found.enter(7, process.pid, LIMITS)
    limited = {path.name for path in (folder / "run-7").glob("*.max")}
    assert {f"{name}.max" for name in found.controllers} <= limited
    assert not {f"{name}.max" for name in cgroup.WANTED if name not in found.controllers} & limited


def test_groups_that_an_earlier_server_has_left_are_removed(
    folder: Path, process: subprocess.Popen[bytes]
) -> None:
    """Their numbers are free again; but not that of one in which a process lives."""
    earlier = Groups(str(folder), [])
    earlier.enter(7, process.pid, LIMITS)
    (folder / "run-8").mkdir()
    texts = {
        cgroup.MOUNTS: f"30 29 0:26 / {folder.parent} rw - cgroup2 none rw\n",
        cgroup.OWN: f"0::/{folder.name}\n",
    }
    assert find_groups(texts.__getitem__) is not None
    assert [path.name for path in folder.glob("run-*")] == ["run-7"]


def test_a_folder_that_is_no_control_group_gives_none(tmp_path: Path) -> None:
    texts = {
        cgroup.MOUNTS: f"30 29 0:26 / {tmp_path / 'missing'} rw - cgroup2 none rw\n",
        cgroup.OWN: "0::/\n",
    }
    assert find_groups(texts.__getitem__) is None
