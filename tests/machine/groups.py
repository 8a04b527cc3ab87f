"""The attacks of tests/escape that a machine is asked to withstand, in groups: one program each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from builder.arch import Arch
from tests.escape import (
    test_core_dumps,
    test_descriptor_exhaustion,
    test_environment,
    test_exec,
    test_file_flood,
    test_fork_bomb,
    test_kernel_doors,
    test_limits,
    test_memory_bomb,
    test_namespaces,
    test_other_abi,
    test_prctl,
    test_processes,
    test_reading,
    test_runtime_objects,
    test_second_chroot,
    test_set_id,
    test_sockets,
    test_threads,
    test_writing,
)
from tests.escape.attacks import Attack


@dataclass(frozen=True)
class Group:
    """Attacks that one run makes, one after the other."""

    attacks: Mapping[str, Attack]
    control: str = "outside"
    """The place where they succeed, or reach the kernel; copy: they spoil it."""
    scratch: bool = False
    """In the jail they have a scratch folder."""
    secrets: bool = False
    """The environment has variables that the jail must not see."""


GROUPS = {
    "paths": Group(test_reading.PATHS),
    "proc": Group(test_reading.PROC),
    "symlinks": Group(test_reading.SYMLINKS, scratch=True),
    "writing": Group(test_writing.ATTACKS, "copy"),
    "links": Group(
        test_writing.LINKS | {f"{name} from scratch": one for name, one in test_writing.FROM_SCRATCH.items()},
        control="copy",
        scratch=True,
    ),
    "programs": Group(test_exec.STARTING),
    "kernel doors": Group(test_kernel_doors.ATTACKS),
    "namespaces": Group(test_namespaces.NAMESPACES),
    "namespaces by another call": Group(test_namespaces.BY_ANOTHER_CALL),
    "mounts": Group(test_namespaces.MOUNTS),
    "other processes": Group(test_processes.ATTACKS),
    "prctl": Group(test_prctl.ATTACKS),
    "in force": Group(test_prctl.IN_FORCE),
    "set-id": Group(test_set_id.ATTACKS),
    "root": Group(test_set_id.LEFT),
    "second chroot": Group(test_second_chroot.CALLS),
    "sockets": Group(test_sockets.ATTACKS),
    "pairs of sockets": Group(test_sockets.BY_PAIR),
    "clients": Group(test_sockets.CLIENTS),
    "limits": Group(test_limits.ATTACKS),
    "core dumps": Group(test_core_dumps.ATTACKS),
    "the runtime's raw call": Group(test_runtime_objects.NATIVE_ATTACKS),
    "environment": Group(test_environment.ATTACKS, secrets=True),
    "threads": Group(test_threads.ATTACKS),
    # One block less: outside, each of its 2 GiB would be written to.
    "memory": Group({name: one for name, one in test_memory_bomb.ATTACKS.items() if name != "one block"}),
    "fork bomb": Group(test_fork_bomb.ATTACKS),
    "thread bomb": Group(test_fork_bomb.BOMB),
    "file flood": Group(test_file_flood.ATTACKS, scratch=True),
    "descriptors": Group(test_descriptor_exhaustion.ATTACKS),
}


def killed(arch: Arch) -> dict[str, Attack]:
    """Those that end the run by a signal, each of which is a run of its own."""
    return {
        **test_kernel_doors.KILLED,
        **test_processes.KILLED,
        **test_other_abi.EVERYWHERE,
        **(test_other_abi.OF_AMD64 if arch.name == "amd64" else {}),
    }
