"""What one policy permits and another does not."""

import itertools
import random
import time

import pytest

from builder.arch import ARCHES, Arch
from builder.seccomp import Call, Request, effective_policy, load_groups
from builder.seccomp.catalog import load_catalog
from builder.seccomp.conditions import Condition
from builder.seccomp.diff import OWN, RISKS, UNSAFE, Change, compare, exceeds, phrase, risk
from builder.seccomp.snapshot import Conditions, Snapshot

AMD64 = ARCHES["amd64"]
CATALOG = load_catalog()


def snapshot(request: Request, arch: Arch = AMD64) -> Snapshot:
    return Snapshot.of(effective_policy(request, arch), arch)


def call(name: str, *when: str) -> Call:
    return Call(name, tuple(CATALOG.line(name, text) for text in when))


def newly(before: Request, after: Request) -> list[Change]:
    """What `after` permits, where nothing is lost by it."""
    found = compare(snapshot(before), snapshot(after))
    back = compare(snapshot(after), snapshot(before))
    assert (found.newly, found.no_longer) == (back.no_longer, back.newly)
    assert found.no_longer == ()
    return [*found.newly]


def test_equal_policies_do_not_differ() -> None:
    """Nor do two that say the same in other words."""
    assert newly(Request(), Request()) == []
    assert newly(Request(), Request(allow=(call("read"), call("ioctl", "request == 0x5413")))) == []


def test_the_same_calls_in_other_lines_are_no_difference() -> None:
    """Two lines that only together are what one was before, and the other way round."""
    one = Request(allow=(call("ioctl", "request & 0xfffffffe == 0x5410"),))
    two = Request(allow=(call("ioctl", "request == 0x5410", "request == 0x5411"),))
    assert newly(one, two) == []
    assert newly(two, one) == []


@pytest.mark.parametrize("group", sorted({*load_groups()} - {"core"}))
def test_a_group_is_what_it_newly_permits(group: str) -> None:
    """Opening a group shows its calls under its name, and closing it shows the same as lost."""
    # As small a start as can be, so that every call of the group is new.
    before = Request(groups=("core",), replace=True)
    on, listed = group.startswith("network"), group == "network_client"
    after = Request(groups=("core", group), replace=True, network=on, listed=listed)
    changes = newly(before, after)
    assert {change.group for change in changes} == {group}
    mine = {rule.name for rule in CATALOG.groups[group].rules}
    assert {change.call for change in changes} <= mine
    assert changes


def test_the_riskiest_comes_first() -> None:
    """Dangerous calls, then those of no group, then groups in the order of RISKS; names within."""
    changes = newly(
        Request(), Request(("exec", "numeric"), (call("mlock"),), unsafe=("ptrace", "chroot"), network=True)
    )
    order = [change.group for change in changes]
    assert order == sorted(order, key=RISKS.index)
    assert list(dict.fromkeys(order)) == [UNSAFE, OWN, "network", "exec", "numeric"]
    assert [change.call for change in changes[:3]] == ["chroot", "ptrace", "mlock"]
    assert changes[1].reason == "takes over another process"


def test_every_group_has_its_rank() -> None:
    """A group that is added to the catalog needs its place among the risks."""
    assert sorted(RISKS) == sorted({*load_groups(), UNSAFE, OWN})
    assert all(risk(group) for group in RISKS)


def test_only_the_new_lines_of_a_call_are_told() -> None:
    """Of a call that was allowed by argument before, what is told is what is new."""
    (change,) = newly(Request(), Request(allow=(call("ioctl", "request == 0x5413", "request == 0x5410"),)))
    assert (change.call, change.group, change.when) == ("ioctl", OWN, ("request == 0x5410",))
    changes = newly(Request(), Request(("processes",)))
    clone = next(change for change in changes if change.call == "clone")
    assert clone.when == ("flags & NOT_CHILD_IDS == SIGCHLD", "flags & NOT_CHILD_IDS == VFORK_FLAGS")


def test_conditions_that_fall_away_are_told() -> None:
    """A call that was allowed by argument and now is whatever its arguments."""
    before, after = Request(("core",), replace=True), Request(("core", "files"), replace=True)
    (change,) = (change for change in newly(before, after) if change.call == "openat")
    assert (change.group, change.when) == ("files", ())


def test_a_denial_by_argument_is_a_loss_and_no_gain() -> None:
    """deny with conditions rewrites the lines of a call; what they let through is what counts."""
    found = compare(snapshot(Request()), snapshot(Request(deny=(call("fcntl", "cmd == F_SETPIPE_SZ"),))))
    assert found.newly == ()
    (lost,) = found.no_longer
    assert (lost.call, lost.when) == ("fcntl", ("cmd == F_SETPIPE_SZ",))
    found = compare(snapshot(Request()), snapshot(Request(deny=(call("madvise", "advice == 14"),))))
    assert found.newly == ()
    assert [(one.call, one.when) for one in found.no_longer] == [("madvise", ())]


def test_letting_denied_calls_through_is_dangerous() -> None:
    """on_denied: log permits nearly everything, and says so first; the same in both is no difference."""
    log = Request(on_denied="log")
    (change,) = newly(Request(), log)
    assert (change.group, change.call) == (UNSAFE, "every call that is denied")
    assert newly(log, log) == []
    assert newly(Request(), Request(on_denied="kill")) == []
    assert compare(snapshot(Request()), snapshot(log)).notes == ("on_denied: errno becomes log",)


def test_another_architecture_is_compared_by_name() -> None:
    """Calls that one of the two lacks are left out, and the notes say which."""
    amd64, arm64 = snapshot(Request()), snapshot(Request(("numeric",)), ARCHES["arm64"])
    found = compare(amd64, arm64)
    assert {one.call for one in found.newly} == {
        "mbind",
        "get_mempolicy",
        "set_mempolicy",
        "sched_setaffinity",
    }
    assert {one.number for one in found.newly if one.call == "mbind"} == {235}  # arm64's
    assert found.no_longer == ()
    assert found.notes[0] == "amd64 is compared with arm64, call by call by name"
    assert found.notes[1].startswith("left out, since only amd64 has them: ")
    assert ", open, " in found.notes[1]


def test_what_the_level_landlock_denies_counts() -> None:
    """An image whose runtime denied more at that level shows the difference there."""
    new = snapshot(Request())
    old = Snapshot(**{**vars(new), "landlock": (*new.landlock, "umask")})
    (change,) = compare(old, new).newly
    assert (change.call, change.level) == ("umask", "landlock")


def lines(source: random.Random, count: int) -> list[Conditions]:
    """Lines over three bits of two arguments: few enough to try every call."""
    made = []
    for _ in range(count):
        line = []
        for argument in range(2):
            mask = source.randrange(8)
            if mask:
                line.append(Condition(argument, mask, mask & source.randrange(8)))
        made.append(tuple(line))
    return made


def test_coverage_is_exact() -> None:
    """For 2,000 random pairs: a line exceeds others just where some call shows it."""
    source = random.Random(4)
    seen = set()
    for _ in range(2000):
        (line,), cover = lines(source, 1), lines(source, source.randrange(7))

        def met(one: Conditions, arguments: tuple[int, ...]) -> bool:
            return all(condition.holds(arguments) for condition in one)

        shown = any(
            met(line, arguments) and not any(met(one, arguments) for one in cover)
            for arguments in itertools.product(range(8), repeat=2)
        )
        assert exceeds(line, cover) == shown, (line, cover)
        seen.add((shown, len(cover)))
    assert {shown for shown, _ in seen} == {True, False}


def test_a_thousand_lines_are_compared_in_time() -> None:
    """Neither many lines nor a puzzle made of them holds a review up; in doubt a call is newly permitted."""
    many = [(Condition(1, 0xFFFF_FFFF, value),) for value in range(1000)]
    assert exceeds((), many)
    assert not exceeds((Condition(1, 0xFFFF_FFFF, 999),), many)
    # Three bits of 300, as often as makes it hard whether the lines leave anything.
    source = random.Random(4)
    puzzle = []
    for _ in range(1290):
        bits = [divmod(bit, 50) for bit in source.sample(range(300), 3)]
        line: dict[int, tuple[int, int]] = {}
        for argument, bit in bits:
            mask, value = line.get(argument, (0, 0))
            line[argument] = (mask | 1 << bit, value | source.randrange(2) << bit)
        puzzle.append(tuple(Condition(at, mask, value) for at, (mask, value) in sorted(line.items())))
    started = time.monotonic()
    assert exceeds((), puzzle)
    assert time.monotonic() - started < 5


def test_lines_are_told_in_the_catalogs_words() -> None:
    """A line of the catalog by its text, any other by its arguments' names and numbers."""
    text = "family == AF_INET and type & SOCK_TYPE_MASK == SOCK_STREAM and protocol == IPPROTO_TCP"
    assert phrase("socket", CATALOG.line("socket", text).conditions) == text
    assert phrase("socket", (Condition(0, 0xFFFF_FFFF, 40),)) == "family == 0x28"
    assert phrase("mlock", (Condition(1, 0xFF, 1),)) == "arg1 & 0xff == 0x1"
