"""What a config asks comes to one policy for one architecture; every mistake is told at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from builder.arch import ARCHES, Arch
from builder.seccomp import grants
from builder.seccomp.catalog import Line, Rule, load_catalog
from builder.seccomp.grants import Granted, Scope, lines_by_name
from builder.seccomp.numbered import numbered
from builder.seccomp.request import Call, OnDenied, Problem, Request, refusal, request_problems

__all__ = ["Call", "Granted", "Policy", "Request", "effective_policy", "for_landlock", "policy_problems"]


@dataclass(frozen=True)
class Policy:
    """What each call is answered with on one architecture. A call that stands nowhere here is denied."""

    groups: tuple[str, ...]
    """The groups in force, in the catalog's order."""
    allow: tuple[Granted, ...]
    denied: tuple[str, ...]
    """What syscalls.deny took out again, whatever the arguments."""
    enosys: tuple[Rule, ...]
    kill: tuple[Rule, ...]
    on_denied: OnDenied = "errno"
    """What a denied call comes to: EPERM, the end of the process, or a line on stderr and no more."""
    unsafe: tuple[str, ...] = ()
    """Dangerous calls that are open."""
    restricted: tuple[Call, ...] = ()
    """What syscalls.deny took out by argument: `allow` has what is left."""
    notes: tuple[str, ...] = ()
    """What whoever builds has to know: one sentence each."""

    def allowed(self) -> dict[str, tuple[Line, ...]]:
        """Each allowed call by name, sorted; the lines of which one must hold, none where it always is."""
        return lines_by_name(self.allow)


def effective_policy(request: Request, arch: Arch) -> Policy:
    """The policy that `request` comes to on `arch`.

    A name in `allow` opens what all groups together would open of that call, with their conditions: so
    `socket` is TCP and UDP, and `clone` never a new namespace. One that no group has is opened whole.
    ConfigError, with every problem, for what cannot be; ToolMissing without libseccomp, whose tables say
    which calls there are.
    """
    problems = request_problems(request)
    if not problems:
        policy, problems = _policy(request, arch)
    if problems:
        raise refusal(problems)
    return policy


def policy_problems(request: Request) -> list[Problem]:
    """Everything that effective_policy refuses."""
    # amd64 has every call that arm64 has.
    return request_problems(request) or _policy(request, ARCHES["amd64"])[1]


def for_landlock(policy: Policy) -> Policy:
    """`policy` for a run that only Landlock confines: less the calls that it does not govern."""
    passed_by = load_catalog().landlock
    return replace(
        policy,
        allow=tuple(one for one in policy.allow if one.rule.name not in passed_by),
        denied=tuple(sorted({*policy.denied, *passed_by})),
    )


def _policy(request: Request, arch: Arch) -> tuple[Policy, list[Problem]]:
    catalog = load_catalog()
    scope = Scope(request, arch, catalog)
    asked: list[Granted] = []
    notes: list[str] = []
    for source in (grants.grouped, grants.allowed, grants.opened_all_the_same):
        granted, said = source(scope)
        asked += granted
        notes += said
    granted, said = numbered(scope, asked)
    left, unsaid, problems = grants.less_denied(scope, [*asked, *granted])
    if request.on_denied == "log":
        unsaid.append("syscalls.on_denied: log lets denied calls through, all but the dangerous ones")
    opened = {one.rule.name for one in left}
    policy = Policy(
        groups=request.groups_in_force(catalog),
        allow=tuple(left),
        denied=tuple(sorted(scope.shut | {call.name for call in request.deny} - opened)),
        enosys=tuple(rule for rule in catalog.enosys if rule.name not in opened),
        kill=tuple(rule for rule in catalog.kill if rule.name not in opened),
        on_denied=request.on_denied,
        unsafe=tuple(sorted(opened & set(request.unsafe))),
        restricted=tuple(call for call in request.deny if call.lines and call.name in opened),
        notes=(*notes, *said, *unsaid),
    )
    return policy, problems
