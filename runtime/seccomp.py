"""Loads the policy that was compiled when the image was built."""

from runtime import kernel
from runtime.failure import IMAGE, SECCOMP, Refused

SECCOMP_SET_MODE_FILTER = 1
# linux/seccomp.h: every thread of the process or none; a descriptor that tells of denied calls; with both, an
# errno in place of the number of the thread that could not be brought along.
TSYNC, NEW_LISTENER, TSYNC_ESRCH = 1, 8, 16
INSTRUCTION_BYTES = 8  # struct sock_filter
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS


class Programs:
    """The two filters of one privilege level, which allow the same."""

    def __init__(self, plain: bytes, named: bytes) -> None:
        self.plain = plain
        """Answers a denied call by itself."""
        self.named = named
        """Has the supervisor answer it."""


def split(policy: bytes, instructions: dict[str, int], digest: str) -> dict[str, Programs]:
    """The programs of each privilege level, out of the one file that holds them one behind the other.

    `instructions` has the length of each, in the file's order. Refuses a file that is not the one that
    runtime.json was written with.
    """
    whole = len(policy) == sum(instructions.values()) * INSTRUCTION_BYTES
    if not whole or not all(0 < length <= MAX_INSTRUCTIONS for length in instructions.values()):
        raise Refused(
            IMAGE,
            f"policy.bpf has {len(policy)} bytes, which are not the instructions that runtime.json counts",
            "build the image again",
        )
    if sha256_hex(policy) != digest:
        raise Refused(
            IMAGE, "policy.bpf is not the policy whose digest is in runtime.json", "build the image again"
        )
    programs = {}
    for name, length in instructions.items():
        programs[name] = policy[: length * INSTRUCTION_BYTES]
        policy = policy[length * INSTRUCTION_BYTES :]
    return {level: Programs(programs[level], programs[level + " named"]) for level in ("chroot", "landlock")}


def sha256_hex(data: bytes) -> str:
    """In hexadecimal. Not from hashlib, which would load OpenSSL."""
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]  # typeshed has it for 3.12 and later
    except ImportError:  # Python 3.11
        from _sha256 import sha256  # type: ignore[import-not-found]
    return str(sha256(data).hexdigest())


def load(policy: bytes) -> None:
    """seccomp(2) with the whole of `policy` (struct sock_filter[]). no_new_privs must be set."""
    try:
        blocking_thread = _load(policy, TSYNC)
    except OSError as error:
        raise Refused(
            SECCOMP,
            f"seccomp: {error.strerror}",
            "the kernel needs CONFIG_SECCOMP_FILTER, and programs under qemu-user cannot load a filter",
        ) from None
    if blocking_thread:
        raise Refused(SECCOMP, f"seccomp: thread {blocking_thread} could not be brought under the filter")


def load_listening(policy: bytes) -> int | None:
    """The same, and the listener's descriptor; None, with nothing loaded, where the kernel has no such thing.

    That is Linux before 5.7, gVisor, and a process whose filters have a listener already.
    """
    try:
        return _load(policy, TSYNC | NEW_LISTENER | TSYNC_ESRCH)
    except OSError:
        return None  # load() comes next, and says what is wrong if it is the kernel or the filter


def _load(policy: bytes, flags: int) -> int:
    instructions = bytearray(policy)
    program = bytearray(
        (len(policy) // INSTRUCTION_BYTES).to_bytes(8, "little")
        + kernel.address(instructions).to_bytes(8, "little")
    )
    return kernel.call(kernel.SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, program)
