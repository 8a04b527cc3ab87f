"""More and more memory."""

from tests.conftest import Place
from tests.escape.attacks import Attack, judge

# The limit is 1 GiB of address space: what the control takes is never touched, and costs nothing.
GROW = """
import mmap
held = []
for _ in range(64):
    held.append(mmap.mmap(-1, 1 << 26))
"""
ATTACKS = {
    "one block": Attack("bytearray(2 << 30)", "OK", "MemoryError"),
    "many blocks": Attack(GROW, "OK", "ENOMEM"),
    "brk": Attack('call("mmap", 0, 2 << 30, 3, 0x22, -1, 0)', "OK", "ENOMEM"),
    "address space without memory": Attack('call("mmap", 0, 2 << 30, 0, 0x4022, -1, 0)', "OK", "ENOMEM"),
    "mlock": Attack('call("mlock", 0, 0)', "OK", "EPERM"),
    "a file in memory": Attack('os.close(os.memfd_create("x"))', "OK", "EPERM"),
    "System V shared memory": Attack(
        'call("shmctl", call("shmget", 0, 1 << 20, 0o1600), 0, 0)', "OK", "EPERM"
    ),
}


def test_memory_ends_at_the_limit(outside: Place, jail: Place, where: str) -> None:
    """MemoryError or ENOMEM beyond 1 GiB, and the run goes on; no memory that the limit does not count."""
    judge(ATTACKS, outside, jail, where)


UNCAUGHT = """
kept = []
for _ in range(128):
    kept.append(bytes(1 << 24))
"""


def test_a_run_that_goes_on_ends_like_any_other(outside: Place, jail: Place) -> None:
    """A loop that allocates is a MemoryError with exit code 1, not a dead container.

    What is left of the memory when it is reported is not always enough for the traceback.
    """
    assert outside.run(UNCAUGHT).exit_code == 0
    ended = jail.run(UNCAUGHT)
    assert ended.exit_code == 1
    assert "MemoryError" in ended.stderr
