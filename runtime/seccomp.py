"""Loads the policy that was compiled when the image was built."""

from runtime import kernel
from runtime.failure import IMAGE, SECCOMP, Refused

SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_TSYNC = 1  # linux/seccomp.h: every thread of the process, or none
INSTRUCTION_BYTES = 8  # struct sock_filter
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


def split(policy: bytes, instructions: dict[str, int]) -> dict[str, bytes]:
    """The program of each privilege level, out of the one file that holds them one behind the other.

    Refuses a file that is not the one that runtime.json was written with: empty, cut short, too long.
    """
    chroot, landlock = instructions["chroot"], instructions["landlock"]
    whole = len(policy) == (chroot + landlock) * INSTRUCTION_BYTES
    if not whole or not 0 < chroot <= MAX_INSTRUCTIONS or not 0 < landlock <= MAX_INSTRUCTIONS:
        raise Refused(
            IMAGE,
            f"policy.bpf has {len(policy)} bytes, which are not the instructions that runtime.json counts",
            "build the image again",
        )
    end = chroot * INSTRUCTION_BYTES
    return {"chroot": policy[:end], "landlock": policy[end:]}


def load(policy: bytes) -> None:
    """seccomp(2) with the whole of `policy` (struct sock_filter[]). no_new_privs must be set."""
    instructions = bytearray(policy)
    program = bytearray(
        (len(policy) // INSTRUCTION_BYTES).to_bytes(8, "little")
        + kernel.address(instructions).to_bytes(8, "little")
    )
    try:
        blocking_thread = kernel.call(
            kernel.SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, program
        )
    except OSError as error:
        raise Refused(
            SECCOMP,
            f"seccomp: {error.strerror}",
            "the kernel needs CONFIG_SECCOMP_FILTER, and programs under qemu-user cannot load a filter",
        ) from None
    if blocking_thread:
        raise Refused(SECCOMP, f"seccomp: thread {blocking_thread} could not be brought under the filter")
