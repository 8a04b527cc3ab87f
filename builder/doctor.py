"""What this host can do: a finding for each thing that a build or a run may need, and how to mend a lack."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder import command
from builder.arch import ARCHES, host_arch
from builder.drivers.docker import engine_version, find_client
from builder.errors import SandboxError
from builder.seccomp.syscalls import libseccomp

_LANDLOCK_CREATE_RULESET = 444  # the same number on both architectures (asm-generic/unistd.h)
_LANDLOCK_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    ok: bool
    found: str
    needed_for: str
    hint: str = ""
    """What to do about the lack; empty where there is none."""
    required: bool = False
    """Nothing at all can be built without it."""


def examine() -> list[Finding]:
    """Every finding, in the order in which they matter. Changes nothing on the host."""
    return [finding for check in _CHECKS for finding in check()]


def _architecture() -> Iterator[Finding]:
    machine = platform.machine()
    ok = any(arch.machine == machine for arch in ARCHES.values())
    hint = "" if ok else "use an x86_64 or aarch64 machine"
    yield Finding("architecture", ok, machine, "everything", hint, required=True)


def _kernel() -> Iterator[Finding]:
    actions = _read("/proc/sys/kernel/seccomp/actions_avail")
    release = platform.release()
    yield Finding(
        "seccomp",
        "errno" in actions and "kill_process" in actions,
        f"Linux {release}: {actions or 'no seccomp'}",
        "running code in the jail",
        "" if actions else "use a kernel with CONFIG_SECCOMP_FILTER",
    )
    libc = ctypes.CDLL(None, use_errno=True)
    abi = libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    yield Finding(
        "Landlock",
        abi > 0,
        f"ABI {abi}" if abi > 0 else "not in this kernel, or not enabled",
        "the jail of an ordinary user who may not make a user namespace",
        "" if abi > 0 else "boot with lsm=landlock,... on Linux 5.13 or later, or run as root",
    )


def _user_namespaces() -> Iterator[Finding]:
    attempt = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    try:
        command.run(attempt, missing="apt-get install util-linux")
        found, hint = "may be made", ""
    except SandboxError as error:
        found = error.message.splitlines()[-1].removeprefix("  < ")
        hint = "root in a container needs none; else see sysctl kernel.unprivileged_userns_clone, "
        hint += "user.max_user_namespaces"
        if Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").exists():
            hint += " and kernel.apparmor_restrict_unprivileged_userns"
    yield Finding("user namespaces", not hint, found, "`sandbox-build run`, and the proof of a build", hint)


def _libseccomp() -> Iterator[Finding]:
    found, hint = _attempt(lambda: f"API level {libseccomp().get_api()}")
    yield Finding("libseccomp", not hint, found, "compiling the policy", hint, required=True)


def _mmdebstrap() -> Iterator[Finding]:
    path = shutil.which("mmdebstrap")
    yield Finding(
        "mmdebstrap",
        path is not None,
        path or "not installed",
        "base: debian:*",
        "" if path else "apt-get install mmdebstrap",
    )


def _docker() -> Iterator[Finding]:
    found, hint = _attempt(engine_version)
    yield Finding("Docker Engine", not hint, found, "--driver docker, and image references as base", hint)
    found, hint = _attempt(lambda: str(find_client()))
    yield Finding("BuildKit client", not hint, found, "--driver docker", hint)


def _binfmt() -> Iterator[Finding]:
    try:
        own = host_arch().name
    except SandboxError:
        return
    for arch in ARCHES.values():
        if arch.name == own:
            continue
        handler = Path(f"/proc/sys/fs/binfmt_misc/qemu-{arch.machine}")
        yield Finding(
            f"programs of {arch.name}",
            handler.exists(),
            "run under qemu-user" if handler.exists() else "do not run here",
            f"trying {arch.name} images here (building them needs no emulation)",
            "" if handler.exists() else "apt-get install qemu-user-static binfmt-support",
        )


def _privileges() -> Iterator[Finding]:
    root = os.geteuid() == 0
    yield Finding("user", True, "root" if root else f"uid {os.geteuid()}", "nothing: either builds and runs")


_CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    _architecture,
    _privileges,
    _kernel,
    _user_namespaces,
    _libseccomp,
    _mmdebstrap,
    _docker,
    _binfmt,
)


def _attempt(call: Callable[[], str]) -> tuple[str, str]:
    """What `call` finds and an empty hint, or what is lacking and what to do about it."""
    try:
        return call(), ""
    except SandboxError as error:
        return error.message, error.hint or error.message


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
