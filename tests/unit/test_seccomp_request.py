"""What a config may ask of the policy: each mistake, with its place and its hint."""

import pytest

from builder.arch import ARCHES
from builder.errors import ConfigError
from builder.seccomp import Call, Request, effective_policy, load_groups
from builder.seccomp.catalog import load_catalog
from builder.seccomp.request import request_repeats

CATALOG = load_catalog()
AMD64 = ARCHES["amd64"]
TAKE_OUT = "take it out of one of the two"
NETWORK = "enable_network: true opens the network; or take this out"
LISTED = "network.allow leaves nothing but connections to what it lists"
UNLIST = "network: {allow: []} opens the whole network; or take this out"


def call(name: str, *when: str) -> Call:
    return Call(name, tuple(CATALOG.line(name, text) for text in when))


def calls(*names: str) -> tuple[Call, ...]:
    return tuple(Call(name) for name in names)


def problems(request: Request) -> list[tuple[str, str | None]]:
    with pytest.raises(ConfigError) as caught:
        effective_policy(request, AMD64)
    return caught.value.problems


def test_every_mistake_is_told_at_once() -> None:
    """Unknown groups and calls and contradictions come in one error, each with its place and hint."""
    request = Request(
        groups=("core", "flies"),
        allow=calls("mlock", "mbind", "mbnd", "OPENAT"),
        deny=calls("mbind", "nonsense", "12"),
        unsafe=("ptrcae", "mlock"),
        numbers=("reed",),
    )
    nothing = 'no system call named "{}" on amd64 or arm64'
    assert problems(request) == [
        ('syscalls.groups[1]: no group named "flies"', 'did you mean "files"?'),
        (f"syscalls.allow[2]: {nothing.format('mbnd')}", 'did you mean "mbind"?'),
        (f"syscalls.allow[3]: {nothing.format('OPENAT')}", 'did you mean "openat"?'),
        (f"syscalls.deny[1]: {nothing.format('nonsense')}", None),
        (
            f"syscalls.deny[2]: {nothing.format('12')}",
            "give the name of the call: its number is another one on each architecture",
        ),
        (f"syscalls.unsafe[0]: {nothing.format('ptrcae')}", 'did you mean "ptrace"?'),
        (f"allowed_syscalls[0]: {nothing.format('reed')}", 'did you mean "read"?'),
        ('syscalls.deny[0]: "mbind" is in syscalls.allow[1] too', TAKE_OUT),
        ('syscalls.unsafe[1]: "mlock" is not dangerous', "syscalls: {allow: [mlock]} is enough"),
    ]


def test_a_group_like_no_other_gets_the_list() -> None:
    """Where no group has a similar name, the hint names them all."""
    hint = "the groups are " + ", ".join(load_groups())
    assert problems(Request(("xyz",))) == [('syscalls.groups[0]: no group named "xyz"', hint)]


@pytest.mark.parametrize("name", ["", "a\nb", "é", "x" * 10_000, '"'])
def test_any_text_is_refused_in_one_short_line(name: str) -> None:
    """Whatever stands in the config's place of a name, the message is one line that fits a screen."""
    ((message, _),) = problems(Request(allow=(Call(name),)))
    assert message.startswith("syscalls.allow[0]: no system call named ")
    assert "\n" not in message
    assert len(message) < 200


def test_the_network_stays_off() -> None:
    """Neither the group nor a call that only it has opens the network beside enable_network: false."""
    request = Request(("network",), calls("socket", "connect", "sendto"))
    assert problems(request) == [
        ("syscalls.groups[0]: the network is off, and this group would open it", NETWORK),
        ('syscalls.allow[0]: the network is off, and "socket" would open it', NETWORK),
        ('syscalls.allow[1]: the network is off, and "connect" would open it', NETWORK),
    ]
    opened = effective_policy(Request(("network",), calls("socket", "connect"), network=True), AMD64)
    assert {"socket", "connect"} <= set(opened.allowed())


def test_a_call_that_the_network_shares_is_opened_as_without_it() -> None:
    """`allow: [sendto]` beside enable_network: false is what the other groups open: no address."""
    off = effective_policy(Request(("core",), calls("sendto"), replace=True), AMD64)
    on = effective_policy(Request(("core",), calls("sendto"), replace=True, network=True), AMD64)
    assert [line.text for line in off.allowed()["sendto"]] == ["address == NULL"]
    assert on.allowed()["sendto"] == ()


@pytest.mark.parametrize(
    "when", ["family == AF_INET", "type == SOCK_STREAM", "family & 2 == 2", "arg0 == 16"]
)
def test_conditions_open_no_socket_but_unix_while_the_network_is_off(when: str) -> None:
    """A condition of `socket` has to tie the family to AF_UNIX."""
    ((message, hint),) = problems(Request(allow=(call("socket", "family == AF_UNIX", when),)))
    assert message == "syscalls.allow[0].socket.when[1]: the network is off, and this would open it"
    assert "family == AF_UNIX" in str(hint)
    effective_policy(Request(allow=(call("socket", when),), network=True), AMD64)


def test_a_list_leaves_no_way_to_connect() -> None:
    """Beside network.allow neither the whole group nor a call that only it has can be named."""
    request = Request(("network",), calls("bind", "accept4", "connect"), network=True, listed=True)
    assert problems(request) == [
        (f"syscalls.groups[0]: {LISTED}, and this group would open more", UNLIST),
        (f'syscalls.allow[0]: {LISTED}, and "bind" would open more', UNLIST),
        (f'syscalls.allow[1]: {LISTED}, and "accept4" would open more', UNLIST),
        (f'syscalls.allow[2]: {LISTED}, and "connect" would open more', UNLIST),
    ]
    with_condition = Request(allow=(call("listen", "arg0 == 3"),), network=True, listed=True)
    assert problems(with_condition) == [
        (f'syscalls.allow[0]: {LISTED}, and "listen" would open more', UNLIST)
    ]
    effective_policy(Request(("network",), calls("bind", "accept4", "connect"), network=True), AMD64)


def test_a_call_that_is_named_beside_a_list_is_opened_as_the_list_has_it() -> None:
    """`allow: [sendmsg, sendto, setsockopt]` opens no way to connect besides."""
    named = calls("sendmsg", "sendto", "setsockopt")
    made = effective_policy(Request(allow=named, network=True, listed=True), AMD64)
    plain = effective_policy(Request(network=True, listed=True), AMD64)
    assert plain.groups == ("core", "threads", "files", "async", "network_client")
    for name in ("sendmsg", "sendto", "setsockopt"):
        assert {line.text for line in made.allowed()[name]} == {line.text for line in plain.allowed()[name]}
    shut = {"socket", "connect", "bind", "listen", "accept", "accept4", "sendmmsg", "recvmmsg"}
    assert not shut & set(made.allowed())
    whole = effective_policy(Request(network=True), AMD64)
    assert shut <= set(whole.allowed())
    assert whole.allowed()["sendto"] == ()


@pytest.mark.parametrize("when", ["family == AF_INET", "family == AF_UNIX", "type == SOCK_STREAM"])
def test_conditions_open_no_socket_beside_a_list(when: str) -> None:
    """Not even a local one: what answers connect(2) answers for TCP."""
    request = Request(allow=(call("socket", when),), network=True, listed=True)
    assert problems(request) == [(f'syscalls.allow[0]: {LISTED}, and "socket" would open more', UNLIST)]
    effective_policy(Request(allow=(call("socket", when),), network=True), AMD64)


def test_nothing_is_let_through_beside_a_list() -> None:
    """on_denied: log would have the kernel connect wherever the code wants."""
    request = Request(network=True, listed=True, on_denied="log")
    assert problems(request) == [
        (
            f"syscalls.on_denied: {LISTED}, and log lets every connection through",
            "errno or kill; or network: {allow: []}",
        )
    ]
    effective_policy(Request(network=True, listed=True, on_denied="kill"), AMD64)
    effective_policy(Request(network=True, on_denied="log"), AMD64)


def test_the_part_of_the_network_stays_off_too() -> None:
    """Nothing but enable_network opens it."""
    where = "syscalls.groups[0]: the network is off, and this group would open it"
    assert problems(Request(("network_client",))) == [(where, NETWORK)]
    effective_policy(Request(("network_client",), network=True), AMD64)


def test_a_unix_socket_may_be_opened_while_the_network_is_off() -> None:
    """family == AF_UNIX stays on the machine."""
    made = effective_policy(Request(allow=(call("socket", "family == AF_UNIX and type == 1"),)), AMD64)
    assert [line.text for line in made.allowed()["socket"]] == ["family == AF_UNIX and type == 1"]


@pytest.mark.parametrize(
    ("name", "when", "shut"),
    [
        ("clone", "flags & CLONE_NEWUSER == CLONE_NEWUSER", "flags & CLONE_NEWUSER == CLONE_NEWUSER"),
        ("clone", "flags & 0xff == SIGCHLD", "flags & CLONE_NEWUSER == CLONE_NEWUSER"),
        ("ioctl", "request == 0x5412", "request == TIOCSTI"),
        ("ioctl", "fd == 0", "request == TIOCSTI"),
        ("prctl", "option == 22", "option == PR_SET_SECCOMP"),
        ("exit", "code == 210", "code & 0xf0 == 0xd0"),
        ("exit_group", "code & 1 == 0", "code & 0xf0 == 0xd0"),
    ],
)
def test_conditions_do_not_open_guarded_arguments(name: str, when: str, shut: str) -> None:
    """New namespaces, typing into the terminal and the runtime's exit codes stay shut to `when`."""
    ((message, hint),) = problems(Request(allow=(call(name, when),)))
    assert message == f"syscalls.allow[0].{name}.when[0]: this would open {name} with {shut}"
    assert str(hint).endswith(f"what `{shut.split()[0]}` must be, so that it leaves this out")


def test_conditions_beside_guarded_arguments_are_taken() -> None:
    """A fork without any other flag, and a harmless request, are no one's namespace."""
    allow = (call("clone", "flags == SIGCHLD"), call("ioctl", "request == TIOCOUTQ"))
    effective_policy(Request(allow=allow), AMD64)


def test_denying_what_is_allowed_is_a_contradiction() -> None:
    """The same call in two lists, or a condition that takes out all of another, is an error."""
    request = Request(
        allow=(call("mbind", "mode == 1"), *calls("tee", "mlock")),
        deny=(
            call("mbind", "mode & 1 == 1", "mode == 2"),
            *(call("tee"), call("ptrace"), call("mlock", "arg0 == 5")),
        ),
        unsafe=("ptrace",),
    )
    hint = "take the condition out of one of the two"
    assert problems(request) == [
        ("syscalls.deny[0].mbind.when[0]: syscalls.allow[0] allows just that", hint),
        ('syscalls.deny[1]: "tee" is in syscalls.allow[1] too', TAKE_OUT),
        ('syscalls.deny[2]: "ptrace" is in syscalls.unsafe[0] too', TAKE_OUT),
    ]


def test_what_stands_twice_is_told_and_does_no_harm() -> None:
    """Repeated groups, calls and numbers are one sentence each; other conditions are no repetition."""
    request = Request(
        groups=("exec", "files", "exec"),
        allow=(call("mbind", "mode == 1"), call("mbind", "arg2 == 1"), call("mbind", "mode == 2")),
        deny=calls("uname", "uname"),
        unsafe=("bpf", "bpf"),
        numbers=(1, 2, 1, "read", "read", 1),
    )
    assert request_repeats(request) == [
        (("syscalls", "groups", 2), '"exec" is syscalls.groups[0] already'),
        (("syscalls", "allow", 1), '"mbind" is syscalls.allow[0] already'),
        (("syscalls", "deny", 1), '"uname" is syscalls.deny[0] already'),
        (("syscalls", "unsafe", 1), '"bpf" is syscalls.unsafe[0] already'),
        (("allowed_syscalls",), "named more than once: 1, read"),
    ]
    effective_policy(request, AMD64)
