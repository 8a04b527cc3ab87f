"""A policy as a label: small, whole, read back exactly, and refused when it is not ours."""

import json
from dataclasses import replace

import pytest

from builder.arch import ARCHES, Arch
from builder.errors import UsageError
from builder.seccomp import Call, Request, effective_policy, load_groups
from builder.seccomp.catalog import load_catalog
from builder.seccomp.snapshot import ALLOW, DENY, ENOSYS, KILL, Snapshot, from_json, to_json
from builder.seccomp.syscalls import number

AMD64 = ARCHES["amd64"]
CATALOG = load_catalog()
REQUESTS = {
    "default": Request(),
    "every-group": Request(tuple(load_groups()), network=True),
    "edited": Request(
        allow=(Call("mlock"), Call("ioctl", (CATALOG.line("ioctl", "request == 0x5410"),))),
        deny=(Call("uname"), Call("madvise", (CATALOG.line("madvise", "advice == 14"),))),
        unsafe=("ptrace",),
        on_denied="kill",
    ),
}

both_arches = pytest.mark.parametrize("arch", ARCHES.values(), ids=ARCHES)


def snapshot(request: Request, arch: Arch = AMD64) -> Snapshot:
    return Snapshot.of(effective_policy(request, arch), arch)


@both_arches
@pytest.mark.parametrize("name", REQUESTS)
def test_the_label_is_read_back_as_it_was(name: str, arch: Arch) -> None:
    """What is written into a label and read again is the same policy, and small."""
    text = to_json(effective_policy(REQUESTS[name], arch), arch)
    assert from_json(text) == snapshot(REQUESTS[name], arch)
    assert "\n" not in text
    assert len(text) < (6000 if name == "default" else 12000)


@both_arches
def test_the_same_policy_is_the_same_label(arch: Arch) -> None:
    """The order in which a config names things does not show."""
    one = Request(allow=(Call("mlock"), Call("mincore")), deny=(Call("uname"), Call("times")))
    other = Request(allow=(Call("mincore"), Call("mlock")), deny=(Call("times"), Call("uname")))
    assert to_json(effective_policy(one, arch), arch) == to_json(effective_policy(other, arch), arch)


def test_what_the_config_decided_by_itself_is_in_it() -> None:
    """Calls that a line of the config opened or took away are told from those of groups."""
    found = snapshot(REQUESTS["edited"])
    assert found.own == ("ioctl", "mlock", "ptrace")
    assert found.denied == ("madvise", "uname")
    assert found.unsafe == ("ptrace",)
    assert found.on_denied == "kill"
    assert snapshot(Request()).own == ()


def test_answers() -> None:
    """A call is allowed, denied, absent or killed as its name, arguments and number say."""
    found = snapshot(REQUESTS["edited"])

    def answer(name: str, *arguments: int) -> str:
        call = number(name, AMD64)
        assert call is not None
        return found.answer(call, arguments)

    assert answer("read") == answer("mlock") == answer("ptrace") == ALLOW
    assert answer("ioctl", 0, 0x5410) == answer("ioctl", 0, 0x7_0000_5410) == ALLOW
    assert answer("ioctl", 0, 0x5412) == answer("uname") == answer("madvise", 0, 0, 14) == DENY
    assert answer("madvise", 0, 0, 15) == ALLOW
    assert answer("clone3") == ENOSYS
    assert answer("bpf") == KILL
    assert found.answer(found.newest + 1) == found.answer(0x3FFF_FFFF) == ENOSYS
    assert found.answer(0x4000_0000) == found.answer(-1) == KILL
    assert found.answer(334 + 60) == DENY  # between the tables: a number that nobody has


def test_level_landlock_denies_more() -> None:
    """What Landlock does not govern is denied there, and nothing else changes."""
    found = snapshot(Request())
    narrower = found.at_landlock()
    assert set(found.allow) - set(narrower.allow) == {"chmod", "fchmodat", "truncate"} | {
        *("utime", "utimes", "futimesat", "utimensat")
    }
    assert replace(narrower, allow=found.allow) == found


GOOD = json.loads(to_json(effective_policy(Request(), AMD64), AMD64))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{" * 100_000,
        json.dumps(GOOD | {"format": 2}),
        json.dumps(GOOD | {"arch": "mips"}),
        json.dumps(GOOD | {"always": ["read"]}),
        json.dumps({key: value for key, value in GOOD.items() if key != "kill"}),
        json.dumps(GOOD | {"when": {"ioctl": [[[6, 1, 1]]]}}),
        json.dumps(GOOD | {"when": {"ioctl": [[[1, 1, 2]]]}}),
        json.dumps(GOOD | {"when": {"ioctl": [[[1, 5, 2]]]}}),
        json.dumps(GOOD | {"when": {"ioctl": [[[1, 1 << 64, 0]]]}}),
        json.dumps(GOOD | {"when": {"ioctl": [[[1, "1", "1"]]]}}),
        json.dumps(GOOD | {"when": {"ioctl": [7]}}),
        json.dumps(GOOD | {"when": ["ioctl"]}),
        json.dumps(GOOD | {"when": {"\x1b[31mioctl": [[[1, 1, 1]]]}}),
        json.dumps(GOOD | {"always": "read \x1b[31mwrite"}),
        json.dumps(GOOD | {"on_denied": "allow"}),
        json.dumps(GOOD | {"newest": "many"}),
    ],
)
def test_a_label_that_is_not_ours_is_refused(text: str) -> None:
    """Whatever an image's maker wrote there ends in one line and exit code 2."""
    with pytest.raises(UsageError, match="does not hold a policy that this version reads"):
        from_json(text)


def test_a_call_without_lines_is_not_read_as_always() -> None:
    """An empty list of conditions allows nothing."""
    assert "mlock" not in from_json(json.dumps(GOOD | {"when": {"mlock": []}})).allow
