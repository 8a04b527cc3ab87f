"""Every way in which a run can be refused before the user's code starts, each with its own exit code.

The codes are 208 to 223: (code & 0xF0) == 0xD0. The seccomp policy refuses exit(2) and exit_group(2) with
these codes (images/python/seccomp.yaml), so that no program in the jail, not even machine code, can end with
one.
"""

USAGE = 208  # the entrypoint was called with arguments that it does not know
IMAGE = 209  # runtime.json or policy.bpf is missing, unreadable or not whole
CODE = 210  # the code could not be read, or is too large
DESCRIPTORS = 211  # inherited file descriptors could not be closed
LIMITS = 212  # a resource limit could not be set
PRIVILEGES = 213  # the privilege level that the config requires is not to be had here
USER_NAMESPACE = 214  # a user namespace was made but could not be set up
CHROOT = 215  # chroot into the tree failed
IDENTITY = 216  # user and groups could not be given up, or the run's user could write the tree
CAPABILITIES = 217  # capabilities could not be given up
NO_NEW_PRIVS = 218  # no_new_privs or the dumpable flag could not be set
LANDLOCK = 219  # Landlock could not be enforced
SECCOMP = 220  # the seccomp filter could not be loaded
SCRATCH = 221  # the run's private scratch folder could not be made
NAMESPACES = 222  # the container's namespaces could not be left
INTERNAL = 223  # the entrypoint itself failed

RESERVED = range(208, 224)


def is_reserved(code: int) -> bool:
    """Whether `code` is one that only the runtime may end with."""
    return code & 0xFF in RESERVED


class Refused(Exception):
    """The run ends with `code` before any of the user's code is executed."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
