"""What one policy permits and another does not, judged by the calls, not by how it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.seccomp.catalog import Catalog, Rule, load_catalog
from builder.seccomp.conditions import ARGUMENTS, Condition
from builder.seccomp.snapshot import Conditions, Snapshot
from builder.seccomp.syscalls import number

UNSAFE, OWN = "unsafe", "no group"

RISKS = (
    # What leaves the jail, or what nobody has weighed.
    *(UNSAFE, OWN),
    # What leaves the container.
    *("network", "network_client"),
    # What outlives a run, or reaches other runs.
    *("exec", "processes", "signals"),
    # What gets round a limit, writes, or slows neighbours down.
    *("memfd", "files", "numeric"),
    # What stays in the process.
    *("async", "threads", "core"),
)
"""What a call can be permitted by, riskiest first: two of ours, and every group of the catalog."""

_SENTENCES = {
    UNSAFE: "Opened against the catalog's warning: it can end the jail itself.",
    OWN: "No group has this: the catalog has not weighed it.",
}

_MOST_WORK = 1_000_000
"""After a look at so many lines a comparison is given up, and the line counts as newly permitted.

An image's label may hold a puzzle: the question is a satisfiability problem.
"""


@dataclass(frozen=True)
class Change:
    """A call that one policy permits and the other does not, or not with these arguments."""

    call: str
    number: int | None
    group: str
    """What opens it: one of RISKS."""
    reason: str
    when: tuple[str, ...]
    """The lines that are new; none: whatever its arguments."""
    level: str = ""
    """`landlock`, where it is so at that level alone."""


@dataclass(frozen=True)
class Difference:
    """Everything in which two policies differ, riskiest first."""

    newly: tuple[Change, ...]
    no_longer: tuple[Change, ...]
    notes: tuple[str, ...]


def compare(before: Snapshot, after: Snapshot) -> Difference:
    """What `after` permits and `before` does not, and the other way round."""
    notes = []
    if before.arch != after.arch:
        notes.append(f"{before.arch.name} is compared with {after.arch.name}, call by call by name")
        for one, other in ((before, after), (after, before)):
            if alone := sorted(name for name in one.allow if number(name, other.arch) is None):
                notes.append(f"left out, since only {one.arch.name} has them: {', '.join(alone)}")
    if before.on_denied != after.on_denied:
        notes.append(f"on_denied: {before.on_denied} becomes {after.on_denied}")
    return Difference(_changes(before, after), _changes(after, before), tuple(notes))


def _changes(before: Snapshot, after: Snapshot) -> tuple[Change, ...]:
    at_chroot = [*_permitted(before, after, "")]
    known = {(one.call, one.when) for one in at_chroot}
    at_landlock = [
        one
        for one in _permitted(before.at_landlock(), after.at_landlock(), "landlock")
        if (one.call, one.when) not in known
    ]
    changes = sorted([*at_chroot, *at_landlock], key=lambda one: (one.call, one.level))
    return tuple(sorted(changes, key=lambda one: RISKS.index(one.group)))


def _permitted(before: Snapshot, after: Snapshot, level: str) -> Iterator[Change]:
    catalog = load_catalog()
    if after.on_denied == "log" and before.on_denied != "log":
        reason = "on_denied: log lets every call through that is not dangerous, and only records it"
        yield Change("every call that is denied", None, UNSAFE, reason, (), level)
    for name, lines in after.allow.items():
        if number(name, before.arch) is None:
            continue
        new = _new_lines(before.allow.get(name), lines)
        if new is None:
            continue
        by_group: dict[str, list[Conditions]] = {}
        for line in new or [()]:
            by_group.setdefault(_group(name, line, after, catalog), []).append(line)
        for group, its in by_group.items():
            when = tuple(phrase(name, line) for line in its) if new else ()
            yield Change(name, number(name, after.arch), group, _reason(name, group, catalog), when, level)


def _new_lines(before: Sequence[Conditions] | None, after: Sequence[Conditions]) -> list[Conditions] | None:
    """The lines of `after` that allow what no line of `before` does; None where there are none.

    Empty where `after` has no lines: it allows the call whatever its arguments.
    """
    if before is None:
        return [*after]
    if not before:
        return None
    if not after:
        return [] if exceeds((), before) else None
    return [line for line in after if exceeds(line, before)] or None


def exceeds(line: Conditions, cover: Sequence[Conditions]) -> bool:
    """Whether some arguments meet `line` and none of the lines in `cover`."""
    return _escapes(*_bits(line), [_bits(one) for one in cover], [_MOST_WORK])


def _bits(line: Conditions) -> tuple[int, int]:
    """The six arguments as one number: which bits `line` looks at, and what it wants them to be."""
    mask = value = 0
    for one in line:
        mask |= one.mask << (64 * one.argument)
        value |= one.value << (64 * one.argument)
    return mask, value


def _escapes(mask: int, value: int, cover: Sequence[tuple[int, int]], left: list[int]) -> bool:
    left[0] -= len(cover)
    if left[0] < 0:
        return True
    near = [(its, wanted) for its, wanted in cover if not (value ^ wanted) & mask & its]
    if not near:
        return True
    open_bits = [its & ~mask for its, _ in near]
    if not all(open_bits):
        return False  # one of them asks for nothing more
    # Split at a bit that one of them looks at: on one side that one is out of the way.
    bit = open_bits[0] & -open_bits[0]
    wanted = near[0][1] & bit
    return any(_escapes(mask | bit, value | half, near, left) for half in (bit ^ wanted, wanted))


def _group(name: str, line: Conditions, policy: Snapshot, catalog: Catalog) -> str:
    """What has to be open for `name` with these arguments: one of RISKS, the least risky that does."""
    if name in policy.unsafe or catalog.danger(name):
        return UNSAFE
    having = [
        group.name
        for group in catalog.groups.values()
        if (rules := [rule for rule in group.rules if rule.name == name])
        and not exceeds(line, [one for rule in rules for one in _covered(rule)])
    ]
    in_force = [group for group in having if group in policy.groups]
    return max(in_force or having, key=RISKS.index, default=OWN)


def _covered(rule: Rule) -> list[Conditions]:
    return [line.conditions for line in rule.when] or [()]


def _reason(name: str, group: str, catalog: Catalog) -> str:
    if group == UNSAFE:
        return catalog.danger(name) or ""
    rules = catalog.groups[group].rules if group in catalog.groups else ()
    return next((rule.reason for rule in rules if rule.name == name), "")


def risk(group: str) -> str:
    """The sentence of risk of one of RISKS."""
    return _SENTENCES.get(group) or load_catalog().groups[group].risk


def phrase(name: str, line: Conditions) -> str:
    """The line in the catalog's words; in numbers where the catalog does not have it."""
    catalog = load_catalog()
    for rule in catalog.rules_for(name):
        for one in rule.when:
            if one.conditions == line:
                return one.text
    arguments = (*catalog.arguments.get(name, ()), *ARGUMENTS[len(catalog.arguments.get(name, ())) :])
    return " and ".join(_term(one, arguments[one.argument]) for one in line)


def _term(one: Condition, argument: str) -> str:
    mask = "" if one.mask == 0xFFFF_FFFF else f" & {one.mask:#x}"
    return f"{argument}{mask} == {one.value:#x}"
