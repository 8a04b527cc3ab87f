"""`make bench`: the figures that the README names, as a table on stdout and as bench.json.

Speeds of a run are ratios to a bare `python3 -I -S -c pass` of the image's own interpreter, taken in turn
with it in the same loop. Needs root (it changes its root directory to the image's).
"""

from __future__ import annotations

import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from builder import jailrun
from builder.arch import ARCHES, host_arch
from builder.archive import open_archive
from builder.dockerfile import entrypoint
from builder.tree.spec import SANDBOX_PATH

ROUNDS = 200
REPOSITORY = Path(__file__).parents[2]
PR_CAPBSET_DROP, CAP_SYS_ADMIN = 24, 21


def main() -> None:
    """Measures everything and prints it."""
    if os.geteuid() != 0:
        sys.exit("error: the benchmark runs as root: it uses chroot")
    with tempfile.TemporaryDirectory(prefix="sandbox-bench-") as temporary:
        scratch = Path(temporary)
        figures = {**builds(scratch), **sizes(scratch), **starts(scratch)}
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:{width}}  {value}")
    (REPOSITORY / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")


def builds(scratch: Path) -> dict[str, float]:
    """Seconds of a build without Docker: from nothing, from cached packages, and with nothing changed."""
    figures = {}
    for arch in ARCHES:
        cases = (
            ("from nothing, packages fetched", scratch / "first", scratch / "cache"),
            ("with Debian's packages cached", scratch / "second", scratch / "cache"),
            ("nothing changed", scratch / "second", scratch / "cache"),
        )
        for what, output, cache in cases:
            started = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "builder", "--arch", arch, "--driver", "oci", "--output", str(output)],
                cwd=REPOSITORY,
                env=os.environ | {"XDG_CACHE_HOME": str(cache)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            figures[f"build of {arch}, {what}, s"] = round(time.monotonic() - started, 1)
    return figures


def sizes(scratch: Path) -> dict[str, float]:
    """Megabytes (10^6 bytes) of the default image: what is pulled, and what it takes unpacked."""
    figures = {}
    for arch in ARCHES:
        image = scratch / "second" / arch / "image.tar"
        with open_archive(image) as archive:
            packed = sum(layer.size for layer in archive.layers)
        root = jailrun.unpack(image, scratch / "unpacked")
        # Blocks, not lengths: what a disk really gives up. A link counted once.
        seen = {(at.st_dev, at.st_ino): at.st_blocks * 512 for at in map(os.lstat, root.rglob("*"))}
        figures[f"image of {arch}, compressed layers, MB"] = round(packed / 1e6, 2)
        figures[f"image of {arch}, on disk, MB"] = round(sum(seen.values()) / 1e6, 2)
    return figures


def starts(scratch: Path) -> dict[str, float]:
    """Ratios over bare Python: from the entrypoint's start to the code's first line, and of a whole run."""
    root = jailrun.unpack(scratch / "second" / host_arch().name / "image.tar", scratch / "unpacked")
    python = json.loads((root / SANDBOX_PATH[1:] / "runtime.json").read_bytes())["python"]
    figures = {}
    for where, container in (("as in a default container", True), ("as root, with namespaces", False)):
        for what, value in in_root(root, lambda: measure_starts(python), container=container).items():
            figures[f"{what}, {where}"] = value
    return figures


def measure_starts(python: str) -> dict[str, float]:
    """Runs in the image's root, so that nothing but the interpreter itself is in what is measured."""
    bare = [python, "-I", "-S", "-c", "pass"]
    # CLOCK_MONOTONIC is the same in every process.
    ours = [*entrypoint(python), "-c"]
    first_line = [*ours, "import time; print(time.monotonic_ns())"]
    samples: dict[str, list[float]] = {"bare": [], "first line": [], "whole run": []}
    for _ in range(ROUNDS):
        samples["bare"].append(timed(bare)[0])
        samples["whole run"].append(timed([*ours, "pass"])[0])
        started = time.monotonic_ns()
        samples["first line"].append((int(timed(first_line)[1]) - started) / 1e6)
    middle = {name: statistics.median(values) for name, values in samples.items()}
    return {
        "bare python3 -I -S -c pass, ms": round(middle["bare"], 2),
        "start to the code's first line, over bare": round(middle["first line"] / middle["bare"], 3),
        "whole run of `pass`, over bare": round(middle["whole run"] / middle["bare"], 3),
    }


def timed(command: list[str]) -> tuple[float, bytes]:
    """Milliseconds that `command` took, and what it printed."""
    started = time.monotonic_ns()
    # stdin is nothing's to read here, and the image has no /dev/null.
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return (time.monotonic_ns() - started) / 1e6, done.stdout


def in_root(root: Path, measure: Callable[[], dict[str, Any]], *, container: bool) -> dict[str, Any]:
    """What `measure` returns in a child whose root is `root`; in a `container`, without CAP_SYS_ADMIN."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if container:
                ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0)
            os.chroot(root)
            os.chdir("/")
            os.write(write, json.dumps(measure()).encode())
            os._exit(0)
        except BaseException as error:
            print(f"error: {error!r}", file=sys.stderr)
            os._exit(1)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        sys.exit("error: the measuring child failed")
    return dict(json.loads(answer))


if __name__ == "__main__":
    main()
