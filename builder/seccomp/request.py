"""What a config asks of the policy, and every mistake in it, each with its place in config.yaml."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from builder.config_yaml import Location, dotted
from builder.errors import ConfigError
from builder.seccomp.catalog import Catalog, Line, load_catalog
from builder.seccomp.conditions import ConditionError, close_to, covers, meet, quoted
from builder.seccomp.syscalls import known_names

NETWORK_GROUP = "network"
"""The group that enable_network opens, and nothing else does."""

CLIENT_GROUP = "network_client"
"""What it opens in its place beside network.allow: the use of connections, and no way to make one."""

MAX_LINES = 1000
"""Conditions that one `when` may have."""

OnDenied = Literal["errno", "kill", "log"]
Problem = tuple[Location, str, str | None]
"""(where in config.yaml, what is wrong, hint)."""


@dataclass(frozen=True)
class Call:
    """One entry of syscalls.allow or syscalls.deny."""

    name: str
    lines: tuple[Line, ...] = ()
    """Any one of these must hold; none means whatever the arguments."""


@dataclass(frozen=True)
class Request:
    """What a config asks, as it stands there: nothing is checked, resolved or added yet."""

    groups: tuple[str, ...] = ()
    """Besides the default ones, or with `replace` in their place."""
    allow: tuple[Call, ...] = ()
    deny: tuple[Call, ...] = ()
    unsafe: tuple[str, ...] = ()
    replace: bool = False
    network: bool = False
    """enable_network."""
    listed: bool = False
    """Whether network.allow says where a run may connect to."""
    on_denied: OnDenied = "errno"
    numbers: tuple[int | str, ...] = ()
    """dify-sandbox's allowed_syscalls: numbers and names."""
    numbers_arch: str = "amd64"
    """The architecture whose numbers they are."""

    def groups_in_force(self, catalog: Catalog) -> tuple[str, ...]:
        """The groups in force, in the catalog's order."""
        names = {*self.groups, *(() if self.replace else catalog.default)}
        return tuple(
            name for name in catalog.groups if name in names or (self.network and name == self.network_group)
        )

    @property
    def network_group(self) -> str:
        """The group that opens the network, where it is on."""
        return CLIENT_GROUP if self.listed else NETWORK_GROUP


class Asked(Protocol):
    """The section `syscalls` of a config."""

    @property
    def groups(self) -> tuple[str, ...]: ...
    @property
    def allow(self) -> Sequence[str | Mapping[str, Any]]: ...
    @property
    def deny(self) -> Sequence[str | Mapping[str, Any]]: ...
    @property
    def unsafe(self) -> tuple[str, ...]: ...
    @property
    def replace(self) -> bool: ...
    @property
    def on_denied(self) -> OnDenied: ...


def read_request(
    syscalls: Asked,
    *,
    network: bool,
    listed: bool = False,
    numbers: tuple[int | str, ...],
    numbers_arch: str,
) -> tuple[Request, list[Problem]]:
    """The request that a config makes, and everything that is wrong with it."""
    catalog = load_catalog()
    reader = _Reader(catalog)
    request = Request(
        groups=syscalls.groups,
        allow=reader.calls("allow", syscalls.allow),
        deny=reader.calls("deny", syscalls.deny),
        unsafe=syscalls.unsafe,
        replace=syscalls.replace,
        network=network,
        listed=listed,
        on_denied=syscalls.on_denied,
        numbers=numbers,
        numbers_arch=numbers_arch,
    )
    return request, [*request_problems(request), *reader.problems]


@dataclass
class _Reader:
    """Conditions out of their texts; what is none becomes a problem, and its call is left out."""

    catalog: Catalog
    problems: list[Problem] = field(default_factory=list)

    def calls(self, key: str, entries: Sequence[str | Mapping[str, Any]]) -> tuple[Call, ...]:
        return tuple(self._call(("syscalls", key, index), entry) for index, entry in enumerate(entries))

    def _call(self, where: Location, entry: str | Mapping[str, Any]) -> Call:
        if isinstance(entry, str):
            return Call(entry)
        ((name, spec),) = entry.items()
        if len(spec["when"]) > MAX_LINES:
            what = f"{len(spec['when'])} conditions, and at most {MAX_LINES} are taken"
            self.problems.append(
                ((*where, name, "when"), what, "compare fewer bits: one mask covers many values")
            )
            return Call(name)
        lines = []
        for index, text in enumerate(spec["when"]):
            try:
                lines.append(self.catalog.line(name, text))
            except ConditionError as error:
                if name in known_names():  # else that is what is wrong
                    self.problems.append(((*where, name, "when", index), str(error), error.hint))
        return Call(name, tuple(lines))


def refusal(problems: Iterable[Problem]) -> ConfigError:
    """The error that tells all of `problems`."""
    return ConfigError([(f"{dotted(where)}: {what}", hint) for where, what, hint in problems])


def request_problems(request: Request) -> list[Problem]:
    """Everything that effective_policy refuses on every architecture."""
    catalog = load_catalog()
    found: list[Problem] = []
    for problems in (_groups, _unknown, _allowed, _denied, _unsafe, _let_through, _nothing):
        found += problems(request, catalog)
    return found


def request_repeats(request: Request) -> list[tuple[Location, str]]:
    """What stands twice and does no harm: (where, sentence), one for each list entry."""
    found: list[tuple[Location, str]] = []
    lists: list[tuple[str, Sequence[str | Call]]] = [
        ("groups", request.groups),
        ("allow", request.allow),
        ("deny", request.deny),
        ("unsafe", request.unsafe),
    ]
    for key, entries in lists:
        first: dict[object, int] = {}
        for index, entry in enumerate(entries):
            plain = (entry.name, _meaning(entry)) if isinstance(entry, Call) else entry
            if plain in first:
                name = entry.name if isinstance(entry, Call) else entry
                where = f"syscalls.{key}[{first[plain]}]"
                found.append((("syscalls", key, index), f"{quoted(name)} is {where} already"))
            first.setdefault(plain, index)
    twice = sorted({str(one) for one in request.numbers if request.numbers.count(one) > 1})
    if twice:
        found.append((("allowed_syscalls",), f"named more than once: {', '.join(twice)}"))
    return found


def network_only(catalog: Catalog) -> frozenset[str]:
    """The calls that no group but the network's has."""
    groups = catalog.groups.values()
    opening = (NETWORK_GROUP, CLIENT_GROUP)
    others = {rule.name for group in groups if group.name not in opening for rule in group.rules}
    return frozenset(rule.name for rule in catalog.groups[NETWORK_GROUP].rules) - others


def shut_by_list(catalog: Catalog) -> frozenset[str]:
    """The calls of the network that network.allow leaves shut."""
    return network_only(catalog) - {rule.name for rule in catalog.groups[CLIENT_GROUP].rules}


def _meaning(call: Call) -> frozenset[object]:
    return frozenset(line.conditions for line in call.lines)


def _groups(request: Request, catalog: Catalog) -> Iterator[Problem]:
    for index, name in enumerate(request.groups):
        where = ("syscalls", "groups", index)
        if name not in catalog.groups:
            hint = close_to(name, catalog.groups) or f"the groups are {', '.join(catalog.groups)}"
            yield where, f"no group named {quoted(name)}", hint
        elif name in (NETWORK_GROUP, CLIENT_GROUP) and not request.network:
            yield where, "the network is off, and this group would open it", _NETWORK_HINT
        elif name == NETWORK_GROUP and request.listed:
            yield where, f"{_LISTED}, and this group would open more", _LISTED_HINT


_NETWORK_HINT = "enable_network: true opens the network; or take this out"
_LISTED = "network.allow leaves nothing but connections to what it lists"
_LISTED_HINT = "network: {allow: []} opens the whole network; or take this out"


def _unknown(request: Request, _: Catalog) -> Iterator[Problem]:
    lists: list[tuple[Location, Sequence[int | str]]] = [
        (("syscalls", "allow"), [call.name for call in request.allow]),
        (("syscalls", "deny"), [call.name for call in request.deny]),
        (("syscalls", "unsafe"), request.unsafe),
        (("allowed_syscalls",), request.numbers),
    ]
    for place, names in lists:
        for index, name in enumerate(names):
            if isinstance(name, str) and name not in known_names():
                hint = close_to(name, known_names())
                if name.lstrip("-").isdecimal():
                    hint = "give the name of the call: its number is another one on each architecture"
                yield (*place, index), f"no system call named {quoted(name)} on amd64 or arm64", hint


def _allowed(request: Request, catalog: Catalog) -> Iterator[Problem]:
    guards = {rule.name: rule for rule in catalog.guarded}
    for index, call in enumerate(request.allow):
        where: Location = ("syscalls", "allow", index)
        if danger := catalog.danger(call.name):
            hint = f"it is dangerous: {danger}. If the code must have it: syscalls: {{unsafe: [{call.name}]}}"
            yield where, f'"{call.name}" cannot be allowed', hint
        elif not call.lines and not request.network and call.name in network_only(catalog):
            yield where, f'the network is off, and "{call.name}" would open it', _NETWORK_HINT
        elif request.network and request.listed and call.name in shut_by_list(catalog):
            # With conditions, too: AF_UNIX would be connected by what answers connect(2) for TCP.
            yield where, f'{_LISTED}, and "{call.name}" would open more', _LISTED_HINT
        for number, line in enumerate(call.lines):
            there = (*where, call.name, "when", number)
            if call.name == "socket" and not request.network and not _local(line, catalog):
                hint = f"start with `family == AF_UNIX and ...`; {_NETWORK_HINT}"
                yield there, "the network is off, and this would open it", hint
            guard = guards.get(call.name)
            shut = next((shut for shut in guard.when if meet(shut, line)), None) if guard else None
            if guard and shut:
                name = catalog.arguments[call.name][shut.conditions[0].argument]
                hint = (
                    f"{guard.reason}: add to the condition what `{name}` must be, so that it leaves this out"
                )
                yield there, f"this would open {call.name} with {shut.text}", hint


def _local(line: Line, catalog: Catalog) -> bool:
    """Whether a line of `socket` holds for AF_UNIX alone."""
    return covers(catalog.line("socket", "arg0 == AF_UNIX"), line)


def _denied(request: Request, _: Catalog) -> Iterator[Problem]:
    for index, call in enumerate(request.deny):
        for other, allowed in enumerate(request.allow):
            if allowed.name != call.name:
                continue
            source = f"syscalls.allow[{other}]"
            if not call.lines:
                hint = "take it out of one of the two"
                yield ("syscalls", "deny", index), f'"{call.name}" is in {source} too', hint
            for number, line in enumerate(call.lines):
                if any(covers(line, one) for one in allowed.lines):
                    where = ("syscalls", "deny", index, call.name, "when", number)
                    hint = "take the condition out of one of the two"
                    yield where, f"{source} allows just that", hint
        if not call.lines and call.name in request.unsafe:
            source = f"syscalls.unsafe[{request.unsafe.index(call.name)}]"
            yield (
                ("syscalls", "deny", index),
                f'"{call.name}" is in {source} too',
                "take it out of one of the two",
            )


def _unsafe(request: Request, catalog: Catalog) -> Iterator[Problem]:
    for index, name in enumerate(request.unsafe):
        if name in known_names() and not catalog.danger(name):
            hint = f"syscalls: {{allow: [{name}]}} is enough"
            yield ("syscalls", "unsafe", index), f'"{name}" is not dangerous', hint


def _let_through(request: Request, _: Catalog) -> Iterator[Problem]:
    if request.network and request.listed and request.on_denied == "log":
        hint = "errno or kill; or network: {allow: []}"
        yield ("syscalls", "on_denied"), f"{_LISTED}, and log lets every connection through", hint


def _nothing(request: Request, _: Catalog) -> Iterator[Problem]:
    if request.replace and not (request.groups or request.allow or request.numbers):
        hint = "name groups to have in place of the default ones, such as groups: [core]"
        yield ("syscalls", "replace"), "this leaves nothing that the code may do, not even end", hint
