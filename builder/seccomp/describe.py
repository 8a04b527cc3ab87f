"""A policy as a text for people: what is allowed, by what, why, and when."""

from __future__ import annotations

from collections.abc import Iterator

from builder.arch import Arch
from builder.seccomp.catalog import Rule, load_groups
from builder.seccomp.compile import newest_number
from builder.seccomp.policy import Policy
from builder.seccomp.syscalls import number

_NAME_WIDTH = 24


def describe(policy: Policy, arch: Arch) -> str:
    """The whole policy as it comes out on `arch`, in the catalog's order, ending with a newline."""
    return "".join(f"{line}\n" for line in _lines(policy, arch))


def _lines(policy: Policy, arch: Arch) -> Iterator[str]:
    allowed = [name for name in policy.allowed() if number(name, arch) is not None]
    yield f"System calls on {arch.name}: {len(allowed)} allowed, every other one gets EPERM"
    groups = load_groups()
    for source in dict.fromkeys(granted.source for granted in policy.allow):
        yield ""
        yield f"{source}: {groups[source].risk if source in groups else 'named in the config'}"
        yield from _rules([granted.rule for granted in policy.allow if granted.source == source], arch)
    if policy.denied:
        yield ""
        yield f"syscalls.deny took out: {', '.join(policy.denied)}"
    yield ""
    yield f"ENOSYS, so that the caller falls back; as for every number above {newest_number(policy, arch)}"
    yield from _rules(policy.enosys, arch)
    yield ""
    yield "The process is killed (SIGSYS); as for every call through another ABI (x32, i386, 32-bit Arm)"
    yield from _rules(policy.kill, arch)


def _rules(rules: list[Rule] | tuple[Rule, ...], arch: Arch) -> Iterator[str]:
    for rule in rules:
        if number(rule.name, arch) is None:
            continue
        yield f"  {rule.name:<{_NAME_WIDTH}}{rule.reason}"
        for index, line in enumerate(rule.when):
            yield f"  {'':<{_NAME_WIDTH}}  {'when' if index == 0 else '  or'} {line.text}"
