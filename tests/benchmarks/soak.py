"""Thousands of runs of mixed programs, many at once: no call is denied once and not the next time.

    python -m tests.benchmarks.soak [RUNS [AT_ONCE]]

Each run starts the image's own entrypoint in an unpacked root, with nothing of sandbox-build between, as root
does in a default container. The runs come in pairs of the same program: what one was denied, and how often,
how it ended and what it printed must be what the other shows. Ends with 1 where a pair differs.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from builder.dockerfile import entrypoint
from builder.status import StatusStream
from tests.suite.place import Place
from tests.suite.shelf import built_root

RUNS, AT_ONCE = 10_000, 16
FIRST_UID = 100_000
"""Each run has one of its own, and so a scratch folder."""

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 2, 4, 0x4000, 0x40000, 2
PR_CAPBSET_DROP, CAP_SYS_ADMIN = 24, 21

PROGRAMS = {
    "nothing": "pass",
    "json": "import json; print(json.dumps(json.loads('[1, 2.5, null]')))",
    "re": r"import re; print(re.sub(r'(\w)(\w*)', r'\2\1', 'some words in a row'))",
    "datetime": """
import datetime, zoneinfo
print(datetime.datetime(2026, 7, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Rome")))
""",
    "decimal": "from decimal import Decimal; print(Decimal(2).sqrt())",
    "hashlib": "import hashlib; print(hashlib.sha256(b'x' * 100_000).hexdigest())",
    "sqlite3": """
import sqlite3
print(sqlite3.connect(":memory:").execute("select sum(value) from json_each('[1, 2]')").fetchone())
""",
    "files": """
import pathlib, tempfile
with tempfile.TemporaryDirectory() as folder:
    print(pathlib.Path(folder, "file").write_text("text"))
""",
    "threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    print(sum(pool.map(abs, range(-50, 0))))
""",
    "asyncio": """
import asyncio
async def several():
    return await asyncio.gather(*(asyncio.to_thread(abs, n) for n in range(8)))
print(asyncio.run(several()))
""",
    "error": "import json; json.loads('{')",
    "exit": "import sys; sys.exit(7)",
    "signal": """
import signal
signal.signal(signal.SIGALRM, lambda *_: print("rang"))
signal.setitimer(signal.ITIMER_REAL, 0.05)
signal.pause()
""",
    "denied socket": """
import socket
try:
    socket.create_connection(("127.0.0.1", 1))
except OSError as error:
    print(error.errno)
""",
    "denied fork": """
import os
try:
    os.fork()
except OSError as error:
    print(error.errno)
""",
    "denied program": """
import subprocess
try:
    subprocess.run(["ls"])
except OSError as error:
    print(error.errno)
""",
    "denied in threads": """
import os, threading
def attempt():
    try:
        os.kill(os.getpid(), 0)
    except OSError:
        pass
threads = [threading.Thread(target=attempt) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
""",
    "denied a thousand times": """
import os
for _ in range(1000):
    try:
        os.setpriority(0, 0, 5)
    except OSError:
        pass
""",
    "killed": "import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0); print('not reached')",
}


@dataclass(frozen=True)
class Seen:
    """What one run shows of itself."""

    exit_code: int
    stdout: bytes
    denied: frozenset[tuple[str, str, int]]
    """(call, what allows it, how often)."""
    whole: bool
    """Whether the status stream could be read to its end."""


def main(runs: int = RUNS, at_once: int = AT_ONCE) -> None:
    """Makes the runs in pairs, and compares the two of each."""
    if os.geteuid() != 0:
        sys.exit("error: the soak runs as root: it uses chroot")
    with tempfile.TemporaryDirectory(prefix="sandbox-soak-") as temporary:
        place = Place.copy(built_root(), Path(temporary) / "root")
        _become_container(place)
        started = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            pairs = list(pool.map(lambda number: _pair(place, number), range(runs // 2)))
        took_s = time.monotonic() - started
        LIBC.umount2(bytes(place.tree / "tmp"), MNT_DETACH)
    names = [_name(number) for number in range(len(pairs))]
    found = list(zip(names, pairs, strict=True))
    differing = [(name, pair) for name, pair in found if pair[0] != pair[1]]
    cut = sum(not seen.whole for pair in pairs for seen in pair)
    for name in PROGRAMS:
        _report(name, [seen for other, pair in found if other == name for seen in pair])
    for name, pair in differing[:20]:
        print(f"DIFFERS  {name}: {pair[0]} and {pair[1]}")
    made = 2 * len(pairs)
    print(f"{made} runs, {at_once} at once, took {took_s:.0f} s: {made / took_s:.0f} a second")
    print(f"{len(differing)} pairs differ; {cut} status streams were cut")
    if differing or cut:
        sys.exit("error: two runs of the same program were not denied the same")


def _name(number: int) -> str:
    return list(PROGRAMS)[number % len(PROGRAMS)]


def _pair(place: Place, number: int) -> tuple[Seen, Seen]:
    code = PROGRAMS[_name(number)]
    return _run(place, code, FIRST_UID + 2 * number), _run(place, code, FIRST_UID + 2 * number + 1)


def _run(place: Place, code: str, uid: int) -> Seen:
    """One run, with a scratch folder that is removed after it."""
    read, write = os.pipe()
    command = ["chroot", str(place.root), *entrypoint(place.settings["python"])]
    try:
        process = subprocess.Popen(
            [*command, "--status-fd", str(write), "--uid", str(uid), "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[write],
        )
    finally:
        os.close(write)
    with process, os.fdopen(read, "rb") as stream:
        status = StatusStream()
        status.feed(stream.read())  # to its end, which is the supervisor's
        status.end()
        stdout, _ = process.communicate()
    shutil.rmtree(place.tree / "tmp" / f"run-{uid}", ignore_errors=True)
    denied = frozenset((one.call, one.allow, one.count) for one in status.denied)
    return Seen(process.returncode, stdout, denied, status.whole and bool(status.facts))


def _report(name: str, runs: list[Seen]) -> None:
    """A line for what the runs of one program have in common, and how many of them do."""
    (seen, count), *_ = Counter(runs).most_common(1)
    calls = ", ".join(f"{call} {times}" for call, _, times in sorted(seen.denied)) or "nothing"
    print(f"{name:24} exit code {seen.exit_code:4}, denied: {calls} ({count} of {len(runs)} runs)")


def _become_container(place: Place) -> None:
    """Gives the runs a scratch, and takes from this process what a default container's root has not."""
    scratch = bytes(place.tree / "tmp")
    if (
        LIBC.unshare(CLONE_NEWNS)
        or LIBC.mount(None, b"/", None, MS_REC | MS_PRIVATE, None)
        or LIBC.mount(b"tmpfs", scratch, b"tmpfs", MS_NOSUID | MS_NODEV, b"mode=0755")
        or LIBC.prctl(PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0)
    ):
        sys.exit(f"error: {os.strerror(ctypes.get_errno())}: the soak needs CAP_SYS_ADMIN")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
