"""Raising the limits again, and what ends a run that uses its processor time up."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

from tests.conftest import Container, Place
from tests.escape.attacks import Attack, judge, outcomes
from tests.escape.conftest import Entrypoint

NAMES = ("AS", "CORE", "CPU", "DATA", "FSIZE", "MEMLOCK", "NOFILE", "NPROC", "STACK")
AGAIN = """
import resource
try:
    resource.setrlimit(resource.RLIMIT_{name}, resource.getrlimit(resource.RLIMIT_{name}))
except ValueError as error:  # what `resource` makes of EPERM
    found = error
"""
MORE = "(ctypes.c_uint64 * 2)(1 << 40, 1 << 40)"
LESS = "(ctypes.c_uint64 * 2)(1 << 29, 1 << 29)"

ATTACKS = {
    "setrlimit": Attack(f'call("setrlimit", 9, {MORE})', "OK", "EPERM"),  # RLIMIT_AS
    "prlimit64": Attack(f'call("prlimit64", 0, 9, {MORE}, 0)', "OK", "EPERM"),
    "prlimit64, by number": Attack(f'call("prlimit64", os.getpid(), 9, {MORE}, 0)', "OK", "EPERM"),
    "prlimit64, less": Attack(f'call("prlimit64", 0, 9, {LESS}, 0)', "OK", "EPERM"),
} | {
    # What the kernel grants everyone.
    f"{name} as it is": Attack(AGAIN.format(name=name), "OK", "not allowed to raise maximum limit")
    for name in NAMES
}


def test_no_limit_is_changed(outside: Place, jail: Place, where: str) -> None:
    """EPERM upwards and downwards, by each call."""
    judge(ATTACKS, outside, jail, where)


READ = """
import resource
found = [resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in {names}]
"""


def test_the_limits_are_the_configs(jail: Place, root: Path) -> None:
    """Soft and hard limit of each kind are what runtime.json says; core dumps are off."""
    limits = json.loads((root / "sandbox/runtime.json").read_bytes())["limits"]
    due = {
        "AS": limits["memory_bytes"],
        "CORE": 0,
        "CPU": limits["cpu_s"],
        "FSIZE": limits["file_size_bytes"],
        "NOFILE": limits["open_files"],
        "NPROC": limits["processes"],
    }
    found = outcomes(jail, {"limits": READ.format(names=tuple(due))})
    assert found == {"limits": str([(value, value) for value in due.values()])}


SPIN = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
print("spinning", flush=True)
while time.process_time() < {seconds}:
    pass
"""


def test_outside_processor_time_does_not_run_out(outside: Place) -> None:
    """The control, bounded: twice what the jail allows below."""
    assert outside.run(SPIN.format(seconds=2)).exit_code == 0


def test_processor_time_runs_out(jail: Place, entrypoint: Entrypoint) -> None:
    """SIGKILL after limits.cpu_s (here 1) for code that ignores every signal it can."""
    entrypoint.set(limits=entrypoint.settings["limits"] | {"cpu_s": 1})
    settings = entrypoint.root / "sandbox/runtime.json"
    shortened: Place = entrypoint
    if isinstance(jail, Container):
        shortened = replace(jail, options=(*jail.options, f"--volume={settings}:/sandbox/runtime.json:ro"))
    started = time.monotonic()
    ended = shortened.run(SPIN.format(seconds=15))
    assert (ended.exit_code, ended.stdout) == (128 + signal.SIGKILL, "spinning\n")
    assert time.monotonic() - started < 10
