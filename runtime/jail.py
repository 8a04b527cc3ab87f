"""The lock-down, in order. A step that fails ends the run before the user's code: there is no other way out.

Read top to bottom: `STEPS` is the order, each function is one step, and its failure code stands beside it.
docs/lockdown.md says why the order is this one.
"""

import posix

from runtime import kernel, landlock, scratch, seccomp
from runtime.channel import Channel
from runtime.facts import choose_uid
from runtime.failure import (
    CAPABILITIES,
    CHROOT,
    DESCRIPTORS,
    IDENTITY,
    INTERNAL,
    LANDLOCK,
    LIMITS,
    NAMESPACES,
    NO_NEW_PRIVS,
    PRIVILEGES,
    SCRATCH,
    SECCOMP,
    USER_NAMESPACE,
    Refused,
)

TYPE_CHECKING = False  # typing would be an import
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Steps = tuple[tuple[int, str, Callable[["Jail"], None]], ...]

SIGKILL = 9
S_IFMT, S_IFDIR = 0o170000, 0o040000  # inode(7)

# asm-generic/resource.h
RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_CORE, RLIMIT_NPROC, RLIMIT_NOFILE, RLIMIT_AS = 0, 1, 4, 6, 7, 9

SCRATCH_VARIABLES = (b"HOME", b"TMPDIR", b"MPLCONFIGDIR")

NAMESPACE_FLAGS = {"net": kernel.CLONE_NEWNET, "ipc": kernel.CLONE_NEWIPC, "uts": kernel.CLONE_NEWUTS}

NOT_NAMED = (
    b"sandbox: note: denied calls cannot be named here, only denied: that needs Linux 5.7 (and not gVisor), "
    b"/sandbox/init as parent, and a hard limit of open files above limits.open_files\n"
)

ROOT_NEEDS = {
    "SYS_CHROOT": kernel.CAP_SYS_CHROOT,
    "SETUID": kernel.CAP_SETUID,
    "SETGID": kernel.CAP_SETGID,
    "SETPCAP": kernel.CAP_SETPCAP,
}
"""What the lock-down of a root process uses, and then gives up."""


class Jail:
    """One run's lock-down: what is asked for, and, as the steps go by, what is in force."""

    def __init__(
        self,
        settings: "dict[str, Any]",
        policies: "dict[str, seccomp.Programs]",
        uid: int | None = None,
        keep: "tuple[int, ...]" = (),
        channel: Channel | None = None,
    ) -> None:
        """`settings` is runtime.json, `policies` the filters of each level; descriptors in `keep` stay open.

        `uid` is for a caller that knows which uids are free (None: one is chosen). `channel` leads to init,
        or to the server.
        """
        self.tree = settings["tree"]
        self.required = settings["level"]
        self.limits = settings["limits"]
        self.network = settings["network"] and not settings.get("network_allow")
        """Whether the code itself may reach a network: with network.allow, the proxy does for it."""
        self.wanted_namespaces = settings["namespaces"]
        self.env = settings["env"]
        self.env_keep = settings["env_keep"]
        self.policies = policies
        self.keep = keep
        self.uid = choose_uid(*settings["uid_range"]) if uid is None else uid
        self.level = ""
        self.landlock_abi = 0
        self.namespaces: list[str] = []
        self.scratch = ""
        """The private folder, as the code will see it."""
        self.makes_scratch = True
        """False: the server has made it, or could not."""
        self.inherited = False
        """A zygote has chosen the level, left the namespaces and entered the tree already."""
        self.shares_uid = False
        """In a user namespace: in the kernel's eyes other runs have this one's uid, whatever they see."""
        self.sets_identity = False
        """A zygote that is not root any more has kept the capabilities to change user and groups."""
        self.kills = channel is not None and channel.mode == "kill"
        """Whether a supervisor shall end what makes a denied call."""
        self.channel = channel
        self.channel_number = self.limits["open_files"]
        """The one descriptor on which the filter lets a message through."""
        self.parent = posix.getppid()
        self.naming = False
        """Whether denied calls are named."""

    def enter(self) -> None:
        """Does every step; returns with the process locked down, or raises Refused."""
        self._do(STEPS)

    def prepare(self) -> None:
        """Does what one zygote does for all its children; returns, or raises Refused."""
        self._do(ZYGOTE_STEPS)

    def _do(self, steps: "Steps") -> None:
        for code, doing, step in steps:
            try:
                step(self)
            except OSError as error:
                raise Refused(code, f"{doing}: {error.strerror}") from None

    def describe(self) -> bytes:
        """What is in force, as one line of JSON."""
        namespaces = ", ".join(f'"{name}"' for name in self.namespaces)
        return (
            f'{{"level": "{self.level}", "uid": {self.uid}, "landlock_abi": {self.landlock_abi}, '
            f'"namespaces": [{namespaces}], "scratch": "{self.scratch}", '
            f'"naming": {"true" if self.naming else "false"}}}\n'
        ).encode()

    def close_descriptors(self) -> None:
        for standard in (0, 1, 2):
            # A closed one would become whatever is opened next; fchdir(2) to a folder leads out of a chroot.
            if posix.fstat(standard).st_mode & S_IFMT == S_IFDIR:
                raise Refused(DESCRIPTORS, f"descriptor {standard} is a folder")
        own = [] if self.channel is None else [self.channel.socket]
        kernel.close_all_but(0, 1, 2, *own, *self.keep)

    def set_limits(self) -> None:
        if self.channel is not None and not self.channel.move_to(self.channel_number):
            self.channel = None
        kernel.lower_limit(RLIMIT_CORE, 0)
        kernel.lower_limit(RLIMIT_CPU, self.limits["cpu_s"])
        kernel.lower_limit(RLIMIT_FSIZE, self.limits["file_size_bytes"])
        kernel.lower_limit(RLIMIT_NPROC, self.limits["processes"])
        kernel.lower_limit(RLIMIT_NOFILE, self.limits["open_files"])
        kernel.lower_limit(RLIMIT_AS, self.limits["memory_bytes"])

    def choose_level(self) -> None:
        """The strongest level that the process has the privileges for; never one that the config excludes."""
        if self.inherited:
            return
        effective = kernel.capabilities()[0]
        if posix.getuid() == 0:
            needs = ROOT_NEEDS
            if self.kills:
                needs = needs | {"KILL": kernel.CAP_KILL}  # the supervisor's, to end what makes a denied call
            lacking = [name for name, bit in needs.items() if not _has(effective, bit)]
            if lacking:
                raise Refused(
                    PRIVILEGES,
                    f"running as root without the capabilities {', '.join(lacking)}",
                    "grant them, or run the container as an ordinary user (for example --user 65534)",
                )
            self.level = "landlock" if self.required == "landlock" else "chroot"
        elif self.required != "landlock" and self._enter_user_namespace(effective):
            self.level = "chroot"
            self.shares_uid = True
        elif self.required != "chroot":
            self.level = "landlock"
            self.uid = posix.getuid()
        else:
            raise Refused(
                PRIVILEGES,
                "the config requires chroot, and this user can neither chroot nor make a user namespace",
                "run the container as root, or set jail: {level: any}",
            )
        if self.level == "landlock":
            self.landlock_abi = landlock.abi()
            if not self.landlock_abi:
                raise Refused(
                    PRIVILEGES,
                    "the kernel has no Landlock, and chroot is not to be had or not wanted",
                    "run as root with jail: {level: any}, or on a kernel with Landlock (Linux 5.13 or later)",
                )

    def _enter_user_namespace(self, effective: int) -> bool:
        """Whether the process is in a user namespace that lets it chroot: the caller's, or one made here."""
        outer_uid, outer_gid = posix.getuid(), posix.getgid()
        if _has(effective, kernel.CAP_SYS_CHROOT):
            self.uid = outer_uid
            return True
        try:
            kernel.unshare(kernel.CLONE_NEWUSER)
        except OSError:
            return False
        try:
            # user_namespaces(7): setgroups must be denied before an ordinary user may map a group.
            kernel.write_file("/proc/self/setgroups", b"deny")
            kernel.write_file("/proc/self/uid_map", b"%d %d 1" % (self.uid, outer_uid))
            kernel.write_file("/proc/self/gid_map", b"%d %d 1" % (self.uid, outer_gid))
        except OSError as error:
            raise Refused(
                USER_NAMESPACE,
                f"a user namespace could be made but not mapped: {error.strerror}",
                "/proc must be mounted, and AppArmor must allow it (apparmor_restrict_unprivileged_userns)",
            ) from None
        return True

    def leave_namespaces(self) -> None:
        if self.inherited or not _has(kernel.capabilities()[0], kernel.CAP_SYS_ADMIN):
            return  # as in every default container: the seccomp policy stands alone there
        for name in self.wanted_namespaces:
            try:
                kernel.unshare(NAMESPACE_FLAGS[name])
            except OSError as error:
                raise Refused(
                    NAMESPACES,
                    f"a new {name} namespace: {error.strerror}",
                    "leave it out of jail.namespaces, or take CAP_SYS_ADMIN from the container",
                ) from None
            self.namespaces.append(name)

    def make_scratch(self) -> None:
        if not self.makes_scratch:
            if self.scratch and self.level == "landlock":
                self.scratch = self.tree + self.scratch
            return
        tmp = self.tree + "/tmp"  # noqa: S108 - in the jail, and what is made in it is private
        # Only on a file system of its own, a tmpfs that the operator sized: nothing else bounds the writing.
        if posix.stat(tmp).st_dev == posix.stat(self.tree).st_dev:
            return
        if posix.getuid() == 0 and (problem := scratch.closed(tmp)):
            raise Refused(SCRATCH, problem, "mount it there with mode=755, and owned by root")
        name = f"/tmp/run-{self.uid}"  # noqa: S108
        try:
            posix.mkdir(self.tree + name, 0o700)
        except PermissionError:
            raise Refused(
                SCRATCH, "this user may not write the jail's /tmp", f"mount it there with uid={self.uid}"
            ) from None
        if posix.geteuid() != self.uid:
            posix.chown(self.tree + name, self.uid, self.uid)
        # As the code will see it: at level landlock the tree keeps its own name.
        self.scratch = name if self.level == "chroot" else self.tree + name

    def change_root(self) -> None:
        if self.inherited:
            return
        if self.level == "chroot":
            posix.chroot(self.tree)
            posix.chdir("/")
        else:
            posix.chdir(self.tree)

    def give_up_identity(self) -> None:
        self._drop_bounding_set()
        if self.sets_identity or posix.getuid() == 0:
            posix.setgroups([])
            posix.setresgid(self.uid, self.uid, self.uid)
            posix.setresuid(self.uid, self.uid, self.uid)
        if self.uid == 0 or posix.getresuid() != (self.uid,) * 3:
            raise Refused(IDENTITY, f"the user ids are {posix.getresuid()} where {self.uid} was expected")
        if posix.access("/" if self.level == "chroot" else self.tree, posix.W_OK):
            raise Refused(
                IDENTITY,
                f"the tree can be written by uid {self.uid}",
                "the tree must belong to another user than the one that runs code in it",
            )

    def keep_set_id(self) -> None:
        """What a zygote is left with: a user of its own, who may become another one, and no more."""
        self._drop_bounding_set()
        kept = 0
        if posix.getuid() == 0:
            posix.setgroups([])
            posix.setresgid(self.uid, self.uid, self.uid)
            kernel.prctl(kernel.PR_SET_KEEPCAPS, 1)
            posix.setresuid(self.uid, self.uid, self.uid)
            kept = 1 << kernel.CAP_SETUID | 1 << kernel.CAP_SETGID
            self.sets_identity = True
        kernel.clear_ambient()
        kernel.set_capabilities(kept)
        if kernel.capabilities() != (kept, kept, 0):
            raise Refused(CAPABILITIES, "other capabilities are left after capset")

    def protect_tree(self) -> None:
        # Modules of `warm:` could become root by CAP_SETUID, and root owns the tree.
        if version := landlock.abi():
            landlock.protect(version, "/" if self.level == "chroot" else self.tree, "/tmp")  # noqa: S108

    def enter_scratch(self) -> None:
        # By now as the run's user: nobody else may enter it.
        if self.scratch and not self.makes_scratch:
            posix.chdir(self.scratch)

    def _drop_bounding_set(self) -> None:
        if _has(kernel.capabilities()[0], kernel.CAP_SETPCAP):
            # Before setresuid, which takes the capability that this needs: capabilities(7).
            for capability in kernel.bounding_set():
                kernel.prctl(kernel.PR_CAPBSET_DROP, capability)

    def give_up_capabilities(self) -> None:
        kernel.clear_ambient()
        kernel.set_capabilities(0)
        if any(kernel.capabilities()):
            raise Refused(CAPABILITIES, "capabilities are left after capset")

    def replace_environment(self) -> None:
        environment = {
            name: bytes(bytearray(posix.environ[name]))
            for name in map(str.encode, self.env_keep)
            if name in posix.environ
        }
        environment.update((name.encode(), value.encode()) for name, value in self.env.items())
        if self.scratch:
            environment.update((name, self.scratch.encode()) for name in SCRATCH_VARIABLES)
        kernel.clear_environment()  # the container's own may hold secrets
        for name, value in environment.items():
            posix.putenv(name, value)
            posix.environ[name] = value

    def forbid_new_privileges(self) -> None:
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        # Who ends init ends the run. Like the dumpable flag, setresuid(2) resets it.
        kernel.prctl(kernel.PR_SET_PDEATHSIG, SIGKILL)
        if posix.getppid() != self.parent:
            raise Refused(INTERNAL, "init has ended")

    def confine_files(self) -> None:
        if self.level == "landlock":
            readable = landlock.NAME_SERVICE if self.network else ()
            landlock.restrict(self.landlock_abi, self.tree, self.scratch, self.network, readable)
            return
        if (version := landlock.abi()) and self.shares_uid:
            landlock.restrict(version, "/", self.scratch, True, executable=True)
        elif version >= landlock.ABI_SCOPES:
            landlock.scope()
        else:
            return
        self.landlock_abi = version

    def filter_syscalls(self) -> None:
        programs = self.policies[self.level]
        listener = seccomp.load_listening(programs.named) if self.channel else None
        if self.channel and listener is not None:
            self.channel.hand_over(listener)
            self.channel, self.naming = None, True
            return
        if self.channel:
            self.channel.close()
        seccomp.load(programs.plain)
        try:  # noqa: SIM105 - contextlib would be an import
            posix.write(2, NOT_NAMED)
        except OSError:
            pass  # nobody listens


STEPS = (
    (DESCRIPTORS, "closing inherited descriptors", Jail.close_descriptors),
    (LIMITS, "setting resource limits", Jail.set_limits),
    (PRIVILEGES, "choosing the privilege level", Jail.choose_level),
    (NAMESPACES, "leaving the container's namespaces", Jail.leave_namespaces),
    (SCRATCH, "making the private scratch folder", Jail.make_scratch),
    (CHROOT, "chroot", Jail.change_root),
    (IDENTITY, "giving up user and groups", Jail.give_up_identity),
    (CAPABILITIES, "giving up capabilities", Jail.give_up_capabilities),
    (SCRATCH, "entering the private scratch folder", Jail.enter_scratch),
    (INTERNAL, "replacing the environment", Jail.replace_environment),
    (NO_NEW_PRIVS, "setting no_new_privs", Jail.forbid_new_privileges),
    (LANDLOCK, "enforcing Landlock", Jail.confine_files),
    (SECCOMP, "loading the seccomp filter", Jail.filter_syscalls),
)

ZYGOTE_STEPS = (
    (DESCRIPTORS, "closing inherited descriptors", Jail.close_descriptors),
    (PRIVILEGES, "choosing the privilege level", Jail.choose_level),
    (NAMESPACES, "leaving the container's namespaces", Jail.leave_namespaces),
    (CHROOT, "chroot", Jail.change_root),
    (CAPABILITIES, "giving up capabilities", Jail.keep_set_id),
    (INTERNAL, "replacing the environment", Jail.replace_environment),
    (NO_NEW_PRIVS, "setting no_new_privs", Jail.forbid_new_privileges),
    (LANDLOCK, "keeping the tree from being written", Jail.protect_tree),
)
"""Before a zygote imports any module that config.yaml names."""


def _has(capabilities: int, capability: int) -> bool:
    return bool(capabilities >> capability & 1)
