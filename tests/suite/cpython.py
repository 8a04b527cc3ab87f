"""CPython's own tests, run in the jail: `python -m tests.suite.cpython [MODULE...]` runs them all, or some.

cpython.yaml says which, under which groups, and which tests fail there and why. A test that fails inside and
not in the control, the same tree without the lock-down, must stand there; one that stands there must fail so.
"""

from __future__ import annotations

import fnmatch
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.suite.place import ROOMY, SCRATCH, Ended, Place, configured
from tests.suite.shelf import built_root, debian_packages

_FOLDER = Path(__file__).parent

_PACKAGES = (
    "libpython3.13-testsuite",
    "python3.13-minimal",
    "libpython3.13-stdlib",
    "media-types",
    "dash",
    "coreutils",
)
"""The tests, the standard library with what the image leaves out, and a shell for what they start."""

_STDLIB = "usr/lib/python3.13"

_ADDRESS = re.compile("0x[0-9a-f]{8,}")
"""Of an object, in the name of a test: another one in each run."""


@dataclass(frozen=True)
class Module:
    """One test module, and what is known of it."""

    name: str
    groups: tuple[str, ...]
    """Those that it needs besides the default ones."""
    allow: tuple[Any, ...]
    """Entries of syscalls.allow that it needs besides."""
    quick: bool
    """Whether each test run has it."""
    fails: Mapping[str, str]
    """Pattern of a test's id -> why it cannot pass in a jail."""

    @property
    def config(self) -> dict[str, Any]:
        """As of config.yaml."""
        groups = [name for name in self.groups if name != "network"]
        return {
            "limits": ROOMY,
            "enable_network": "network" in self.groups,
            "syscalls": {"groups": groups, "allow": list(self.allow)},
        }


@cache
def modules() -> dict[str, Module]:
    """Every module of cpython.yaml by its name; those of the same config stand next to each other."""
    raw = yaml.safe_load((_FOLDER / "cpython.yaml").read_text())
    found = [
        Module(
            name,
            tuple(stanza["groups"]),
            tuple(stanza.get("allow", ())),
            name in raw["quick"],
            {test: why for why, tests in raw["fails"].get(name, {}).items() for test in tests},
        )
        for stanza in raw["under"]
        for name in stanza["modules"]
    ]
    return {one.name: one for one in found}


def make_place(root: Path, folder: Path) -> Place:
    """The image's `root` with CPython's tests in its tree, and what they take for granted of a system."""
    packages = debian_packages("cpython", _PACKAGES)
    own = json.loads((root / "sandbox/runtime.json").read_bytes())["python"]
    place = Place.copy(root, folder)
    if (place.tree / own.lstrip("/")).read_bytes() != (packages / own.lstrip("/")).read_bytes():
        raise SystemExit("error: the image has another Python than the tests: build it with --no-cache")
    for part in (_STDLIB, "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu"):
        if (packages / part).is_dir():
            place.add(packages / part, part)
    (place.tree / "bin").symlink_to("usr/bin")
    # The jail has no devices and no place for semaphores: here the scratch folder is it.
    (place.tree / "dev/null").symlink_to(f"{SCRATCH}/null")
    (place.tree / "dev/shm").symlink_to(SCRATCH)
    return place


def faults(place: Place, module: Module) -> list[str]:
    """What of `module` is not as cpython.yaml says, test by test; `place` must be under its config."""
    inside = outcomes(place.run(_reporting(), module.name))
    failed = {name: why for name, (what, why) in inside.items() if what != "passed"}
    control = outcomes(place.control(_reporting(), module.name)) if failed else {}
    # What is skipped or fails in the control as well says nothing of the jail.
    ours = {name: why for name, why in failed.items() if control.get(name, ("passed", ""))[0] == "passed"}
    unlisted = {
        name: why
        for name, why in ours.items()
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in module.fails)
    }
    met = [pattern for pattern in module.fails if fnmatch.filter(ours, pattern)]
    return [
        *(f"{name}: {why.strip().splitlines()[-1]}" for name, why in unlisted.items()),
        *(f"{pattern} passes, or fails in the control" for pattern in module.fails if pattern not in met),
    ]


def outcomes(ended: Ended) -> dict[str, tuple[str, str]]:
    """Test -> (passed, skipped or failed; why), as reporting.py told; a fault outdoes any other outcome."""
    found: dict[str, tuple[str, str]] = {}
    last, whole = "nothing", False
    for line in ended.stdout.splitlines():
        fact = _fact(_ADDRESS.sub("0x", line))
        last, whole = fact.get("started", last), whole or "ended" in fact
        for what in ("passed", "skipped", "failed"):
            if what in fact and found.get(fact[what], ("", ""))[0] != "failed":
                found[fact[what]] = (what, fact.get("why", ""))
    if not whole:
        found["the module's end"] = (
            "failed",
            f"in {last}: exit code {ended.exit_code}\n{ended.stderr[-500:]}",
        )
    return found


def _fact(line: str) -> dict[str, Any]:
    try:
        fact = json.loads(line)
    except ValueError:  # a test's own output
        return {}
    return fact if isinstance(fact, dict) else {}


@cache
def _reporting() -> str:
    return (_FOLDER / "reporting.py").read_text()


def main(names: Sequence[str]) -> None:
    """Runs the modules `names`, or all; a line for each, and exit code 1 where one is not as listed."""
    chosen = [modules()[name] for name in names] or list(modules().values())
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        place = make_place(built_root(), Path(temporary) / "root")
        config = None
        for module in chosen:
            if module.config != config:
                config = module.config
                place.govern(configured(config))
            started = time.monotonic()
            found = faults(place, module)
            wrong += bool(found)
            needs = ", ".join(("default", *module.groups))
            print(
                f"{'FAULT' if found else 'ok':6}{module.name:36}{time.monotonic() - started:6.1f} s  {needs}",
                flush=True,
            )
            for fault in found:
                print(f"      {fault}", flush=True)
    if wrong:
        sys.exit(f"error: {wrong} of {len(chosen)} modules are not as tests/suite/cpython.yaml says")


if __name__ == "__main__":
    main(sys.argv[1:])
