"""No image is made with a filter that does not say what its policy says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from builder import verify
from builder.arch import ARCHES, Arch
from builder.config import Config
from builder.errors import VerificationFailed
from builder.plan import BuildPlan, make_plan
from builder.seccomp.compile import INSTRUCTION

# Of these libseccomp 2.5 makes a filter that lets the calls through, when it makes a binary tree.
HARD = [
    {"dup3": {"when": ["to == 1 and flags == 0"]}},
    {"mprotect": {"when": ["size == 1 and prot & 0xf0 == 0"]}},
]


def plan(arch: Arch, **syscalls: object) -> BuildPlan:
    return make_plan(Config.model_validate({"syscalls": syscalls}), arch)


@pytest.mark.parametrize("deny", HARD, ids=["dup3", "mprotect"])
@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_denies_with_conditions_are_compiled_as_they_are_meant(arch: Arch, deny: object) -> None:
    """Over the whole table, and beside every condition."""
    verify.filters(plan(arch, deny=[deny]))


def test_a_filter_that_lets_one_call_through_is_found() -> None:
    """One instruction of thousands, turned from "denied" into "allowed"."""
    arch = ARCHES["amd64"]
    made = plan(arch)
    instructions = [*INSTRUCTION.iter_unpack(made.policy_bpf)]
    denied = next(at for at, one in enumerate(instructions) if one == (0x06, 0, 0, 0x0005_0001))
    instructions[denied] = (0x06, 0, 0, 0x7FFF_0000)
    wrong = replace(made, policy_bpf=b"".join(INSTRUCTION.pack(*one) for one in instructions))
    with pytest.raises(VerificationFailed, match=r"the compiled policy is wrong in \d+ cases: chroot: "):
        verify.filters(wrong)
