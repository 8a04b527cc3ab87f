"""A policy as a text for people, and as data: what is allowed, by what, why, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from builder.arch import Arch
from builder.seccomp.catalog import Rule, load_groups
from builder.seccomp.compile import newest_number
from builder.seccomp.policy import Policy
from builder.seccomp.syscalls import number

_NAME_WIDTH = 24

_ON_DENIED = {
    "errno": "gets EPERM",
    "kill": "ends its process",
    "log": "is let through and told on stderr, but for dangerous ones",
}


def describe(policy: Policy, arch: Arch, places: Mapping[str, str] | None = None, digest: str = "") -> str:
    """The whole policy as it comes out on `arch`: what is dangerous first, then in the catalog's order.

    `places` has for each source (a group, syscalls.allow[2]) what brought it (config.yaml:7); `digest` is
    that of policy.bpf. Ends with a newline.
    """
    return "".join(f"{line}\n" for line in _lines(policy, arch, places or {}, digest))


def _lines(policy: Policy, arch: Arch, places: Mapping[str, str], digest: str) -> Iterator[str]:
    allowed = [name for name in policy.allowed() if number(name, arch) is not None]
    yield (
        f"System calls on {arch.name}: {len(allowed)} allowed, every other one {_ON_DENIED[policy.on_denied]}"
        f"{_brought(places, 'syscalls.on_denied')}"
    )
    if digest:
        yield f"policy.bpf: {digest}"
    for note in policy.notes:
        yield f"note: {note}"
    groups = load_groups()
    sources = list(dict.fromkeys(granted.source for granted in policy.allow))
    for source in sorted(sources, key=lambda source: not source.startswith("syscalls.unsafe")):
        yield ""
        if source.startswith("syscalls.unsafe"):
            heading = f"UNSAFE: {source}"
        else:
            heading = f"{source}: {groups[source].risk}" if source in groups else source
        yield heading + _brought(places, source)
        yield from _rules([granted.rule for granted in policy.allow if granted.source == source], arch)
    if taken := [*policy.denied, *(f"{call.name} by argument" for call in policy.restricted)]:
        yield ""
        yield f"syscalls.deny took out: {', '.join(taken)}{_brought(places, 'syscalls.deny')}"
    yield ""
    yield f"ENOSYS, so that the caller falls back; as for every number above {newest_number(policy, arch)}"
    yield from _rules(policy.enosys, arch)
    yield ""
    yield "The process is killed (SIGSYS); as for every call through another ABI (x32, i386, 32-bit Arm)"
    yield from _rules(policy.kill, arch)


def _brought(places: Mapping[str, str], source: str) -> str:
    return f" ({places[source]})" if source in places else ""


def _rules(rules: Sequence[Rule], arch: Arch) -> Iterator[str]:
    for rule in rules:
        found = number(rule.name, arch)
        if found is None:
            continue
        yield f"  {rule.name:<{_NAME_WIDTH}}{found:>4}  {rule.reason}"
        for index, line in enumerate(rule.when):
            yield f"  {'':<{_NAME_WIDTH + 6}}  {'when' if index == 0 else '  or'} {line.text}"


def as_data(policy: Policy, arch: Arch, places: Mapping[str, str], digest: str) -> dict[str, Any]:
    """The same for programs."""
    groups = load_groups()
    calls: dict[str, dict[str, Any]] = {
        name: {
            "name": name,
            "number": number(name, arch),
            "unsafe": name in policy.unsafe,
            "when": [line.text for line in lines],
            "from": [],
        }
        for name, lines in policy.allowed().items()
        if number(name, arch) is not None
    }
    for granted in policy.allow:
        if granted.rule.name in calls:
            calls[granted.rule.name]["from"].append(
                {
                    "source": granted.source,
                    "place": places.get(granted.source),
                    "reason": granted.rule.reason,
                    "when": [line.text for line in granted.rule.when],
                }
            )
    return {
        "arch": arch.name,
        "digest": digest,
        "on_denied": policy.on_denied,
        "newest": newest_number(policy, arch),
        "notes": [*policy.notes],
        "groups": [
            {"name": name, "risk": groups[name].risk, "place": places.get(name)} for name in policy.groups
        ],
        "allowed": sorted(calls.values(), key=lambda call: (not call["unsafe"], call["name"])),
        "denied": [*policy.denied],
        "enosys": _reasons(policy.enosys, arch),
        "kill": _reasons(policy.kill, arch),
    }


def _reasons(rules: Sequence[Rule], arch: Arch) -> dict[str, str]:
    return {rule.name: rule.reason for rule in rules if number(rule.name, arch) is not None}
