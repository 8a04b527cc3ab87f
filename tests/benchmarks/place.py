"""Where a benchmark measures: in the root directory of an image, with nothing of sandbox-build between."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from builder.tree.spec import SANDBOX_PATH

PR_CAPBSET_DROP, CAP_SYS_ADMIN = 24, 21
NOWHERE = os.open(os.devnull, os.O_WRONLY)
"""Opened before any change of root: the image has no /dev/null."""


def settings(root: Path) -> dict[str, Any]:
    """runtime.json of the image whose root is `root`."""
    return dict(json.loads((root / SANDBOX_PATH.lstrip("/") / "runtime.json").read_bytes()))


def timed(command: Sequence[str]) -> float:
    """Milliseconds that `command` took; where it prints a moment of CLOCK_MONOTONIC, in ns, until then."""
    started = time.monotonic_ns()
    # stdin is nothing's to read here. On stderr, a run without init says that it has none.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=NOWHERE, check=True)
    return (int(done.stdout or time.monotonic_ns()) - started) / 1e6


def in_root(root: Path, measure: Callable[[], dict[str, Any]], *, container: bool) -> dict[str, Any]:
    """What `measure` returns in a child whose root is `root`; in a `container`, without CAP_SYS_ADMIN."""

    def enter() -> dict[str, Any]:
        if container:
            ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0)
        os.chroot(root)
        os.chdir("/")
        return measure()

    return in_child(enter)


def in_child(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `measure` returns in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
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
