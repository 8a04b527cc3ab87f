"""Every way in which a run can be refused before the user's code starts, each with its own exit code.

The codes are 208 to 223: (code & 0xF0) == 0xD0. The seccomp policy refuses exit(2) and exit_group(2) with
these codes (images/python/seccomp.yaml), so that no program in the jail, not even machine code, can end with
one.
"""

USAGE = 208
IMAGE = 209
CODE = 210
DESCRIPTORS = 211
LIMITS = 212
PRIVILEGES = 213
USER_NAMESPACE = 214
CHROOT = 215
IDENTITY = 216
CAPABILITIES = 217
NO_NEW_PRIVS = 218
LANDLOCK = 219
SECCOMP = 220
SCRATCH = 221
NAMESPACES = 222
INTERNAL = 223

MEANINGS = {
    USAGE: "the entrypoint was called with arguments that it does not know",
    IMAGE: "runtime.json or policy.bpf is missing, unreadable or not whole",
    CODE: "the code could not be read",
    DESCRIPTORS: "inherited file descriptors could not be closed",
    LIMITS: "a resource limit could not be set",
    PRIVILEGES: "the privilege level that the config requires is not to be had here",
    USER_NAMESPACE: "a user namespace was made but could not be set up",
    CHROOT: "chroot into the tree failed",
    IDENTITY: "user and groups could not be given up",
    CAPABILITIES: "capabilities could not be given up",
    NO_NEW_PRIVS: "no_new_privs or the dumpable flag could not be set",
    LANDLOCK: "Landlock could not be enforced",
    SECCOMP: "the seccomp filter could not be loaded",
    SCRATCH: "the run's private scratch folder could not be made",
    NAMESPACES: "the container's namespaces could not be left",
    INTERNAL: "the entrypoint itself failed",
}


def is_reserved(code: int) -> bool:
    """Whether `code` is one that only the runtime may end with."""
    return code & 0xF0 == 0xD0


class Refused(Exception):
    """The run ends with `code` before any of the user's code is executed."""

    def __init__(self, code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint
