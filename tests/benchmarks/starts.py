"""What a run costs besides the code itself, over bare Python; and what of it naming denied calls costs."""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path

from builder.dockerfile import entrypoint
from tests.benchmarks.place import in_root, settings, timed

ROUNDS = 300


def starts(root: Path) -> dict[str, float]:
    """As in a default container, and as root of the machine, who has namespaces besides."""
    python = settings(root)["python"]
    figures: dict[str, float] = {}
    for where, container in (("as in a default container", True), ("as root, with namespaces", False)):
        measured = in_root(root, partial(_measure, python), container=container)
        figures |= {f"{what}, {where}": value for what, value in measured.items()}
    return figures


def _measure(python: str) -> dict[str, float]:
    """Runs in the image's root, so that nothing but the interpreter itself is in what is measured."""
    init, *alone = entrypoint(python)
    first_line = ["-c", "import time; print(time.monotonic_ns())"]
    commands = {
        "bare": [python, "-I", "-S", "-c", "pass"],
        "whole run": [init, *alone, "-c", "pass"],
        "whole run, no channel": [*alone, "-c", "pass"],
        "first line": [init, *alone, *first_line],
        "first line, no channel": [*alone, *first_line],
    }
    samples: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(ROUNDS):
        # In turn, and each second time backwards: nothing is always measured behind the same.
        for name in (commands, reversed(commands))[number % 2]:
            samples[name].append(timed(commands[name]))
    middle = {name: statistics.median(values) for name, values in samples.items()}

    def added(what: str) -> float:
        """By the differences of each round: what slows a whole round down is in none of them."""
        pairs = zip(samples[what], samples[f"{what}, no channel"], strict=True)
        return round(statistics.median(mine - other for mine, other in pairs), 3)

    return {
        "bare python3 -I -S -c pass, ms": round(middle["bare"], 2),
        "start to the code's first line, over bare": round(middle["first line"] / middle["bare"], 3),
        "whole run of `pass`, over bare": round(middle["whole run"] / middle["bare"], 3),
        "filter and channel add to the first line, ms": added("first line"),
        "filter and channel add to the whole run, ms": added("whole run"),
    }
