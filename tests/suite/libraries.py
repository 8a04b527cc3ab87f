"""Libraries of PyPI at work in the jail: `python -m tests.suite.libraries [NAME...]` runs uses/, or a part.

The image is everything.yaml's, as `sandbox-build` builds it. Each use must succeed under the shipped policy,
say nothing on stderr, and be denied what libraries.yaml lists and no more. Then each is traced from the group
`core` alone, twice, to the same list; under what that list writes to the config it must succeed and be denied
nothing. First of all the image of the other architecture is built: its imports are tried through qemu.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from builder.arch import host_arch
from builder.config import load_config
from builder.config_edit import write_allowed
from builder.trace import Source, Trace, make_trace, repeat
from builder.tree.spec import SANDBOX_PATH
from tests import binfmt
from tests.suite.place import UID, Place, configured
from tests.suite.shelf import EVERYTHING, build, built_root, scratch

_FOLDER = Path(__file__).parent
_TIMEOUT_S = 60
_MOST_RUNS = 3
"""So often a program is traced until nothing new appears."""


@dataclass(frozen=True)
class Use:
    """One program of uses/."""

    name: str
    code: str
    network: bool
    env: dict[str, str]
    memory: str
    denied: frozenset[str]
    """Calls that are denied and named under the shipped policy."""

    def config(self, **syscalls: Any) -> dict[str, Any]:
        """As of config.yaml."""
        jail = {"uid_range": [UID, 3], "env": self.env}
        limits = {"memory": self.memory}
        return {"enable_network": self.network, "jail": jail, "limits": limits, "syscalls": syscalls}


@cache
def uses() -> dict[str, Use]:
    """Every program by its name."""
    facts = _facts()
    return {
        path.stem: Use(
            path.stem,
            path.read_text(),
            path.stem in facts["network"],
            facts["env"].get(path.stem, {}),
            facts["memory"].get(path.stem, "1GiB"),
            frozenset(facts["denied"].get(path.stem, {})),
        )
        for path in sorted((_FOLDER / "uses").glob("*.py"))
    }


def quick_uses() -> list[str]:
    """The names of those that every test run has."""
    return list(_facts()["quick"])


@cache
def _facts() -> dict[str, Any]:
    return dict(yaml.safe_load((_FOLDER / "libraries.yaml").read_text()))


def faults_by_default(place: Place, use: Use) -> Iterator[str]:
    """What is wrong with a run under the shipped policy."""
    place.govern(configured(use.config()))
    ended = place.run(use.code, timeout_s=_TIMEOUT_S)
    if ended.exit_code:
        yield f"exit code {ended.exit_code}: {ended.stderr.strip()[-300:]}"
    said = [line for line in ended.stderr.splitlines() if not line.startswith("sandbox: denied ")]
    if said and not ended.exit_code:
        yield f"on stderr: {' / '.join(said)[:300]}"
    denied = {one.call for one in ended.denied}
    if denied != use.denied:
        yield f"denied {sorted(denied)}, and not {sorted(use.denied)}"


def faults_of_trace(place: Place, use: Use) -> Iterator[str]:
    """What is wrong with two traces from `core` alone, and with a run under what the first one writes."""
    start = use.config(replace=True, groups=["core"])
    first, second = _trace(place, use, start), _trace(place, use, start)
    if first.config != second.config:
        yield f"two traces differ: {first.config} and {second.config}"
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "config.yaml"
        path.write_text(yaml.safe_dump(start | {"worker_timeout": _TIMEOUT_S}))
        write_allowed(path, first.config)
        place.govern(load_config(path, {})[0])
    ended = place.run(use.code, timeout_s=_TIMEOUT_S)
    if ended.exit_code:
        yield f"as traced, exit code {ended.exit_code}: {ended.stderr.strip()[-300:]}"
    if ended.denied:
        yield f"as traced, denied {[(one.call, one.arguments) for one in ended.denied]}"


def _trace(place: Place, use: Use, config: dict[str, Any]) -> Trace:
    place.govern(configured(config))
    calls = json.loads((place.root / SANDBOX_PATH.lstrip("/") / "calls.json").read_bytes())["calls"]
    runs = repeat(lambda: place.outcome(use.code, timeout_s=_TIMEOUT_S, trace=True), _MOST_RUNS)
    arch = host_arch()
    return make_trace(runs, calls, Source(use.name, use.code), use.name, arch, arch)


def build_other() -> None:
    """Builds the image of everything.yaml for the other architecture; its build tries the imports."""
    # An ordinary user has what the machine is set up for.
    with binfmt.emulator() if os.geteuid() == 0 else nullcontext(), scratch() as folder:
        build(EVERYTHING, folder, binfmt.OTHER)
        report = json.loads((folder / binfmt.OTHER.name / "report.json").read_bytes())
    print(*report["proven"], sep="\n", flush=True)
    if report["proof"]["how"] != "emulated":
        sys.exit(f"error: nothing of {binfmt.OTHER.name} was tried")


def main(names: Sequence[str]) -> None:
    """Runs the uses `names`, or all; prints a line for each, and ends with 1 where one has a fault."""
    chosen = [uses()[name] for name in names] or list(uses().values())
    wrong = 0
    if not names:
        build_other()
    with scratch() as folder:
        place = Place(built_root(EVERYTHING, folder))
        for use in chosen:
            started = time.monotonic()
            found = [*faults_by_default(place, use), *faults_of_trace(place, use)]
            wrong += bool(found)
            print(
                f"{'FAULT' if found else 'ok':6}{use.name:16}{time.monotonic() - started:6.1f} s", flush=True
            )
            for fault in found:
                print(f"      {fault}", flush=True)
    if wrong:
        sys.exit(f"error: {wrong} of {len(chosen)} libraries are not as tests/suite/libraries.yaml says")


if __name__ == "__main__":
    main(sys.argv[1:])
