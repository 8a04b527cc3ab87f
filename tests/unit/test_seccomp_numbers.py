"""Names and numbers of another architecture: counterparts, and dify-sandbox's allowed_syscalls."""

import pytest

from builder.arch import ARCHES, Arch
from builder.seccomp import Call, Request, effective_policy
from builder.seccomp.catalog import load_catalog
from builder.seccomp.syscalls import number, table

CATALOG = load_catalog()
AMD64, ARM64 = ARCHES["amd64"], ARCHES["arm64"]
BARE = ("core",)

DIFY_WITH_NUMPY = (0, 1, 3, 8, 9, 10, 11, 12, 16, 28, 35, 39, 60, 63, 102, 105, 106, 202, 204, 237, 257, 435)
"""Out of an amd64 list for NumPy: read, write, close ... setuid, setgid ... mbind, openat, clone3."""


def call(name: str, *when: str) -> Call:
    return Call(name, tuple(CATALOG.line(name, text) for text in when))


def notes(request: Request, arch: Arch = AMD64) -> list[str]:
    return list(effective_policy(request, arch).notes)


def test_each_counterpart_is_one() -> None:
    """Every key of the table is a call of amd64 that arm64 lacks; every value is a call of arm64."""
    for name, other in CATALOG.counterparts.items():
        assert number(name, AMD64) is not None, name
        assert number(name, ARM64) is None, name
        assert number(other, ARM64) is not None, other


def test_every_call_that_has_a_counterpart_is_in_the_table() -> None:
    """What else arm64 lacks is gone from every kernel, or is about amd64's processor."""
    alone = set(table(AMD64).values()) - set(table(ARM64).values()) - set(CATALOG.counterparts)
    assert alone == {
        *("arch_prctl", "get_thread_area", "set_thread_area", "modify_ldt", "iopl", "ioperm"),
        *("_sysctl", "afs_syscall", "create_module", "epoll_ctl_old", "epoll_wait_old", "get_kernel_syms"),
        *("getpmsg", "putpmsg", "query_module", "security", "sysfs", "tuxcall", "uselib", "vserver"),
    }
    assert set(table(ARM64).values()) <= set(table(AMD64).values())


def test_a_name_of_amd64_means_its_counterpart_on_arm64() -> None:
    """`open` is open on amd64; on arm64 it is openat, as the groups have that, and a note says so."""
    request = Request(BARE, (Call("open"), Call("fork")), replace=True)
    on_amd64 = effective_policy(request, AMD64)
    assert on_amd64.allowed()["open"] == ()
    assert on_amd64.allowed()["openat"] != ()
    on_arm64 = effective_policy(request, ARM64)
    assert on_arm64.allowed()["openat"] == ()
    assert len(on_arm64.allowed()["clone"]) == 3
    assert on_arm64.notes[1:] == (
        "syscalls.allow[0]: arm64 has no open: openat is allowed in its place",
        "syscalls.allow[1]: arm64 has no fork: clone is allowed in its place",
    )
    assert len(on_amd64.notes) == 1


def test_conditions_follow_their_arguments_to_the_counterpart() -> None:
    """open's flags are its second argument and openat's third."""
    request = Request(BARE, (call("open", "flags == O_WRONLY"), call("chmod", "arg1 == 0o600")), replace=True)
    allowed = effective_policy(request, ARM64).allowed()
    assert [one.argument for one in allowed["openat"][-1].conditions] == [2]
    assert allowed["openat"][-1].text == "flags == O_WRONLY"
    assert [one.argument for one in allowed["fchmodat"][-1].conditions] == [2]


def test_conditions_that_do_not_fit_leave_the_call_closed() -> None:
    """A condition on an argument that the counterpart lacks would open too much without it."""
    request = Request(BARE, (call("mkdir", "arg3 == 1"), call("link", "arg0 == NULL")), replace=True)
    made = effective_policy(request, ARM64)
    assert {"mkdirat", "linkat"} & set(made.allowed()) == set()
    assert made.notes[1] == (
        "syscalls.allow[0]: arm64 has no mkdir, and its conditions do not fit mkdirat:"
        " allow that with some of its own"
    )


def test_a_call_without_a_counterpart_is_told() -> None:
    """arm64 has nothing in place of arch_prctl, and of iopl."""
    request = Request(allow=(Call("arch_prctl"),), unsafe=("iopl",))
    made = effective_policy(request, ARM64)
    assert made.notes == (
        "syscalls.allow[0]: arm64 has no arch_prctl, and nothing in its place",
        "syscalls.unsafe[0]: arm64 has no iopl",
    )
    assert made.unsafe == ()


def test_denying_a_call_that_the_architecture_lacks_is_told() -> None:
    """deny: [open] on arm64 closes nothing: whoever wrote it has to know."""
    request = Request(deny=(Call("open"), call("arch_prctl", "arg0 == 1")))
    assert notes(request, ARM64) == [
        "syscalls.deny[0]: arm64 has no open; openat, which does its work there, is another call",
        "syscalls.deny[1]: arm64 has no arch_prctl",
    ]
    assert notes(request) == []
    assert "openat" in effective_policy(request, ARM64).allowed()


def test_a_counterpart_that_is_denied_stays_closed() -> None:
    """allow: [open] with deny: [openat] is no contradiction on amd64, and on arm64 deny wins."""
    request = Request(allow=(Call("open"),), deny=(Call("openat"),))
    made = effective_policy(request, ARM64)
    assert "openat" not in made.allowed()
    assert made.notes[-1] == "syscalls.allow[0]: openat stays closed, because syscalls.deny names it"


def test_difys_list_is_an_addition() -> None:
    """Numbers of amd64 open what the policy lacked, by name; what is dangerous stays closed."""
    made = effective_policy(Request(numbers=DIFY_WITH_NUMPY), AMD64)
    assert set(effective_policy(Request(), AMD64).allowed()) < set(made.allowed())
    assert made.allowed()["mbind"] == ()
    assert made.notes == (
        "allowed_syscalls: adds to the policy: mbind (numbers of amd64)",
        "allowed_syscalls: left closed as dangerous: setuid, setgid, clone3; to open one: syscalls: {unsafe:"
        " [setuid]}",
    )
    assert "setuid" not in made.allowed()


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
@pytest.mark.parametrize(("numbers_arch", "member"), [("amd64", 237), ("arm64", 235), ("arm64", "mbind")])
def test_a_number_is_of_the_architecture_it_was_written_for(
    arch: Arch, numbers_arch: str, member: int | str
) -> None:
    """237 on amd64 and 235 on arm64 are mbind, whatever the image is built for; a name is a name."""
    made = effective_policy(Request(numbers=(member,), numbers_arch=numbers_arch), arch)
    assert made.allowed()["mbind"] == ()
    assert made.notes == (f"allowed_syscalls: adds to the policy: mbind (numbers of {numbers_arch})",)


def test_a_number_opens_a_call_as_the_groups_would() -> None:
    """fcntl (72) is already as open as any group has it; clone (56) gets its forks and no namespace."""
    made = effective_policy(Request(numbers=(72, 56)), AMD64)
    assert made.notes == ("allowed_syscalls: adds to the policy: fcntl, clone (numbers of amd64)",)
    assert len(made.allowed()["clone"]) == 3
    every = effective_policy(Request(("processes", "memfd"), numbers=(72, 56)), AMD64)
    assert every.notes == ()


def test_the_network_stays_off_whatever_the_list_says() -> None:
    """socket, connect and sendto by number: what reaches out stays closed until enable_network is true."""
    request = Request(numbers=(41, 42, 44))
    made = effective_policy(request, AMD64)
    assert {"socket", "connect"} & set(made.allowed()) == set()
    assert [line.text for line in made.allowed()["sendto"]] == ["address == NULL"]
    assert made.notes == (
        "allowed_syscalls: left closed while the network is off: socket, connect; to open it: enable_network:"
        " true",
    )
    assert notes(Request(numbers=(41, 42, 44), network=True)) == []


def test_what_network_allow_shuts_stays_shut_whatever_the_list_says() -> None:
    """socket, connect, bind, listen and accept by number, beside sendto."""
    request = Request(numbers=(41, 42, 44, 49, 50, 43), network=True, listed=True)
    made = effective_policy(request, AMD64)
    assert not {"socket", "connect", "bind", "listen", "accept"} & set(made.allowed())
    assert [line.text for line in made.allowed()["sendto"]] == ["address == NULL"]
    assert made.notes == (
        "allowed_syscalls: left closed, since network.allow leaves nothing but connections to what it lists: "
        "socket, connect, bind, listen, accept",
    )


def test_what_the_list_cannot_open_is_told() -> None:
    """Numbers beyond the table, denied calls, calls that the architecture lacks: one note for each kind."""
    request = Request(numbers=(600, 335, 999, 158, 63, 83, 2, 4), deny=(Call("uname"),))
    assert notes(request) == [
        "allowed_syscalls: adds to the policy: arch_prctl (numbers of amd64)",
        "allowed_syscalls: amd64 has no call with the number 600, 335, 999",
        "allowed_syscalls: left closed by syscalls.deny: uname",
    ]
    assert notes(request, ARM64) == [
        "allowed_syscalls: arm64 has no mkdir, open, stat; allowed in its place: mkdirat, openat, newfstatat",
        "allowed_syscalls: arm64 has no arch_prctl, and nothing in its place",
        "allowed_syscalls: amd64 has no call with the number 600, 335, 999",
        "allowed_syscalls: left closed by syscalls.deny: uname",
    ]


def test_unsafe_opens_what_the_list_does_not() -> None:
    """A dangerous number that unsafe names too is open, by unsafe."""
    made = effective_policy(Request(numbers=(101,), unsafe=("ptrace",)), AMD64)
    assert made.allowed()["ptrace"] == ()
    assert [note.split(":")[0] for note in made.notes] == ["syscalls.unsafe[0]"]


@pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)
def test_the_pasted_list_of_everything_opens_nothing_dangerous(arch: Arch) -> None:
    """0 to 500, as people paste it: no dangerous call, no network, no guarded argument."""
    made = effective_policy(Request(numbers=tuple(range(501))), arch)
    allowed = made.allowed()
    assert not [name for name in allowed if CATALOG.danger(name)]
    assert {"socket", "connect", "bind"} & set(allowed) == set()
    assert allowed["ioctl"] == effective_policy(Request(), arch).allowed()["ioctl"]
    assert "mlock" in allowed
    assert [note.split(" ")[1] for note in made.notes[-3:]] == ["amd64", "left", "left"]
