"""What `trace` costs: the run of a program that needs much, and what is made of it, over its plain run."""

from __future__ import annotations

import io
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder.arch import host_arch
from builder.jailrun import Outcome
from builder.tree.spec import SANDBOX_PATH
from builder.trace import Source, make_trace, render_text, repeat
from tests.suite.libraries import make_place
from tests.suite.place import Place, configured

ROUNDS = 15
CODE = "import numpy, pandas"
POLICIES: dict[str, dict[str, Any]] = {
    "the default policy": {},
    "the group core alone": {"syscalls": {"replace": True, "groups": ["core"]}},
}


def traces(root: Path, scratch: Path) -> dict[str, float]:
    """Ratios to the run as `sandbox-build run` makes it, under the default policy.

    Starting sandbox-build is in neither: it is the same for both. All else that trace does, is.
    """
    places = {policy: make_place(root, scratch / policy, quick=True) for policy in POLICIES}
    for policy, place in places.items():
        place.govern(configured(POLICIES[policy]))
    plain, *_ = places.values()
    acts: dict[str, Callable[[], object]] = {"plain": lambda: _run(plain, trace=False)}
    acts |= {policy: lambda place=place: _trace(place) for policy, place in places.items()}
    samples: dict[str, list[float]] = {name: [] for name in acts}
    for turn in range(ROUNDS + 1):
        for name in acts:
            started = time.monotonic()
            acts[name]()
            if turn:  # the first one reads from the disk
                samples[name].append(time.monotonic() - started)
    figures = {f"plain run of `{CODE}`, s": round(statistics.median(samples["plain"]), 3)}
    for policy in POLICIES:
        ratios = [mine / plain for mine, plain in zip(samples[policy], samples["plain"], strict=True)]
        figures[f"trace of it from {policy}, over its plain run"] = round(statistics.median(ratios), 3)
    return figures
