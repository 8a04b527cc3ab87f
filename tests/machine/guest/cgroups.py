"""Control groups of runs on a real cgroup2, in a container that may divide its own. Prints JSON.

python3.13 -I -S -B cgroups.py
"""

import json
import mmap
import os
import sys
import time

sys.path.insert(0, "/sandbox")

from runtime.cgroup import Groups, find_groups

MIB = 1 << 20
LIMITS = {"memory_bytes": 32 * MIB, "processes": 8}


def in_group(groups: Groups, number: int, act: str) -> tuple[int, bytes]:
    """How a process ended that does `act` in a group of its own, and what it wrote."""
    go_reader, go = os.pipe()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(go_reader, 1)
        try:
            os.write(writer, ACTS[act]())
        finally:
            os._exit(0)
    os.close(writer)
    groups.enter(number, child, LIMITS)
    os.write(go, b"x")
    written = b""
    while part := os.read(reader, 1 << 16):
        written += part
    _, status = os.waitpid(child, 0)
    for descriptor in (go_reader, go, reader):
        os.close(descriptor)
    return os.waitstatus_to_exitcode(status), written


def within() -> bytes:
    return b"%d" % len(bytearray(8 * MIB))


def beyond() -> bytes:
    """Shared memory, which no limit of a process counts once it is unmapped."""
    held = mmap.mmap(-1, 64 * MIB)
    for at in range(0, 64 * MIB, mmap.PAGESIZE):
        held[at] = 1
    return b"not ended"


def many() -> bytes:
    """How many processes could be started beside the first. Root is exempt from RLIMIT_NPROC."""
    started = 0
    try:
        for _ in range(20):
            if os.fork() == 0:
                os.closerange(3, 64)  # nobody waits for it
                time.sleep(600)
            started += 1
    except BlockingIOError:
        pass
    return b"%d" % started


ACTS = {"within": within, "beyond": beyond, "many": many}


def file(groups: Groups, number: int, name: str) -> str:
    with open(f"{groups.folder}/run-{number}/{name}") as text:
        return text.read().strip()


def main() -> None:
    found = find_groups()
    assert found is not None
    told = {"controllers": found.controllers, "again": getattr(find_groups(), "controllers", None)}
    for number, act in enumerate(ACTS, 1):
        code, written = in_group(found, number, act)
        told[act] = [code, written.decode(), found.ran_out_of_memory(number)]
        told["files"] = {
            name: file(found, number, name) for name in ("memory.max", "memory.oom.group", "pids.max")
        }
        found.kill(number)
        ends = time.monotonic() + 20
        while "populated 1" in file(found, number, "cgroup.events") and time.monotonic() < ends:
            time.sleep(0.01)
        found.remove(number)
    print(json.dumps(told | {"left": [name for name in os.listdir(found.folder) if name[:4] == "run-"]}))


main()
