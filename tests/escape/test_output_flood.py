"""More and more output."""

import time

import pytest

from tests.conftest import Place

LIMIT = 10 << 20
"""limits.output of the shipped config."""

FLOOD = """
import os
left = {bytes}
while left:
    left -= os.write({descriptor}, bytes(min(left, 1 << 16)))
"""


@pytest.mark.parametrize("descriptor", [1, 2])
def test_output_is_cut_off_at_the_limit(descriptor: int, outside: Place, bare: Place) -> None:
    """`sandbox-build run` passes limits.output on to the byte, says so, ends the run, and ends with 125.

    In a container what is printed is the engine's, or the calling service's, to limit.
    """
    code = FLOOD.format(bytes=LIMIT + (1 << 20), descriptor=descriptor)
    control = outside.run(code)
    assert (control.exit_code, len(control.stdout + control.stderr)) == (0, LIMIT + (1 << 20))
    ended = bare.run(code)
    assert ended.exit_code == 125
    assert (ended.stdout + ended.stderr).count("\0") == LIMIT
    assert ended.stderr.replace("\0", "") == f"sandbox: error: more than {LIMIT} bytes of output\n"


def test_exactly_the_limit_is_no_flood(bare: Place) -> None:
    """The last byte that is allowed passes, and the run ends as it would."""
    ended = bare.run(FLOOD.format(bytes=LIMIT, descriptor=1))
    assert (ended.exit_code, len(ended.stdout), ended.stderr) == (0, LIMIT, "")


def test_a_flood_ends_at_once(bare: Place) -> None:
    """The writer is ended, not drained: long before its time-out."""
    started = time.monotonic()
    ended = bare.run(FLOOD.format(bytes=1 << 36, descriptor=1))
    assert ended.exit_code == 125
    assert time.monotonic() - started < 4
