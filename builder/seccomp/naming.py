"""calls.json: what a run's supervisor says of a denied call: its name, and the config line that allows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from builder.arch import Arch
from builder.seccomp.catalog import Catalog, Line, load_catalog
from builder.seccomp.compile import newest_number
from builder.seccomp.policy import Policy
from builder.seccomp.request import CLIENT_GROUP, NETWORK_GROUP
from builder.seccomp.syscalls import known_names, number

_INT_BITS = 0xFFFF_FFFF

_OPEN = "enable_network: true"
_UNLISTED = "network: {allow: []}"
"""What opens the network where it is off, and where network.allow leaves a part of it open."""


def calls(policy: Policy, arch: Arch) -> dict[str, Any]:
    """Every call of `arch` that `policy` denies with some arguments at least, by its number as text.

    Each has its `name`, and the `ways` to allow it: [text, lines], the first whose lines hold for the call's
    arguments is the one to name (lines: lists of [argument, mask, value], of which one must hold; none:
    always). What `kept` has, of the same form, comes before them: nothing lets it through, not even a trace.
    A call for which one of the lines `probes` holds is denied without a word. `danger` is why no program in a
    sandbox should make it. `arguments`, [index, name], are those of which a `when` line can be made that
    allows this call alone where no way does; `before` goes before it.
    """
    catalog = load_catalog()
    allowed = policy.allowed()
    # Nobody is asked about these, nor about calls that are newer than the policy.
    elsewhere = {rule.name for rule in (*policy.enosys, *policy.kill)}
    newest = newest_number(policy, arch)
    return {
        str(found): _call(name, policy, catalog)
        for name in sorted(known_names() - elsewhere)
        if (found := number(name, arch)) is not None
        and found <= newest
        and (name in catalog.landlock or name not in allowed or allowed[name])
    }


def _call(name: str, policy: Policy, catalog: Catalog) -> dict[str, Any]:
    if danger := catalog.danger(name):
        return {"name": name, "danger": danger, "ways": [[f"syscalls: {{unsafe: [{name}]}}", []]]}
    ways = [[text, _plain(lines)] for text, lines in _ways(name, policy, catalog)]
    call: dict[str, Any] = {"name": name, "ways": ways}
    if probes := [_plain(rule.when) for rule in catalog.probes if rule.name == name]:
        call["probes"] = [line for lines in probes for line in lines]
    if kept := [[text, _plain(lines)] for text, lines in _kept(name, policy, catalog)]:
        call["kept"] = kept
    if arguments := _arguments(name, catalog):
        call["arguments"] = arguments
        if name == "socket" and NETWORK_GROUP not in policy.groups:
            call["before"] = f"{_opening(policy)} and "
    elif not any(lines == [] for _, lines in ways):
        ways.append([f"syscalls: {{allow: [{name}]}}", []])
    return call


def _ways(name: str, policy: Policy, catalog: Catalog) -> Iterator[tuple[str, tuple[Line, ...]]]:
    """What would allow `name`, or some calls of it, least first."""
    if name in policy.denied:
        yield "take it out of syscalls.deny", ()
    for call in policy.restricted:
        if call.name == name:
            for taken in call.lines:
                yield f'take "{taken.text}" out of syscalls.deny', (taken,)
    groups = [group for group in catalog.groups.values() if group.name not in (*policy.groups, CLIENT_GROUP)]
    for group in sorted(groups, key=lambda group: len(group.rules)):
        line = f"syscalls: {{groups: [{group.name}]}}"
        if group.name == NETWORK_GROUP:
            line = _opening(policy)
        for rule in group.rules:
            if rule.name == name:
                yield line, rule.when
    # The one family that the network is not needed for, and that is not to be had beside network.allow.
    if name == "socket" and CLIENT_GROUP not in policy.groups:
        local = "family == AF_UNIX"
        yield f'syscalls: {{allow: [{{socket: {{when: ["{local}"]}}}}]}}', (catalog.line(name, local),)


def _opening(policy: Policy) -> str:
    return _UNLISTED if CLIENT_GROUP in policy.groups else _OPEN


def _kept(name: str, policy: Policy, catalog: Catalog) -> Iterator[tuple[str, tuple[Line, ...]]]:
    """What no line of `syscalls` opens, and why."""
    for rule in catalog.guarded:
        if rule.name == name:
            yield f"nothing allows it: {rule.reason}", rule.when
    if name in catalog.landlock and name in (allowed := policy.allowed()):
        text = "nothing allows it at level landlock, whose rules it passes by: jail: {level: chroot}"
        yield text, allowed[name]


def _arguments(name: str, catalog: Catalog) -> list[list[Any]]:
    """[index, name] of each argument by which the catalog tells calls of `name` apart.

    But for those of which it wants all 64 bits: pointers, which are others in each run.
    """
    lines = [line for rule in catalog.rules_for(name) for line in rule.when]
    conditions = [condition for line in lines for condition in line.conditions]
    found = sorted({condition.argument for condition in conditions if condition.mask <= _INT_BITS})
    return [[index, catalog.arguments[name][index]] for index in found]


def _plain(lines: tuple[Line, ...]) -> list[list[list[int]]]:
    return [[[one.argument, one.mask, one.value] for one in line.conditions] for line in lines]
