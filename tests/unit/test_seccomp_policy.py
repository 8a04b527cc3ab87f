"""The catalog of system calls, and what config.yaml makes of it."""

import re
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files

import pytest
import yaml

from builder.arch import ARCHES, Arch
from builder.errors import ConfigError
from builder.seccomp import Call, Policy, Request, effective_policy, for_landlock, load_groups
from builder.seccomp.catalog import load_catalog, parse_catalog
from builder.seccomp.conditions import meet
from builder.seccomp.request import OnDenied
from builder.seccomp.syscalls import known_names

TEXT = (files("images") / "python" / "seccomp.yaml").read_text()
EVERY_GROUP = tuple(load_groups())
MINIMAL = (
    "{constants: {}, offered: {}, arguments: {}, counterparts: {}, guarded: {}, default: [], enosys: {},"
    " kill: {}, landlock: {}, refused: {},"
    " groups: {g: {risk: r, calls: {x: {reason: r, args: [a, b], when: %s}}}}}"
)


CATALOG = load_catalog()
AMD64 = ARCHES["amd64"]
DANGEROUS = [*(rule.name for rule in CATALOG.kill), *CATALOG.refused]


def call(name: str, *when: str) -> Call:
    return Call(name, tuple(CATALOG.line(name, text) for text in when))


def calls(*names: str) -> tuple[Call, ...]:
    return tuple(Call(name) for name in names)


def policy(*groups: str, arch: Arch = AMD64, network: bool = False, allow: tuple[Call, ...] = ()) -> Policy:
    """That of exactly these groups."""
    return effective_policy(Request(groups, allow, network=network, replace=True), arch)


def problems(request: Request) -> list[tuple[str, str | None]]:
    with pytest.raises(ConfigError) as caught:
        effective_policy(request, AMD64)
    return caught.value.problems


def test_each_name_in_the_catalog_is_a_system_call() -> None:
    """A misspelt name would be a rule that never matches: each is known on one of the two architectures."""
    catalog = load_catalog()
    names = {rule.name for group in catalog.groups.values() for rule in group.rules}
    names |= {rule.name for rule in (*catalog.enosys, *catalog.kill, *catalog.guarded)}
    names |= {*catalog.refused, *catalog.landlock, *catalog.arguments}
    assert names - known_names() == set()


def test_nothing_that_is_closed_is_in_a_group() -> None:
    """What is killed or refused cannot be opened by naming a group, nor by default what gets ENOSYS."""
    grouped = {rule.name: group.name for group in CATALOG.groups.values() for rule in group.rules}
    assert set(DANGEROUS) & set(grouped) == set()
    fallbacks = {rule.name for rule in CATALOG.enosys}
    assert {grouped[name] for name in fallbacks & set(grouped)} & set(CATALOG.default) == set()
    assert {rule.name for rule in CATALOG.kill} & fallbacks == set()


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_a_call_has_one_answer(arch: Arch) -> None:
    """Whatever a config opens, no call is both allowed and killed or answered ENOSYS."""
    for request in (Request(), Request(EVERY_GROUP, network=True, unsafe=tuple(DANGEROUS))):
        made = effective_policy(request, arch)
        closed = [rule.name for rule in (*made.enosys, *made.kill)]
        assert set(closed) & set(made.allowed()) == set()
        assert len(closed) == len(set(closed))


def test_each_call_and_group_has_its_reason_in_one_line() -> None:
    """No rule of the catalog stands without a reason."""
    catalog = load_catalog()
    reasons = [group.risk for group in catalog.groups.values()] + list(catalog.refused.values())
    for rules in (catalog.enosys, catalog.kill, *(group.rules for group in catalog.groups.values())):
        reasons += [rule.reason for rule in rules]
    assert all(reason.strip() and "\n" not in reason for reason in reasons)


def test_no_group_opens_guarded_arguments() -> None:
    """What no condition of a config may open, no condition of a group opens either."""
    guarded = {rule.name: rule.when for rule in CATALOG.guarded}
    rules = [rule for group in CATALOG.groups.values() for rule in group.rules if rule.name in guarded]
    assert {rule.name for rule in rules} == set(guarded)
    for rule in rules:
        assert rule.when
        assert not any(meet(line, shut) for line in rule.when for shut in guarded[rule.name])


def test_a_call_has_one_order_of_arguments() -> None:
    """Two rules of one call, and the table of arguments, agree on what its arguments are called."""
    raw = yaml.safe_load(TEXT)
    for group in [raw["guarded"], *(group["calls"] for group in raw["groups"].values())]:
        for name, spec in group.items():
            if not isinstance(spec, str):
                mine, known = tuple(spec["args"]), CATALOG.arguments[name]
                assert mine[: len(known)] == known[: len(mine)], name


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


@pytest.mark.parametrize("when", ["['a > 1']", "['a == NO_SUCH_CONSTANT']", "[]"])
def test_a_condition_that_says_nothing_is_not_taken(when: str) -> None:
    """A condition that cannot be read, or is absent where it was promised, stops the build."""
    with pytest.raises(ValueError, match=r"is not a condition|no constant|is empty"):
        parse_catalog(MINIMAL % when)


def test_the_default_groups_open_neither_network_nor_processes() -> None:
    """A config that names no group gets none of: sockets, forks, exec, signals to others."""
    allowed = effective_policy(Request(), AMD64).allowed()
    assert {"socket", "connect", "fork", "vfork", "execve", "kill", "memfd_create"} & set(allowed) == set()
    assert [line.text for line in allowed["clone"]] == ["flags & NOT_THREAD_IDS == THREAD_FLAGS"]


def test_groups_extend_the_default_ones_and_replace_takes_their_place() -> None:
    """A group comes besides the default ones; with `replace` there are none but those named, and a note."""
    more = effective_policy(Request(("exec",)), AMD64)
    assert set(more.groups) == {*CATALOG.default, "exec"}
    assert more.notes == ()
    bare = effective_policy(Request(("core",), replace=True), AMD64)
    assert bare.groups == ("core",)
    assert bare.notes == (
        "syscalls.replace: the default groups (core, threads, files, async) are left out unless groups names"
        " them",
    )


def test_a_policy_of_nothing_is_refused() -> None:
    """Without a single call the code could not even end."""
    ((message, hint),) = problems(Request(replace=True))
    assert message.startswith("syscalls.replace: this leaves nothing that the code may do")
    assert "groups: [core]" in str(hint)


def test_a_group_adds_to_the_conditions_of_another() -> None:
    """core opens files for reading, the group files without a condition: then there is none."""
    assert policy("core").allowed()["openat"]
    assert policy("core", "files").allowed()["openat"] == ()
    assert len(policy("core", "threads").allowed()["tgkill"]) == 3


def test_allow_opens_a_call_as_the_groups_would() -> None:
    """`allow: [socket]` is TCP and UDP, not every driver of the kernel; a call of no group opens whole."""
    allowed = policy("core", network=True, allow=calls("socket", "mlock")).allowed()
    assert len(allowed["socket"]) == 8
    assert allowed["mlock"] == ()


def test_allow_with_conditions_opens_just_these() -> None:
    """The conditions are added to those of the groups in force, and nothing else of the call is."""
    allow = (call("ioctl", "request == TCSETS"), call("mbind", "mode == 1", "mode == 2"))
    allowed = policy("core", allow=allow).allowed()
    assert [line.text for line in allowed["ioctl"]][-1] == "request == TCSETS"
    assert len(allowed["ioctl"]) == len(policy("core").allowed()["ioctl"]) + 1
    assert [line.text for line in allowed["mbind"]] == ["mode == 1", "mode == 2"]


def test_each_call_has_its_source() -> None:
    """A granted call names the group or the place in the config that brought it."""
    request = Request(("core",), calls("mlock", "tee"), unsafe=("bpf",), numbers=(9, 237), replace=True)
    sources = {one.rule.name: one.source for one in effective_policy(request, AMD64).allow}
    assert sources["read"] == "core"
    assert sources["tee"] == "syscalls.allow[1]"
    assert sources["bpf"] == "syscalls.unsafe[0]"
    assert sources["mbind"] == "allowed_syscalls[1]"


def test_allow_takes_a_call_out_of_enosys() -> None:
    """A call has one answer: openat2 that is allowed is not answered ENOSYS."""
    opened = policy("core", allow=calls("openat2"))
    assert "openat2" in opened.allowed()
    assert "openat2" not in {rule.name for rule in opened.enosys}
    assert "openat2" in {rule.name for rule in policy("core").enosys}


@pytest.mark.parametrize("name", DANGEROUS)
def test_unsafe_alone_opens_dangerous_calls(name: str) -> None:
    """Under allow it is an error that names `unsafe`; under unsafe it is open, and a note says why not."""
    ((message, hint),) = problems(Request(allow=calls(name)))
    assert message == f'syscalls.allow[0]: "{name}" cannot be allowed'
    assert f"syscalls: {{unsafe: [{name}]}}" in str(hint)
    assert "dangerous: as " not in str(hint)

    opened = effective_policy(Request(unsafe=(name,)), AMD64)
    assert opened.allowed()[name] == ()
    assert opened.unsafe == (name,)
    assert name not in {rule.name for rule in (*opened.kill, *opened.enosys)}
    (note,) = opened.notes
    assert note.startswith(f"syscalls.unsafe[0]: {name} is open, which is dangerous: ")
    assert opened.allow[-1].rule.reason == CATALOG.danger(name)


def test_conditions_do_not_make_a_dangerous_call_safe() -> None:
    """`allow: [{ptrace: {when: ...}}]` is refused as `allow: [ptrace]` is."""
    ((message, _),) = problems(Request(allow=(call("ptrace", "arg0 == 0"),)))
    assert message == 'syscalls.allow[0]: "ptrace" cannot be allowed'


def test_deny_takes_a_call_out_of_every_group() -> None:
    """A denied call is not allowed, whichever groups have it."""
    request = Request(EVERY_GROUP, deny=calls("rseq", "uname"), network=True)
    made = effective_policy(request, AMD64)
    assert {"rseq", "uname"} & set(made.allowed()) == set()
    assert made.denied == ("rseq", "uname")
    assert {"rseq", "uname"} < set(effective_policy(replace(request, deny=()), AMD64).allowed())


def test_deny_with_conditions_leaves_the_rest_of_the_call() -> None:
    """The call stays allowed for other arguments, and the policy tells what was taken out of it."""
    made = effective_policy(Request(deny=(call("mmap", "prot & PROT_EXEC == PROT_EXEC"),)), AMD64)
    assert [line.text for line in made.allowed()["mmap"]] == ["prot & 0x4 == 0x0"]
    assert made.denied == ()
    assert [one.name for one in made.restricted] == ["mmap"]


def test_deny_that_leaves_nothing_of_a_call_denies_it() -> None:
    """Where every allowed argument is taken out, the call is among the denied ones."""
    every = tuple(line.text for line in policy("core").allowed()["ioctl"])
    made = effective_policy(Request(deny=(call("ioctl", *every),)), AMD64)
    assert "ioctl" not in made.allowed()
    assert (made.denied, made.restricted) == (("ioctl",), ())


def test_deny_that_takes_too_many_conditions_to_say_is_refused() -> None:
    """Scattered values of 64 bits come to more lines than a filter has room for: an error, no cut."""
    every = f"{(1 << 64) - 1:#x}"
    scattered = [f"arg0 & {every} == {value * 0x9E3779B97F4A7C15 % (1 << 64)}" for value in range(1, 9)]
    ((message, hint),) = problems(Request(deny=(call("mmap", *scattered),)))
    assert message == ("syscalls.deny[0]: more than 256 conditions would be needed to say what this leaves")
    assert hint == 'deny fewer arguments of "mmap", or the whole call'


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_order_and_repetition_do_not_matter(arch: Arch) -> None:
    """The same names in another order, or twice, allow the same."""
    one = Request(("exec", "files"), calls("mlock", "mbind"), calls("uname", "times"))
    other = Request(("files", "exec", "exec"), calls("mbind", "mlock", "mbind"), calls("times", "uname"))
    assert effective_policy(one, arch).allowed() == effective_policy(other, arch).allowed()
    assert effective_policy(one, arch).denied == effective_policy(other, arch).denied


@pytest.mark.parametrize("answer", ["errno", "kill", "log"])
def test_on_denied_arrives_in_the_policy(answer: OnDenied) -> None:
    """The config's choice is the policy's; that log lets through is told."""
    made = effective_policy(Request(on_denied=answer), AMD64)
    assert made.on_denied == answer
    assert [note.split(":")[0] for note in made.notes] == ["syscalls.on_denied"] * (answer == "log")


def test_a_machine_without_libseccomp_gets_the_apt_line() -> None:
    """The library's absence, which ctypes finds out, comes out as ToolMissing with what to install."""
    program = (
        "import ctypes.util; found = ctypes.util.find_library\n"
        "ctypes.util.find_library = lambda name: None if name == 'seccomp' else found(name)\n"
        "from builder.errors import ToolMissing\n"
        "from builder.arch import ARCHES\n"
        "from builder.seccomp import Request, effective_policy\n"
        "try: effective_policy(Request(unsafe=('bpf',)), ARCHES['amd64'])\n"
        "except ToolMissing as error: print(error.exit_code, error.hint)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("3 apt-get install --no-install-recommends libseccomp2\n", "")


def test_under_landlock_what_it_passes_by_is_denied() -> None:
    """The policy of that level has no call that changes a file by its path and escapes Landlock's rules."""
    made = effective_policy(Request(), AMD64)
    taken = set(made.allowed()) - set(for_landlock(made).allowed())
    assert taken == {"chmod", "fchmodat", "utime", "utimes", "futimesat", "utimensat", "truncate"}
