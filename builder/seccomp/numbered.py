"""dify-sandbox's allowed_syscalls: numbers and names that open calls besides the policy's own."""

from __future__ import annotations

from collections.abc import Sequence

from builder.arch import ARCHES
from builder.seccomp.grants import Granted, Grants, Scope, lines_by_name
from builder.seccomp.request import network_only, shut_by_list
from builder.seccomp.syscalls import table

# Each kind of member, in the order of the notes, and what there is to say of it.
_KINDS = {
    "added": "adds to the policy: {names} (numbers of {numbers})",
    "elsewhere": "{arch} has no {names}; allowed in its place: {here}",
    "nowhere": "{arch} has no {names}, and nothing in its place",
    "unknown": "{numbers} has no call with the number {names}",
    "dangerous": "left closed as dangerous: {names}; to open one: syscalls: {{unsafe: [{first}]}}",
    "network": "left closed while the network is off: {names}; to open it: enable_network: true",
    "listed": "left closed, since network.allow leaves nothing but connections to what it lists: {names}",
    "denied": "left closed by syscalls.deny: {names}",
}


def numbered(scope: Scope, before: Sequence[Granted]) -> Grants:
    """What allowed_syscalls opens, and a note for each kind of what it adds to `before` and does not add."""
    granted: list[Granted] = []
    kinds: dict[str, list[str]] = {}
    for index, member in enumerate(scope.request.numbers):
        kind, name = _kind(scope, member)
        kinds.setdefault(kind, []).append(name)
        if kind in ("added", "elsewhere"):
            here = scope.here(name) or name
            granted += [Granted(f"allowed_syscalls[{index}]", rule) for rule in scope.rules(here)]
    already, now = lines_by_name(before), lines_by_name([*before, *granted])
    opened = dict.fromkeys(one.rule.name for one in granted)
    kinds["added"] = [name for name in opened if now[name] != already.get(name)]
    notes = []
    for kind, sentence in _KINDS.items():
        if names := list(dict.fromkeys(kinds.get(kind, []))):
            text = sentence.format(
                names=", ".join(names),
                first=names[0],
                here=", ".join(dict.fromkeys(scope.here(name) or name for name in names)),
                arch=scope.arch.name,
                numbers=scope.request.numbers_arch,
            )
            notes.append(f"allowed_syscalls: {text}")
    return granted, notes


def _kind(scope: Scope, member: int | str) -> tuple[str, str]:
    """What becomes of one member, and its name."""
    name = table(ARCHES[scope.request.numbers_arch]).get(member) if isinstance(member, int) else member
    if name is None:
        return "unknown", str(member)
    here = scope.here(name)
    if here is None:
        kind = "nowhere"
    elif scope.catalog.danger(name):
        kind = "opened by unsafe" if name in scope.request.unsafe else "dangerous"
    elif here in network_only(scope.catalog) and not scope.request.network:
        kind = "network"
    elif here in shut_by_list(scope.catalog) and scope.request.listed:
        kind = "listed"
    elif {name, here} & scope.shut:
        kind = "denied"
    else:
        kind = "added" if here == name else "elsewhere"
    return kind, name
