"""The command that enters an image's root, as isolated as this machine lets us; enter.py does most of it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from builder.errors import ToolMissing

_PROGRAM = Path(__file__).with_name("enter.py")
_FOLDERS = "/usr/sbin:/usr/bin:/sbin:/bin"

_ABOVE = 1 << 31
"""uid 0 of a run is, out here, the run's uid and so much more: outside of all uid_ranges, and of any use."""

ENTERING = ("setpriv: ", "unshare: ", "enter: ")
"""How stderr begins where this machine cannot enter a root, whatever is in it."""


def host_program(name: str) -> str:
    """The path of a program of this machine, wherever PATH leads; ToolMissing where there is none."""
    path = shutil.which(name, path=_FOLDERS)
    if path is None:
        raise ToolMissing(f"{name} is not installed", "apt-get install util-linux coreutils")
    return path


def may_mount() -> bool:
    """Whether this process has CAP_SYS_ADMIN (bit 21 of capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 21 & 1)
    return False


def confined(
    root: Path,
    uid: int,
    *,
    scratch: str,
    scratch_bytes: int,
    scratch_mode: str,
    network: bool,
    unprivileged: bool = False,
    limits: Mapping[int, int] | None = None,
    env: Iterable[str] = (),
) -> list[str]:
    """The command in front of one that shall have `root` as its only file system.

    It starts as uid 0 of a user namespace that has `uid` besides (where we are no root: as `uid`, with that
    namespace's capabilities); with `unprivileged` as `uid`, with none, and gains none. Its environment is
    what it gets from us, and `env`. `limits` are those of setrlimit(2), by number. It has this machine's
    network where `network` says so.
    """
    namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    if not network:
        namespaces.append("--net")
    facts = [f"root={root.absolute()}", f"scratch={scratch}", f"size={scratch_bytes}", f"mode={scratch_mode}"]
    facts.append(f"uid={uid}")
    if os.geteuid() == 0:
        facts += [f"outer={uid}", "groups=1"]
        if _is_mapped(_ABOVE + uid):
            facts.append(f"zero={_ABOVE + uid}")
    else:
        # mount(8) wants to be root; the jail a uid that is not: one user namespace inside another.
        namespaces.append("--map-root-user")
        facts.append("outer=0")
    if unprivileged:
        facts.append("drop=1")
    facts += [f"limit={number}:{value}" for number, value in (limits or {}).items()]
    facts += [f"env={one}" for one in env]
    return [
        # Our end is unshare's, enter.py's, and so of all in its namespace.
        *(host_program("setpriv"), "--pdeathsig=KILL"),
        *(host_program("unshare"), *namespaces),
        *(sys.executable, "-I", "-S", str(_PROGRAM), *facts, "--"),
    ]


def _is_mapped(one: int) -> bool:
    """Whether `one` is a user and a group of this user namespace."""
    for kind in ("uid", "gid"):
        lines = Path(f"/proc/self/{kind}_map").read_text().splitlines()
        ranges = (tuple(map(int, line.split())) for line in lines)
        if not any(first <= one < first + count for first, _, count in ranges):
            return False
    return True
