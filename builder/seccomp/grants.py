"""What each list of a config opens and closes on one architecture, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from builder.arch import Arch
from builder.seccomp.catalog import Catalog, Line, Rule
from builder.seccomp.conditions import without
from builder.seccomp.request import CLIENT_GROUP, NETWORK_GROUP, Call, Problem, Request
from builder.seccomp.syscalls import number

MAX_PIECES = 256
"""Lines that syscalls.deny may add to one rule: beyond, the filter would be all about that call."""

_NAMED = "named in the config"
_EVERY = Line("", ())


@dataclass(frozen=True)
class Granted:
    """One call that one source allows; several may allow the same call, each with its own conditions."""

    source: str
    """A group's name, or a place: syscalls.allow[2], syscalls.unsafe[0], allowed_syscalls[17]."""
    rule: Rule


Grants = tuple[list[Granted], list[str]]
"""(what is opened, notes)."""


@dataclass(frozen=True)
class Scope:
    """A request on one architecture."""

    request: Request
    arch: Arch
    catalog: Catalog

    @property
    def shut(self) -> frozenset[str]:
        """The calls that syscalls.deny takes out whatever their arguments."""
        return frozenset(call.name for call in self.request.deny if not call.lines)

    def has(self, name: str) -> bool:
        """Whether the architecture has the call."""
        return number(name, self.arch) is not None

    def here(self, name: str) -> str | None:
        """The call that does on this architecture what `name` does; None where there is none."""
        return name if self.has(name) else self.catalog.counterparts.get(name)

    def rules(self, name: str) -> tuple[Rule, ...]:
        """What naming the call opens: what all groups together do, the network's only where it is on."""
        opening = (NETWORK_GROUP, CLIENT_GROUP)
        groups = [group for group in self.catalog.groups.values() if group.name not in opening]
        if self.request.network:
            groups.append(self.catalog.groups[self.request.network_group])
        rules = tuple(rule for group in groups for rule in group.rules if rule.name == name)
        return rules or (Rule(name, _NAMED),)


def lines_by_name(granted: Iterable[Granted]) -> dict[str, tuple[Line, ...]]:
    """The calls of `granted`, sorted, with the lines of all rules together; none where one rule has none."""
    rules: dict[str, list[Rule]] = {}
    for one in granted:
        rules.setdefault(one.rule.name, []).append(one.rule)
    return {name: _united(rules[name]) for name in sorted(rules)}


def grouped(scope: Scope) -> Grants:
    """What the groups in force open."""
    groups = [scope.catalog.groups[name] for name in scope.request.groups_in_force(scope.catalog)]
    notes = []
    if scope.request.replace:
        default = ", ".join(scope.catalog.default)
        notes.append(
            f"syscalls.replace: the default groups ({default}) are left out unless groups names them"
        )
    return [Granted(group.name, rule) for group in groups for rule in group.rules], notes


def allowed(scope: Scope) -> Grants:
    """What syscalls.allow opens."""
    granted, notes = [], []
    for index, call in enumerate(scope.request.allow):
        source = f"syscalls.allow[{index}]"
        lacks = f"{source}: {scope.arch.name} has no {call.name}"
        name, lines = scope.here(call.name), call.lines
        if name is None:
            notes.append(f"{lacks}, and nothing in its place")
            continue
        if name != call.name:
            lines = tuple(_carried(lines, call.name, name, scope.catalog))
            if len(lines) < len(call.lines):
                notes.append(
                    f"{lacks}, and its conditions do not fit {name}: allow that with some of its own"
                )
                continue
            notes.append(f"{lacks}: {name} is allowed in its place")
            if name in scope.shut:  # else an error, as a call in both lists is
                notes.append(f"{source}: {name} stays closed, because syscalls.deny names it")
        rules = (Rule(name, _NAMED, lines),) if lines else scope.rules(name)
        granted += [Granted(source, rule) for rule in rules]
    return granted, notes


def opened_all_the_same(scope: Scope) -> Grants:
    """What syscalls.unsafe opens."""
    granted, notes = [], []
    for index, name in enumerate(scope.request.unsafe):
        source = f"syscalls.unsafe[{index}]"
        if scope.has(name):
            reason = scope.catalog.danger(name) or ""
            notes.append(f"{source}: {name} is open, which is dangerous: {reason}")
            granted.append(Granted(source, Rule(name, reason)))
        else:
            notes.append(f"{source}: {scope.arch.name} has no {name}")
    return granted, notes


def less_denied(scope: Scope, granted: Sequence[Granted]) -> tuple[list[Granted], list[str], list[Problem]]:
    """`granted` without what syscalls.deny takes out, whole or by argument; notes, and what is too much."""
    left = [one for one in granted if one.rule.name not in scope.shut]
    notes: list[str] = []
    problems: list[Problem] = []
    for index, call in enumerate(scope.request.deny):
        if not scope.has(call.name):
            notes.append(_not_denied(scope, index, call.name))
        elif call.lines:
            names = scope.catalog.arguments.get(call.name, ())
            try:
                left = [less for one in left for less in _less(one, call, names)]
            except OverflowError:
                what = f"more than {MAX_PIECES} conditions would be needed to say what this leaves"
                hint = f'deny fewer arguments of "{call.name}", or the whole call'
                problems.append((("syscalls", "deny", index), what, hint))
    return left, notes, problems


def _united(rules: Sequence[Rule]) -> tuple[Line, ...]:
    if not all(rule.when for rule in rules):
        return ()
    lines: dict[object, Line] = {}
    for rule in rules:
        for line in rule.when:
            lines.setdefault(line.conditions, line)
    return tuple(lines.values())


def _carried(lines: Iterable[Line], name: str, other: str, catalog: Catalog) -> Iterator[Line]:
    """The lines of the call `name` for `other`, by the names of arguments; less those that do not fit."""
    mine, theirs = catalog.arguments.get(name, ()), catalog.arguments.get(other, ())
    for line in lines:
        used = [mine[one.argument] if one.argument < len(mine) else None for one in line.conditions]
        places = [theirs.index(word) for word in used if word in theirs]
        if len(places) == len(used):
            moved = [replace(one, argument=at) for one, at in zip(line.conditions, places, strict=True)]
            yield Line(line.text, tuple(sorted(moved, key=lambda one: one.argument)))


def _less(granted: Granted, call: Call, names: Sequence[str]) -> Iterator[Granted]:
    """`granted` without the arguments that `call` takes out; OverflowError where that is too long to say."""
    if granted.rule.name != call.name:
        yield granted
        return
    lines = granted.rule.when or (_EVERY,)
    most = len(lines) + MAX_PIECES
    for taken in call.lines:
        lines = tuple(piece for line in lines for piece in without(line, taken, names))
        if len(lines) > most:
            raise OverflowError
    if lines:
        yield replace(granted, rule=replace(granted.rule, when=lines))


def _not_denied(scope: Scope, index: int, name: str) -> str:
    note = f"syscalls.deny[{index}]: {scope.arch.name} has no {name}"
    other = scope.catalog.counterparts.get(name)
    return f"{note}; {other}, which does its work there, is another call" if other else note
