"""Reading what is not in the jail: by path, by symlink, by /proc, by a descriptor from outside."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Place, interpreter
from tests.escape.attacks import Attack, judge, outcomes, program, read
from tests.escape.conftest import Entrypoint

# In the image, but not in the tree: the nearest thing that the jail must not show.
TARGET = "sandbox/runtime.json"


def missing(lines: str) -> Attack:
    """Chroot: there is no such file. Landlock: it cannot be opened."""
    return Attack(lines, "OK", "ENOENT", restricted="EACCES")


PATHS = {
    "an absolute path": missing(f'open("/{TARGET}")'),
    "..": missing(f'open("../" * 40 + "{TARGET}")'),
    ".. from below": missing(f'os.chdir("/usr/lib"); open("../" * 9 + "{TARGET}")'),
    ".. from a descriptor": missing(f'os.open("../" * 9 + "{TARGET}", 0, dir_fd=os.open("/usr", 0))'),
    "a folder": missing('os.listdir("/sandbox")'),
    "all of /": Attack('found = "sandbox" in os.listdir("/")', "True", "False", restricted="EACCES"),
    "the tree's outer name": Attack(
        'found = "sandbox" in os.listdir("/var/sandbox/sandbox-python/../../..")',
        *("True", "ENOENT"),
        restricted="EACCES",
    ),
}


def test_paths_lead_to_files_of_the_tree_alone(outside: Place, jail: Place, where: str) -> None:
    """A file of the image beside the tree: ENOENT under chroot, EACCES under Landlock, whatever the path."""
    judge(PATHS, outside, jail, where)


PROC = {
    name: missing(f"open({path!r}).read(1)")
    for name, path in {
        "environment": "/proc/self/environ",
        "address space": "/proc/self/maps",
        "command line": "/proc/1/cmdline",
        "another root": f"/proc/1/root/{TARGET}",
        "own root": f"/proc/self/root/{TARGET}",
        "mounts": "/proc/mounts",
        "the kernel's settings": "/proc/sys/kernel/osrelease",
        "the kernel's symbols": "/proc/kallsyms",
    }.items()
} | {
    "own memory": missing('os.open("/proc/self/mem", os.O_RDONLY)'),
    "own memory, to write": missing('os.open("/proc/self/mem", os.O_RDWR)'),
    "a descriptor again": missing('os.open("/proc/self/fd/0", os.O_RDWR)'),
    "processes": Attack('found = "1" in os.listdir("/proc")', "True", "False", restricted="EACCES"),
}


def test_proc_says_nothing(mounted: Place, jail: Place, where: str) -> None:
    """The tree's /proc is empty under chroot; the container's own is closed under Landlock."""
    judge(PROC, mounted, jail, where)


SYMLINKS = {
    "symlink": missing(f'os.symlink("/{TARGET}", f"{{tmp}}/1"); open(f"{{tmp}}/1")'),
    "symlink to a folder": missing('os.symlink("/sandbox", f"{tmp}/2"); open(f"{tmp}/2/runtime.json")'),
    "symlink that climbs": missing(f'os.symlink("../" * 40 + "{TARGET}", f"{{tmp}}/3"); open(f"{{tmp}}/3")'),
    "symlink to /proc": missing('os.symlink("/proc/self/environ", f"{tmp}/4"); open(f"{tmp}/4")'),
    "folder moved while it is the working one": missing(
        'os.makedirs(f"{tmp}/a/b"); os.chdir(f"{tmp}/a/b"); os.rename(f"{tmp}/a/b", f"{tmp}/b")\n'
        f'open("../" * 9 + "{TARGET}")'
    ),
}
SYMLINKS = {
    name: replace(attack, lines='tmp = os.environ.get("TMPDIR", "/tmp")\n' + attack.lines)
    for name, attack in SYMLINKS.items()
}


def test_symlinks_lead_where_paths_lead(mounted: Place, jail_with_scratch: Place, where: str) -> None:
    """What the code makes in its scratch folder is resolved within the jail."""
    judge(SYMLINKS, mounted, jail_with_scratch, where)


INHERITED = """
found = []
for descriptor in range(3, 1024):
    try:
        os.fstat(descriptor)
    except OSError:
        continue
    try:
        found.append(os.read(os.open("secret", os.O_RDONLY, dir_fd=descriptor), 99).decode())
    except OSError:
        flags = __import__("fcntl").fcntl(descriptor, 3)  # F_GETFL
        pipe = os.fstat(descriptor).st_mode & 0o170000 == 0o010000 and flags & os.O_ACCMODE == os.O_WRONLY
        found.append("a pipe to write to" if pipe else "open")
"""
STACKS = "['a pipe to write to']"
"""Where threads tell the supervisor where they are: it reads with care, and gives nothing."""


def test_no_descriptor_is_inherited(entrypoint: Entrypoint, tmp_path: Path) -> None:
    """A folder of the host that the caller left open leads out of a plain chroot, and is closed here."""
    (tmp_path / "secret").write_text("of the host")
    code = program({"inherited": INHERITED})
    folder = os.open(tmp_path, os.O_RDONLY)
    high = os.dup2(folder, 900)
    try:
        control = ["chroot", str(entrypoint.root), *interpreter(entrypoint.root), "-I", "-S", "-c", code]
        left_open = subprocess.run(
            control, pass_fds=(folder, high), capture_output=True, text=True, check=True
        )
        jailed = replace(entrypoint, pass_fds=(folder, high)).run(code)
    finally:
        os.close(folder)
        os.close(high)
    assert left_open.stdout == "{\"inherited\": \"['of the host', 'of the host']\"}\n"
    assert read(jailed) == {"inherited": STACKS}


def test_no_place_leaves_a_descriptor_open(jail: Place) -> None:
    """Neither the command line's pipes, nor the descriptor that the code came on, nor an engine's own."""
    assert outcomes(jail, {"inherited": INHERITED}) == {"inherited": STACKS}


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_folder_is_no_standard_stream(stream: str, entrypoint: Entrypoint) -> None:
    """A folder as descriptor 0, 1 or 2 would be a way out by fchdir: the interpreter itself ends first."""
    folder = os.open("/", os.O_RDONLY)
    try:
        ended = entrypoint.start(
            "-c", "import os; [os.write(n, b'EXECUTED') for n in (1, 2)]", **{stream: folder}
        )
    finally:
        os.close(folder)
    assert ended.exit_code == 1
    assert "EXECUTED" not in ended.stdout + ended.stderr
