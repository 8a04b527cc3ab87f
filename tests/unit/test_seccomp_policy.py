"""The catalog of system calls, and what config.yaml makes of it."""

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.resources import files

import pytest
import yaml

from builder.errors import ConfigError
from builder.seccomp import default_groups, effective_policy, for_landlock, load_groups
from builder.seccomp.catalog import load_catalog, parse_catalog
from builder.seccomp.syscalls import known_names

TEXT = (files("images") / "python" / "seccomp.yaml").read_text()
EVERY_GROUP = tuple(load_groups())
MINIMAL = (
    "{constants: {}, default: [], enosys: {}, kill: {}, landlock: {}, refused: {},"
    " groups: {g: {risk: r, calls: {x: {reason: r, args: [a, b], when: %s}}}}}"
)


def problems(
    groups: Sequence[str] = ("core",), allow: Sequence[str] = (), deny: Sequence[str] = ()
) -> list[tuple[str, str | None]]:
    with pytest.raises(ConfigError) as caught:
        effective_policy(groups, allow, deny)
    return caught.value.problems


def test_each_name_in_the_catalog_is_a_system_call() -> None:
    """A misspelt name would be a rule that never matches: each is known on one of the two architectures."""
    catalog = load_catalog()
    names = {rule.name for group in catalog.groups.values() for rule in group.rules}
    names |= {rule.name for rule in (*catalog.enosys, *catalog.kill)} | set(catalog.refused)
    assert names - known_names() == set()


def test_nothing_that_is_closed_is_in_a_group() -> None:
    """What is killed, refused or answered ENOSYS cannot be opened by naming a group."""
    catalog = load_catalog()
    grouped = {rule.name for group in catalog.groups.values() for rule in group.rules}
    killed = {rule.name for rule in catalog.kill}
    assert grouped & (killed | set(catalog.refused) | {rule.name for rule in catalog.enosys}) == set()
    assert killed & {rule.name for rule in catalog.enosys} == set()


def test_each_call_and_group_has_its_reason_in_one_line() -> None:
    """No rule of the catalog stands without a reason."""
    catalog = load_catalog()
    reasons = [group.risk for group in catalog.groups.values()] + list(catalog.refused.values())
    for rules in (catalog.enosys, catalog.kill, *(group.rules for group in catalog.groups.values())):
        reasons += [rule.reason for rule in rules]
    assert all(reason.strip() and "\n" not in reason for reason in reasons)


def test_the_catalog_has_no_key_twice_and_no_idle_constant() -> None:
    """YAML keeps the last of two equal keys in silence, and a constant without use misleads its reader."""

    def walk(node: yaml.Node) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            assert len(keys) == len(set(keys)), f"twice the same key after {node.start_mark}"
            for _, value in node.value:
                walk(value)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                walk(value)

    root = yaml.compose(TEXT, Loader=yaml.SafeLoader)
    assert root is not None
    walk(root)
    body = TEXT[TEXT.index("groups:\n\n") :]
    assert [name for name in yaml.safe_load(TEXT)["constants"] if not re.search(rf"\b{name}\b", body)] == []


@pytest.mark.parametrize(
    "when",
    ["['a > 1']", "['c == 1']", "['a & 0x10 == 0x01']", "['a == NO_SUCH_CONSTANT']", "[]"],
)
def test_a_condition_that_says_nothing_is_not_taken(when: str) -> None:
    """A condition that cannot be read, can never hold, or is absent where it was promised stops the build."""
    with pytest.raises(ValueError):  # noqa: PT011 - tuple.index, int and ours: which of them does not matter
        parse_catalog(MINIMAL % when)


def test_an_int_is_compared_by_its_low_half_and_a_pointer_whole() -> None:
    """The kernel ignores the high half of an int; NULL in the low half alone is not NULL."""
    (rule,) = parse_catalog(MINIMAL % "['a == 5 and b == NULL']").groups["g"].rules
    number, pointer = rule.when[0].conditions
    assert number.holds([5 | 1 << 32, 0])
    assert pointer.holds([0, 0])
    assert not pointer.holds([0, 1 << 32])


def test_the_default_groups_open_neither_network_nor_processes() -> None:
    """A config that names no group gets none of: sockets, forks, exec, signals to others."""
    allowed = effective_policy(default_groups()).allowed()
    assert {"socket", "connect", "fork", "vfork", "execve", "kill", "memfd_create"} & set(allowed) == set()
    assert [line.text for line in allowed["clone"]] == ["flags & NOT_THREAD_IDS == THREAD_FLAGS"]


def test_a_group_adds_to_the_conditions_of_another() -> None:
    """core opens files for reading, the group files without a condition: then there is none."""
    assert effective_policy(["core"]).allowed()["openat"]
    assert effective_policy(["core", "files"]).allowed()["openat"] == ()
    assert len(effective_policy(["core", "threads"]).allowed()["tgkill"]) == 3


def test_allow_opens_a_call_as_the_groups_would() -> None:
    """`allow: [socket]` is TCP and UDP, not every driver of the kernel; a call of no group opens whole."""
    allowed = effective_policy(["core"], allow=["socket", "mlock"]).allowed()
    assert len(allowed["socket"]) == 8
    assert allowed["mlock"] == ()
    assert "connect" not in allowed


def test_allow_takes_a_call_out_of_enosys() -> None:
    """A call has one answer: openat2 that is allowed is not answered ENOSYS."""
    policy = effective_policy(["core"], allow=["openat2"])
    assert "openat2" in policy.allowed()
    assert "openat2" not in {rule.name for rule in policy.enosys}


def test_deny_takes_a_call_out_of_every_group() -> None:
    """A denied call is not allowed, whichever groups have it."""
    policy = effective_policy(EVERY_GROUP, deny=["rseq", "uname"])
    assert {"rseq", "uname"} & set(policy.allowed()) == set()
    assert policy.denied == ("rseq", "uname")


def test_order_and_repetition_do_not_matter() -> None:
    """The same names in another order, or twice, are the same policy."""
    one = effective_policy(["core", "files"], ["mlock", "mbind"], ["uname", "times"])
    other = effective_policy(["files", "core", "core"], ["mbind", "mlock", "mbind"], ["times", "uname"])
    assert one == other


def test_a_name_of_one_architecture_is_taken() -> None:
    """`open` is a call on amd64 alone, and no mistake."""
    assert "open" in effective_policy([], allow=["open"]).allowed()


def test_every_mistake_is_told_at_once() -> None:
    """Unknown groups and calls and contradictions come in one error, each with its place and hint."""
    assert problems(["core", "flies"], ["mlock", "mbind", "mbnd", "OPENAT"], ["mbind", "nonsense", "12"]) == [
        ('syscalls.groups[1]: no group named "flies"', 'did you mean "files"?'),
        ('syscalls.allow[2]: no system call named "mbnd" on amd64 or arm64', 'did you mean "mbind"?'),
        ('syscalls.allow[3]: no system call named "OPENAT" on amd64 or arm64', 'did you mean "openat"?'),
        ('syscalls.deny[0]: "mbind" is in syscalls.allow[1] too', "take it out of one of the two"),
        ('syscalls.deny[1]: no system call named "nonsense" on amd64 or arm64', None),
        (
            'syscalls.deny[2]: no system call named "12" on amd64 or arm64',
            "give the name of the call: its number is another one on each architecture",
        ),
    ]


def test_a_group_like_no_other_gets_the_list() -> None:
    """Where no group has a similar name, the hint names them all."""
    assert problems(["xyz"]) == [
        ('syscalls.groups[0]: no group named "xyz"', "the groups are " + ", ".join(EVERY_GROUP))
    ]


@pytest.mark.parametrize("name", ["", "a\nb", "é", "x" * 10_000, '"'])
def test_any_text_is_refused_in_one_short_line(name: str) -> None:
    """Whatever stands in the config's place of a name, the message is one line that fits a screen."""
    ((message, _),) = problems(allow=[name])
    assert message.startswith("syscalls.allow[0]: no system call named ")
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "name",
    [
        *("setuid", "setgid", "setgroups", "setresuid", "setresgid", "setfsuid", "capset"),
        *("chroot", "pivot_root", "unshare", "setns", "seccomp", "mount", "umount2", "fsopen", "move_mount"),
        *("landlock_create_ruleset", "landlock_restrict_self", "execveat", "clone3", "io_uring_setup"),
        *("ptrace", "process_vm_readv", "bpf", "userfaultfd", "open_by_handle_at", "kexec_load"),
    ],
)
def test_no_config_opens_set_up_calls_and_attacks(name: str) -> None:
    """Naming one under syscalls.allow is an error, with the reason for a hint."""
    ((message, hint),) = problems(allow=[name])
    assert message == f'syscalls.allow[0]: "{name}" cannot be allowed'
    assert hint
    assert "as setuid" not in hint


def test_a_machine_without_libseccomp_gets_the_apt_line() -> None:
    """The library's absence, which ctypes finds out, comes out as ToolMissing with what to install."""
    program = (
        "import ctypes.util; found = ctypes.util.find_library\n"
        "ctypes.util.find_library = lambda name: None if name == 'seccomp' else found(name)\n"
        "from builder.errors import ToolMissing\n"
        "from builder.seccomp import effective_policy\n"
        "try: effective_policy(['core'], allow=['mbind'])\n"
        "except ToolMissing as error: print(error.exit_code, error.hint)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("3 apt-get install --no-install-recommends libseccomp2\n", "")


def test_under_landlock_what_it_passes_by_is_denied() -> None:
    """The policy of that level has no call that changes a file by its path and escapes Landlock's rules."""
    policy = effective_policy(default_groups())
    taken = set(policy.allowed()) - set(for_landlock(policy).allowed())
    assert taken == {"chmod", "fchmodat", "utime", "utimes", "futimesat", "utimensat", "truncate"}
