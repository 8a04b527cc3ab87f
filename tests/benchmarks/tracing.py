"""What `trace` costs: the run of a program that needs much, and what is made of it, over its plain run."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from builder.arch import host_arch
from builder.config import Config
from builder.jailrun import Outcome
from builder.trace import Source, make_trace, render_text, repeat
from builder.tree.spec import SANDBOX_PATH
from tests.suite.place import Place, configured

ROUNDS = 15
CODE = "import numpy, pandas"
CORE = {"syscalls": {"replace": True, "groups": ["core"]}}
CALLS_JSON = f"{SANDBOX_PATH.lstrip('/')}/calls.json"


def traces(root: Path, scratch: Path) -> dict[str, float]:
    """Ratios to the run that `sandbox-build run` makes, under the default policy.

    Starting sandbox-build is in neither: it is the same for both. All else that trace does, is.
    """
    place = Place.copy(root, scratch)
    plain, default, core = "plain", "from the default policy", "from the group core alone"
    acts: dict[str, tuple[Config, Callable[[Place], int]]] = {
        plain: (configured({}), _run),
        default: (configured({}), _trace),
        core: (configured(CORE), _trace),
    }
    samples: dict[str, list[float]] = {name: [] for name in acts}
    found = dict.fromkeys(acts, 0)
    for turn in range(ROUNDS + 1):
        for name, (config, act) in acts.items():
            place.govern(config)
            started = time.monotonic()
            found[name] = act(place)
            if turn:  # the first one reads from the disk
                samples[name].append(time.monotonic() - started)
    figures = {f"plain run of `{CODE}`, s": round(statistics.median(samples[plain]), 3)}
    for name in (default, core):
        ratios = [mine / other for mine, other in zip(samples[name], samples[plain], strict=True)]
        figures[f"trace of it {name} ({found[name]} calls), over the plain run"] = round(
            statistics.median(ratios), 3
        )
    return figures


def _run(place: Place) -> int:
    return _named(place.outcome(CODE))


def _trace(place: Place) -> int:
    calls = json.loads((place.root / CALLS_JSON).read_bytes())["calls"]
    arch = host_arch()
    runs = repeat(lambda: place.outcome(CODE, trace=True), 1)
    render_text(make_trace(runs, calls, Source("-c", CODE), "image.tar", arch, arch))
    return _named(runs.outcomes[0])


def _named(outcome: Outcome) -> int:
    """How many calls the run named; it must have succeeded, or the figure means nothing."""
    if outcome.exit_code or not outcome.denied_whole:
        sys.exit(f"error: `{CODE}` ended with {outcome.exit_code}")
    return len(outcome.denied)
